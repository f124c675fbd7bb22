//! The poller's set on macOS: a kqueue.
//!
//! It watches the two directions of a descriptor apart, and each fires an event of its own. After the
//! event of a request for one (`EV_ONESHOT`) that direction has left the set.

use crate::runtime::poller::{EVENTS_PER_LOOK, Token, event as event_of};
use crate::runtime::sys::kqueue::{self, Change, Filter};
use rloop_core::watches::{Ready, Watched};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

pub(super) fn create() -> io::Result<OwnedFd> {
    kqueue::create()
}

/// Watches a descriptor. One that cannot be polled is refused, or one direction of it.
pub(super) fn add(set: BorrowedFd<'_>, token: Token, watched: Watched) -> io::Result<()> {
    modify(set, token, watched)
}

/// Watches a descriptor, probably one that is in the set.
pub(super) fn modify(set: BorrowedFd<'_>, token: Token, watched: Watched) -> io::Result<()> {
    let Watched { readable, writable, once } = watched;
    #[expect(clippy::cast_possible_truncation, reason = "a word has 64 bits on macOS")]
    let data = token.data(watched) as usize;
    let ask = |filter, wanted| {
        if wanted {
            Change::add(token.fd, filter, once, data)
        } else {
            Change::remove(token.fd, filter)
        }
    };
    // What is watched already keeps what was asked of it first, so both are removed before.
    let [_, _, reading, writing] = kqueue::apply(
        set,
        [
            Change::remove(token.fd, Filter::Read),
            Change::remove(token.fd, Filter::Write),
            ask(Filter::Read, readable),
            ask(Filter::Write, writable),
        ],
    )?;
    let refused = [(readable, reading), (writable, writing)]
        .into_iter()
        .find_map(|(wanted, asked)| asked.err().filter(|_| wanted));
    match refused {
        None => Ok(()),
        Some(error) => {
            remove(set, token.fd)?;
            Err(error.into())
        }
    }
}

/// Watches a descriptor no more, if it is in the set.
pub(super) fn remove(set: BorrowedFd<'_>, fd: RawFd) -> io::Result<()> {
    let changes = [Filter::Read, Filter::Write].map(|filter| Change::remove(fd, filter));
    for removed in kqueue::apply(set, changes)? {
        match removed {
            Ok(()) | Err(Errno::NOENT | Errno::BADF) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Hands what is ready to `sink`, without blocking. Returns false if nothing can be left.
pub(super) fn take(set: BorrowedFd<'_>, sink: &mut impl FnMut(RawFd, Ready)) -> io::Result<bool> {
    let mut buffer = [const { MaybeUninit::uninit() }; EVENTS_PER_LOOK];
    let events = match kqueue::take(set, &mut buffer) {
        Err(Errno::INTR) => return Ok(true),
        result => result?,
    };
    let mut may_be_left = events.len() == EVENTS_PER_LOOK;
    for event in events {
        let is_read = event.is_read();
        let (fd, ready) = event_of(event.data() as u64, is_read, !is_read);
        may_be_left |= !ready.was_last;
        sink(fd, ready);
    }
    Ok(may_be_left)
}
