//! One connection of a load: what is queued on it, what is sent, and what is awaited.
//!
//! Owned by the engine in `load`, which decides when a request may start. All requests are the same
//! bytes, so what is to be sent is a position in them and a length.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::time::Instant;

use mio::net::TcpStream;

use crate::exchange::Exchange;

/// One connection with its requests in flight.
pub(crate) struct Connection<E> {
    pub(crate) stream: TcpStream,
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
    /// Takes a stream that may still be connecting, for at most `depth` requests in flight.
    pub(crate) fn new(stream: TcpStream, exchange: E, depth: usize) -> Self {
        let outbound = exchange.request().repeat(depth + 1);
        let queued_at = VecDeque::with_capacity(depth);
        Self { stream, exchange, outbound, sent: 0, unsent: 0, queued_at, replies: 0 }
    }

    /// Queues one request. Must not be called with `depth` requests in flight.
    pub(crate) fn queue_request(&mut self) {
        self.unsent += self.exchange.request().len();
        self.queued_at.push_back(Instant::now());
    }

    /// Sends what is queued, as far as the socket takes it.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        while self.unsent > 0 {
            match self.stream.write(&self.outbound[self.sent..self.sent + self.unsent]) {
                Ok(length) => {
                    self.unsent -= length;
                    self.sent = (self.sent + length) % self.exchange.request().len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
