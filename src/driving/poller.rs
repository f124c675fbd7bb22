//! The level-triggered poller behind `add_reader` and `add_writer`.
//!
//! asyncio promises level-triggered callbacks on descriptors that the loop does not own: a callback
//! may leave data behind, the program may close the descriptor without telling the loop, and may
//! open another with the same number. tokio's registrations are edge-triggered and must not outlive
//! their descriptor. So these descriptors live in an epoll set of their own, with the kernel's
//! level-triggered semantics, the very one that `selectors.EpollSelector` uses, and only that set is
//! registered with tokio.
//!
//! Cost: a wake-up takes two more system calls than a stream transport's, the look into this set
//! and the look that finds it empty before the shard parks. A turn without such a wake-up pays
//! nothing.

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

/// Which callbacks a descriptor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Watched {
    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.readable);
        flags.set(EventFlags::OUT, self.writable);
        flags
    }
}

/// A ready descriptor: `token` is what it was registered with.
pub(crate) struct Ready {
    pub(crate) token: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
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
    pub(crate) fn add(&self, fd: RawFd, token: u64, watched: Watched) -> io::Result<()> {
        sys::with_descriptor(fd, |fd| {
            epoll::add(&self.set, fd, EventData::new_u64(token), watched.flags())
        })??;
        Ok(())
    }

    /// Changes what is watched. A number that was closed and opened again since is added anew.
    pub(crate) fn modify(&self, fd: RawFd, token: u64, watched: Watched) -> io::Result<()> {
        let modified = sys::with_descriptor(fd, |fd| {
            epoll::modify(&self.set, fd, EventData::new_u64(token), watched.flags())
        })?;
        match modified {
            Err(Errno::NOENT) => self.add(fd, token, watched),
            result => Ok(result?),
        }
    }

    /// Removes a descriptor. One that is closed already left the set by itself.
    pub(crate) fn remove(&self, fd: RawFd) -> io::Result<()> {
        match sys::with_descriptor(fd, |fd| epoll::delete(&self.set, fd))? {
            Ok(()) | Err(Errno::NOENT | Errno::BADF | Errno::PERM) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands every ready descriptor to `sink`. Returns false if there was none: then, and only then,
    /// an event comes when there is one.
    pub(crate) fn look(&self, mut sink: impl FnMut(Ready)) -> io::Result<bool> {
        let looked = self.set.try_io(Interest::READABLE, |set| {
            let mut buffer = [const { MaybeUninit::uninit() }; EVENTS_PER_LOOK];
            let (events, _) = match epoll::wait(set, &mut buffer, Some(&ZERO)) {
                Err(Errno::INTR) => return Ok(()),
                result => result?,
            };
            if events.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            for event in events {
                let flags = event.flags;
                // An error or a hang-up is reported to both callbacks, as selectors does.
                sink(Ready {
                    token: event.data.u64(),
                    readable: flags.intersects(!EventFlags::OUT),
                    writable: flags.intersects(!EventFlags::IN),
                });
            }
            Ok(())
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
