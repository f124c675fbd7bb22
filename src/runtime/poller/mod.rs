//! The level-triggered poller behind `add_reader` and `add_writer`.
//!
//! asyncio promises level-triggered callbacks on descriptors that the loop does not own: a callback
//! may leave data behind, the program may close the descriptor without telling the loop, and may
//! open another with the same number. tokio's registrations are edge-triggered and must not outlive
//! their descriptor. So these descriptors live in a set of their own, with the kernel's level-triggered
//! semantics, the very one that `selectors` uses on the system (epoll or kqueue), and only that set is
//! registered with tokio.
//!
//! A callback of `add_reader` stays, so the kernel has to be asked again before the shard parks. A
//! `sock_*` operation wants one event: then the kernel stops watching by itself, and the next
//! operation on the descriptor asks again with one call. That call also notices if the number means
//! another file by now, which no memory of ours could.
//!
//! Cost: a wake-up of a callback takes two more system calls than a stream transport's, the look
//! into this set and the look that finds it empty before the shard parks; that of an operation takes
//! the look and the next request. An iteration without such a wake-up pays nothing.

#[cfg_attr(target_os = "linux", path = "epoll.rs")]
#[cfg_attr(target_os = "macos", path = "kqueue.rs")]
mod set;

use crate::runtime::registration::PollerEvent;
use crate::runtime::sys;
use rloop_core::watches::{Ready, Watched};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How many events one look returns. More stay in the kernel for the next iteration.
const EVENTS_PER_LOOK: usize = 256;

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
    /// What the kernel hands back with each event.
    fn data(self, watched: Watched) -> u64 {
        debug_assert!(self.fd >= 0);
        #[expect(clippy::cast_sign_loss, reason = "a descriptor that is watched is not negative")]
        let low = u64::from(self.fd as u32);
        let once = if watched.once { ONCE } else { 0 };
        u64::from(self.generation) << 32 | once | low
    }
}

/// The descriptor of an event that came with the `data` of its request, and what the event tells.
fn event(data: u64, readable: bool, writable: bool) -> (RawFd, Ready) {
    let generation = (data >> 32) as u32;
    let ready = Ready { generation, readable, writable, was_last: data & ONCE != 0 };
    ((data & (ONCE - 1)) as RawFd, ready)
}

/// The set of watched descriptors.
pub(crate) struct Poller {
    set: AsyncFd<OwnedFd>,
    on_ready: Waker,
    /// Something is ready that tokio does not know of.
    is_ready: AtomicBool,
}

impl Poller {
    /// Creates the set; the caller has entered the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let set = sys::register_owned(set::create()?)?;
        let on_ready = Arc::new(PollerEvent).into();
        Ok(Self { set, on_ready, is_ready: AtomicBool::new(false) })
    }

    /// Adds a descriptor. Refuses what cannot be polled as the kernel does.
    pub(crate) fn add(&self, token: Token, watched: Watched) -> io::Result<()> {
        set::add(self.set.as_fd(), token, watched)
    }

    /// Changes what is watched. A number that was closed and opened again since is added anew.
    pub(crate) fn modify(&self, token: Token, watched: Watched) -> io::Result<()> {
        set::modify(self.set.as_fd(), token, watched)
    }

    /// Removes a descriptor. One that is closed already left the set by itself.
    pub(crate) fn remove(&self, fd: RawFd) -> io::Result<()> {
        set::remove(self.set.as_fd(), fd)
    }

    /// The number of the set, which is readable if something is ready.
    pub(crate) fn number(&self) -> RawFd {
        self.set.as_raw_fd()
    }

    /// Something is ready, and tokio was not asked.
    pub(crate) fn note_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Hands every ready descriptor to `sink`, with what became possible. Returns false if none is left: then, and only then, an
    /// event comes when there is one.
    pub(crate) fn look(&self, mut sink: impl FnMut(RawFd, Ready)) -> io::Result<bool> {
        if self.is_ready.load(Ordering::Relaxed) {
            self.is_ready.store(false, Ordering::Relaxed);
            set::take(self.set.as_fd(), &mut sink)?;
        }
        let looked = self.set.try_io(Interest::READABLE, |set| {
            let may_be_left = set::take(set.as_fd(), &mut sink)?;
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
