//! The timer that ends a park: a kqueue with one timer, in the shard's own kqueue.
//!
//! tokio does not let others put a timer into its kqueue. It registers this one edge-triggered, and
//! nobody reads it: a timer that has fired stays in it until it is set again, and so the old one is
//! taken out first. Adding it anew would not do, because what is in a kqueue already fires no edge.

use crate::runtime::clock;
use crate::runtime::sys;
use crate::runtime::sys::kqueue::{self, Change};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// The timer of a shard.
pub(crate) struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// Creates the timer; the caller has entered the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { timer: sys::register_owned(kqueue::create()?)? })
    }

    /// The timer as a registered descriptor.
    pub(crate) fn io(&self) -> &AsyncFd<OwnedFd> {
        &self.timer
    }

    /// Ends the next park at `deadline`, in seconds on the loop's clock, instead of whatever was
    /// set before.
    pub(crate) fn set(&self, deadline: f64) -> io::Result<()> {
        // The kernel counts from a later moment than this, so the timer is never early. One that is
        // due already fires at once.
        let left = clock::nanosecond_at_or_after(deadline) - clock::nanoseconds();
        let changes = [Change::remove_timer(), Change::add_timer(left.max(0))];
        let [_, added] = kqueue::apply(self.timer.as_fd(), changes)?;
        Ok(added?)
    }
}
