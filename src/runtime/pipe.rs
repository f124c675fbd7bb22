//! Ends of pipes, and what else may stand for one: how a pipe transport's reads and writes become
//! system calls.
//!
//! asyncio watches pipes level-triggered; tokio's events are edge-triggered, and tokio remembers a
//! hang-up for good. For a socket it is for good. A fifo or a terminal, though, can be opened again by
//! its other side. So a hang-up that the descriptor itself does not confirm any more is forgotten by
//! registering anew ([`Registration::renew`]).

use crate::runtime::registration::{Armed, Event, Registration};
use crate::runtime::stream::{Read, Sink, would_block_is_zero};
use crate::runtime::sys;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use socket2::{SockRef, Type};
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, RawFd};
use tokio::io::Interest;

/// What a pipe transport can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pipe or a fifo.
    Pipe,
    Socket,
    /// A character device, such as a terminal.
    Device,
}

impl Kind {
    /// What `fd` is; `None` if it is nothing that a transport can be made of.
    pub(crate) fn of(fd: RawFd) -> io::Result<Option<Self>> {
        let status = sys::with_descriptor(fd, |fd| rustix::fs::fstat(fd))??;
        Ok(match FileType::from_raw_mode(status.st_mode) {
            FileType::Fifo => Some(Self::Pipe),
            FileType::Socket => Some(Self::Socket),
            FileType::CharacterDevice => Some(Self::Device),
            _ => None,
        })
    }
}

/// Makes reads and writes of `fd` return at once.
pub(crate) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    sys::with_descriptor(fd, |fd| {
        let flags = rustix::fs::fcntl_getfl(fd)?;
        if flags.contains(OFlags::NONBLOCK) {
            return Ok(());
        }
        rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)
    })??;
    Ok(())
}

/// Whether a read that filled less than its buffer has left nothing behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShortRead {
    /// Nothing: a stream socket (epoll(7)).
    Drains,
    /// The number of bytes that are left tells. A pipe in packet mode gives one packet at a time, and
    /// only its write end knows of the mode.
    LeavesBytes,
    /// The next read tells: a terminal gives one line at a time, a socket that keeps messages apart
    /// one message.
    LeavesUnknown,
}

impl ShortRead {
    fn of(kind: Kind, fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(match kind {
            Kind::Pipe => Self::LeavesBytes,
            Kind::Socket if SockRef::from(&fd).r#type()? == Type::STREAM => Self::Drains,
            Kind::Socket | Kind::Device => Self::LeavesUnknown,
        })
    }
}

/// A registered end that is read.
pub(crate) struct ReadEnd {
    registration: Registration,
    short_read: ShortRead,
}

impl ReadEnd {
    /// Registers `fd`; the caller has entered the runtime.
    pub(crate) fn register(fd: RawFd, generation: u64, kind: Kind) -> io::Result<Self> {
        let short_read = sys::with_descriptor(fd, |fd| ShortRead::of(kind, fd))??;
        let registration = Registration::new(fd, generation, Interest::READABLE)?;
        registration.arm_failure()?;
        Ok(Self { registration, short_read })
    }

    /// Asks for a read event; returns it if there is something to read already.
    pub(crate) fn arm_read(&self) -> Option<Event> {
        match self.registration.arm_read() {
            Armed::Waiting => None,
            Armed::Ready => Some(self.registration.read_event()),
        }
    }

    /// Reads into `buffer`. Called for an event only. When it has received nothing, and yet there is
    /// more, a hang-up is over: [`ReadEnd::renew`] forgets it.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        let received = match rustix::io::read(self.registration.io(), &mut *buffer) {
            Ok(0) => return Ok(Read::End),
            Ok(received) if received == buffer.len() || !self.is_drained() => {
                return Ok(Read::ReceivedMore(received));
            }
            Ok(received) => Some(received),
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Read::drained(received, self.registration.drained()))
    }

    /// True if a short read has certainly left nothing.
    fn is_drained(&self) -> bool {
        match self.short_read {
            ShortRead::Drains => true,
            ShortRead::LeavesBytes => rustix::io::ioctl_fionread(self.registration.io()) == Ok(0),
            ShortRead::LeavesUnknown => false,
        }
    }

    /// Registers anew, and waits for events again. The caller has entered the runtime.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        self.registration.renew(Interest::READABLE)?;
        // A fresh registration knows of nothing yet, so both are waited for.
        let (_, _) = (self.registration.arm_read(), self.registration.arm_failure()?);
        Ok(())
    }

    /// Leaves the descriptor's number alone: it was closed by somebody else and may be another's.
    pub(crate) fn forget(self) {
        self.registration.forget();
    }
}

/// An end that is written. It is registered when that is needed first: a device may be one that cannot
/// be, and need not.
pub(crate) struct WriteEnd {
    fd: RawFd,
    registration: Option<Registration>,
}

impl WriteEnd {
    pub(crate) fn new(fd: RawFd) -> Self {
        Self { fd, registration: None }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registration.is_some()
    }

    /// Registers the end, if it is not, and waits for events. The caller has entered the runtime.
    pub(crate) fn register(&mut self, generation: u64) -> io::Result<()> {
        if self.registration.is_none() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.registration = Some(Registration::new(self.fd, generation, interest)?);
            self.arm()?;
        }
        Ok(())
    }

    /// Waits for events again. Returns false if tokio remembers that the reader is gone, or that
    /// there is something to read, which asyncio takes for the same.
    pub(crate) fn arm(&self) -> io::Result<bool> {
        let Some(registration) = &self.registration else {
            return Ok(true);
        };
        let readable = registration.arm_read() == Armed::Ready;
        Ok(registration.arm_failure()? && !readable)
    }

    /// Whether the reader is gone now.
    pub(crate) fn is_abandoned(&self) -> io::Result<bool> {
        let events = sys::with_descriptor(self.fd, |fd| {
            let mut descriptors = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            poll(&mut descriptors, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            rustix::io::Result::Ok(descriptors[0].revents())
        })??;
        Ok(!events.is_empty())
    }

    /// Registers anew, and waits for events again. The caller has entered the runtime.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        if let Some(registration) = &mut self.registration {
            registration.renew(Interest::READABLE | Interest::WRITABLE)?;
        }
        self.arm().map(|_| ())
    }

    /// Leaves the descriptor's number alone: it was closed by somebody else and may be another's.
    pub(crate) fn forget(self) {
        if let Some(registration) = self.registration {
            registration.forget();
        }
    }
}

impl Sink for WriteEnd {
    fn write(&self, data: &[u8]) -> io::Result<usize> {
        sys::with_descriptor(self.fd, |fd| would_block_is_zero(rustix::io::write(fd, data)))?
    }

    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        sys::with_descriptor(self.fd, |fd| would_block_is_zero(rustix::io::writev(fd, slices)))?
    }

    fn arm_write(&self) -> io::Result<()> {
        self.arm().map(|_| ())
    }
}
