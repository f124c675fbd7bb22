//! One connection of a load: what is queued on it, what is sent, and what is awaited.
//!
//! A connection is a TCP stream, with TLS or without, or a connected UDP socket; on the latter, a
//! request is a datagram.
//!
//! Owned by the engine in `load`, which decides when a request may start. All requests are the same
//! bytes, so what is to be sent is a position in them and a length.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use mio::event::Source;
use mio::net::{TcpStream, UdpSocket};

use crate::exchange::Exchange;
use crate::tls::TlsStream;

/// What carries the bytes.
pub(crate) enum Wire {
    Stream(TcpStream),
    Tls(Box<TlsStream>),
    Datagrams(UdpSocket),
}

impl Wire {
    /// Starts to connect a stream.
    pub(crate) fn stream(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self::Stream(stream))
    }

    /// Connects a datagram socket.
    pub(crate) fn datagrams(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        socket.connect(address)?;
        Ok(Self::Datagrams(socket))
    }

    /// What is registered for events.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Stream(stream) => stream,
            Self::Tls(stream) => &mut stream.socket,
            Self::Datagrams(socket) => socket,
        }
    }

    /// Receives what has come, or one datagram of it.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.receive(buffer),
            Self::Datagrams(socket) => socket.recv(buffer),
        }
    }

    /// True if nothing else has come than the last receipt, which filled less than the buffer if
    /// `is_short`.
    pub(crate) fn is_drained(&mut self, is_short: bool) -> bool {
        match self {
            Self::Stream(_) => is_short,
            Self::Tls(stream) => stream.take_drained(),
            Self::Datagrams(_) => false,
        }
    }

    /// Tells the peer that nothing more is sent, if there is a way.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.close(),
            Self::Stream(_) | Self::Datagrams(_) => Ok(()),
        }
    }
}

/// One connection with its requests in flight.
pub(crate) struct Connection<E> {
    pub(crate) wire: Wire,
    pub(crate) exchange: E,
    /// The request repeated so often that all that can be queued is one slice of it.
    outbound: Vec<u8>,
    /// Where in the request the next byte to send stands. Invariant: less than its length.
    sent: usize,
    /// Bytes queued and not yet sent.
    unsent: usize,
    /// When each request in flight was queued, oldest first.
    pub(crate) queued_at: VecDeque<Instant>,
    /// Replies that have come.
    pub(crate) replies: u64,
}

impl<E: Exchange> Connection<E> {
    /// Takes a wire that may still be connecting, for at most `depth` requests in flight.
    pub(crate) fn new(wire: Wire, exchange: E, depth: usize) -> Self {
        let outbound = exchange.request().repeat(depth + 1);
        let queued_at = VecDeque::with_capacity(depth);
        Self { wire, exchange, outbound, sent: 0, unsent: 0, queued_at, replies: 0 }
    }

    /// Queues one request. Must not be called with `depth` requests in flight.
    pub(crate) fn queue_request(&mut self) {
        self.unsent += self.exchange.request().len();
        self.queued_at.push_back(Instant::now());
    }

    /// Sends what is queued, as far as the socket takes it.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        if let Wire::Tls(stream) = &mut self.wire {
            stream.flush()?;
        }
        while self.unsent > 0 {
            let request = self.exchange.request().len();
            let sent = match &mut self.wire {
                Wire::Stream(stream) => {
                    stream.write(&self.outbound[self.sent..self.sent + self.unsent])
                }
                Wire::Tls(stream) => {
                    stream.send(&self.outbound[self.sent..self.sent + self.unsent])
                }
                Wire::Datagrams(socket) => socket.send(&self.outbound[..request]),
            };
            match sent {
                Ok(length) => {
                    self.unsent -= length;
                    self.sent = (self.sent + length) % request;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
