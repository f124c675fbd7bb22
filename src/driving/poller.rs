//! The level-triggered poller behind `add_reader` and `add_writer`.
//!
//! asyncio promises level-triggered callbacks on descriptors that the loop does not own: a callback
//! may leave data behind, the program may close the descriptor without telling the loop, and may
//! open another with the same number. tokio's registrations are edge-triggered and must not outlive
//! their descriptor. So these descriptors live in an epoll set of their own, with the kernel's
//! level-triggered semantics, the very one that `selectors.EpollSelector` uses, and only that set is
//! registered with tokio.
//!
//! A callback of `add_reader` stays, so the kernel has to be asked again before the shard parks. A
//! `sock_*` operation wants one event: then the kernel stops watching by itself (`EPOLLONESHOT`), the
//! descriptor stays in the set, and the next operation on it asks again with one call. That call
//! also notices if the number means another file by now, which no memory of ours could.
//!
//! Cost: a wake-up of a callback takes two more system calls than a stream transport's, the look
//! into this set and the look that finds it empty before the shard parks; that of an operation takes
//! the look and the next request. A turn without such a wake-up pays nothing.

use crate::driving::registration::PollerEvent;
use crate::sys;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How many events one look returns. More stay in the kernel for the next turn.
const EVENTS_PER_LOOK: usize = 256;

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Until the first event only.
    pub(crate) once: bool,
}

impl Watched {
    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.readable);
        flags.set(EventFlags::OUT, self.writable);
        flags.set(EventFlags::ONESHOT, self.once);
        flags
    }
}

/// Names a descriptor in its events: its number, and a counter that tells apart what had the number
/// one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) fd: RawFd,
    pub(crate) generation: u32,
}

/// Set in an event's data if it is the only one to come. The kernel copies it together with the
/// event, so it is right even if the request changes meanwhile.
const ONCE: u64 = 1 << 31;

impl Token {
    fn data(self, watched: Watched) -> EventData {
        debug_assert!(self.fd >= 0);
        #[expect(clippy::cast_sign_loss, reason = "a descriptor that epoll takes is not negative")]
        let low = u64::from(self.fd as u32);
        let once = if watched.once { ONCE } else { 0 };
        EventData::new_u64(u64::from(self.generation) << 32 | once | low)
    }

    fn from_data(data: u64) -> Self {
        Self { fd: (data & (ONCE - 1)) as RawFd, generation: (data >> 32) as u32 }
    }
}

/// A ready descriptor.
pub(crate) struct Ready {
    pub(crate) token: Token,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The kernel has stopped watching it.
    pub(crate) was_last: bool,
}

/// The epoll set.
pub(crate) struct Poller {
    set: AsyncFd<OwnedFd>,
    on_ready: Waker,
}

impl Poller {
    /// Creates the set; the caller has entered the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let set = sys::register_owned(epoll::create(CreateFlags::CLOEXEC)?)?;
        Ok(Self { set, on_ready: Arc::new(PollerEvent).into() })
    }

    /// Adds a descriptor. Like epoll, refuses what cannot be polled with `EPERM`.
    pub(crate) fn add(&self, token: Token, watched: Watched) -> io::Result<()> {
        match self.try_add(token, watched)? {
            Err(Errno::EXIST) => Ok(self.try_modify(token, watched)??),
            added => Ok(added?),
        }
    }

    /// Changes what is watched. A number that was closed and opened again since is added anew.
    pub(crate) fn modify(&self, token: Token, watched: Watched) -> io::Result<()> {
        match self.try_modify(token, watched)? {
            Err(Errno::NOENT) => Ok(self.try_add(token, watched)??),
            modified => Ok(modified?),
        }
    }

    fn try_add(&self, token: Token, watched: Watched) -> io::Result<rustix::io::Result<()>> {
        sys::with_descriptor(token.fd, |fd| {
            epoll::add(&self.set, fd, token.data(watched), watched.flags())
        })
    }

    fn try_modify(&self, token: Token, watched: Watched) -> io::Result<rustix::io::Result<()>> {
        sys::with_descriptor(token.fd, |fd| {
            epoll::modify(&self.set, fd, token.data(watched), watched.flags())
        })
    }

    /// Removes a descriptor. One that is closed already left the set by itself.
    pub(crate) fn remove(&self, fd: RawFd) -> io::Result<()> {
        match sys::with_descriptor(fd, |fd| epoll::delete(&self.set, fd))? {
            Ok(()) | Err(Errno::NOENT | Errno::BADF | Errno::PERM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands every ready descriptor to `sink`. Returns false if none is left: then, and only then, an
    /// event comes when there is one.
    pub(crate) fn look(&self, mut sink: impl FnMut(Ready)) -> io::Result<bool> {
        let mut may_be_left = false;
        let looked = self.set.try_io(Interest::READABLE, |set| {
            let mut buffer = [const { MaybeUninit::uninit() }; EVENTS_PER_LOOK];
            let (events, _) = match epoll::wait(set, &mut buffer, Some(&ZERO)) {
                Err(Errno::INTR) => {
                    may_be_left = true;
                    return Ok(());
                }
                result => result?,
            };
            may_be_left = events.len() == EVENTS_PER_LOOK;
            for event in events {
                let (flags, data) = (event.flags, event.data.u64());
                let was_last = data & ONCE != 0;
                may_be_left |= !was_last;
                // An error or a hang-up is reported to both callbacks, as selectors does.
                sink(Ready {
                    token: Token::from_data(data),
                    readable: flags.intersects(!EventFlags::OUT),
                    writable: flags.intersects(!EventFlags::IN),
                    was_last,
                });
            }
            if may_be_left { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
        });
        match looked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut context = Context::from_waker(&self.on_ready);
                Ok(self.set.poll_read_ready(&mut context).is_ready())
            }
            Err(error) => Err(error),
        }
    }
}

const ZERO: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
