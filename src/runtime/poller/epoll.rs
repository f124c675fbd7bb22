//! The poller's set on Linux: an epoll set.
//!
//! After the event of a request for one (`EPOLLONESHOT`) the descriptor stays in the set, disarmed.

use crate::runtime::poller::{EVENTS_PER_LOOK, Token, event as event_of};
use crate::runtime::sys;
use rloop_core::watches::{Ready, Watched};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

const AT_ONCE: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };

pub(super) fn create() -> io::Result<OwnedFd> {
    Ok(epoll::create(CreateFlags::CLOEXEC)?)
}

/// Watches a descriptor. One that cannot be polled is refused with `EPERM`.
pub(super) fn add(set: BorrowedFd<'_>, token: Token, watched: Watched) -> io::Result<()> {
    match try_add(set, token, watched)? {
        Err(Errno::EXIST) => Ok(try_modify(set, token, watched)??),
        added => Ok(added?),
    }
}

/// Watches a descriptor, probably one that is in the set.
pub(super) fn modify(set: BorrowedFd<'_>, token: Token, watched: Watched) -> io::Result<()> {
    match try_modify(set, token, watched)? {
        Err(Errno::NOENT) => Ok(try_add(set, token, watched)??),
        modified => Ok(modified?),
    }
}

fn try_add(
    set: BorrowedFd<'_>,
    token: Token,
    watched: Watched,
) -> io::Result<rustix::io::Result<()>> {
    sys::with_descriptor(token.fd, |fd| epoll::add(set, fd, data(token, watched), flags(watched)))
}

fn try_modify(
    set: BorrowedFd<'_>,
    token: Token,
    watched: Watched,
) -> io::Result<rustix::io::Result<()>> {
    sys::with_descriptor(token.fd, |fd| {
        epoll::modify(set, fd, data(token, watched), flags(watched))
    })
}

fn data(token: Token, watched: Watched) -> EventData {
    EventData::new_u64(token.data(watched))
}

fn flags(watched: Watched) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, watched.readable);
    flags.set(EventFlags::OUT, watched.writable);
    flags.set(EventFlags::ONESHOT, watched.once);
    flags
}

/// Watches a descriptor no more, if it is in the set.
pub(super) fn remove(set: BorrowedFd<'_>, fd: RawFd) -> io::Result<()> {
    match sys::with_descriptor(fd, |fd| epoll::delete(set, fd))? {
        Ok(()) | Err(Errno::NOENT | Errno::BADF | Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Hands what is ready to `sink`, without blocking. Returns false if nothing can be left.
pub(super) fn take(set: BorrowedFd<'_>, sink: &mut impl FnMut(RawFd, Ready)) -> io::Result<bool> {
    let mut buffer = [const { MaybeUninit::uninit() }; EVENTS_PER_LOOK];
    let (events, _) = match epoll::wait(set, &mut buffer, Some(&AT_ONCE)) {
        Err(Errno::INTR) => return Ok(true),
        result => result?,
    };
    let mut may_be_left = events.len() == EVENTS_PER_LOOK;
    for event in events {
        let flags = event.flags;
        // An error or a hang-up is reported to both callbacks, as selectors does.
        let readable = flags.intersects(!EventFlags::OUT);
        let (fd, ready) = event_of(event.data.u64(), readable, flags.intersects(!EventFlags::IN));
        may_be_left |= !ready.was_last;
        sink(fd, ready);
    }
    Ok(may_be_left)
}
