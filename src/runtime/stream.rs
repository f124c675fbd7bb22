//! Streams of bytes: how a transport's reads and writes become system calls.
//!
//! A read that fills less than the buffer has drained the stream (epoll(7), and kqueue fires for each
//! arrival), so the wake-up is armed again without a second call; every other outcome fires another event for the next iteration.

use crate::runtime::registration::{Armed, Registration};
use crate::runtime::sys::sockets::SEND;
use rloop_core::write_queue::WriteQueue;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer};
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::RawFd;
use tokio::io::Interest;

/// How many chunks one system call may take; more does not make it faster.
const CHUNKS_PER_WRITE: usize = 64;

/// What a read found.
#[derive(Debug)]
pub(crate) enum Read {
    /// So many bytes were received; an event will follow.
    Received(usize),
    /// So many bytes were received, and there is more, for which no event comes.
    ReceivedMore(usize),
    /// The peer has shut down its side.
    End,
    /// Nothing there; an event will follow.
    NotReady,
}

impl Read {
    /// The outcome of a call that received `received` bytes, or none for now, and left nothing.
    pub(super) fn drained(received: Option<usize>, armed: Armed) -> Self {
        match (received, armed) {
            (Some(received), Armed::Waiting) => Self::Received(received),
            (Some(received), Armed::Ready) => Self::ReceivedMore(received),
            (None, Armed::Waiting) => Self::NotReady,
            (None, Armed::Ready) => Self::ReceivedMore(0),
        }
    }
}

/// What an attempt to write left to do.
#[must_use]
pub(crate) enum Flushed {
    /// The queue is empty, or was before.
    Everything,
    /// The other side takes no more for now; a write event will follow.
    Partly,
}

/// Where a stream's bytes go.
pub(crate) trait Sink {
    /// Sends what the kernel takes of `data`; 0 if it takes nothing for now.
    fn write(&self, data: &[u8]) -> io::Result<usize>;

    /// Sends what the kernel takes of `slices`, in one call; 0 if it takes nothing for now.
    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Arranges for a write event once the kernel, which has just refused bytes, takes some again.
    fn arm_write(&self) -> io::Result<()>;
}

/// Sends what the kernel takes of `queue`. `used` receives the chunks to drop.
pub(crate) fn flush<B: AsRef<[u8]>>(
    queue: &mut WriteQueue<B>,
    sink: &impl Sink,
    used: &mut Vec<B>,
) -> io::Result<Flushed> {
    while !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); CHUNKS_PER_WRITE];
        let mut count = 0;
        let mut offered = 0;
        for (target, slice) in slices.iter_mut().zip(queue.slices()) {
            *target = IoSlice::new(slice);
            count += 1;
            offered += slice.len();
        }
        let sent = sink.write_vectored(&slices[..count])?;
        used.append(&mut queue.advance(sent));
        if sent < offered {
            sink.arm_write()?;
            return Ok(Flushed::Partly);
        }
    }
    Ok(Flushed::Everything)
}

/// A registered stream socket.
pub(crate) struct StreamSocket(Registration);

impl StreamSocket {
    /// Registers the socket `fd`; the caller has entered the runtime.
    pub(crate) fn register(fd: RawFd, generation: u64) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Self(Registration::new(fd, generation, interest)?))
    }

    /// The socket's place in the epoll set.
    pub(crate) fn registration(&self) -> &Registration {
        &self.0
    }

    /// Receives into `buffer`. Called for an event only.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        let received = match rustix::net::recv(self.0.io(), &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(Read::End),
            Ok((received, _)) if received == buffer.len() => {
                return Ok(Read::ReceivedMore(received));
            }
            Ok((received, _)) => Some(received),
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Read::drained(received, self.0.drained()))
    }

    /// Shuts down the sending side.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        SockRef::from(self.0.io()).shutdown(Shutdown::Write)
    }
}

impl Sink for StreamSocket {
    fn write(&self, data: &[u8]) -> io::Result<usize> {
        would_block_is_zero(rustix::net::send(self.0.io(), data, SEND))
    }

    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut control = SendAncillaryBuffer::default();
        would_block_is_zero(rustix::net::sendmsg(self.0.io(), slices, &mut control, SEND))
    }

    fn arm_write(&self) -> io::Result<()> {
        self.0.arm_write()
    }
}

pub(super) fn would_block_is_zero(result: rustix::io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
