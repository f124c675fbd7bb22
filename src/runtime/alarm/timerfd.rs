//! The timer that ends a park: a timerfd in the shard's epoll set.
//!
//! It is edge-triggered there and never read: setting it again clears the old expiration.

use crate::runtime::clock;
use crate::runtime::sys;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// The timer of a shard.
pub(crate) struct Alarm {
    timer: AsyncFd<OwnedFd>,
}

impl Alarm {
    /// Creates the timer; the caller has entered the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        Ok(Self { timer: sys::register_owned(timer)? })
    }

    /// The timer as a registered descriptor.
    pub(crate) fn io(&self) -> &AsyncFd<OwnedFd> {
        &self.timer
    }

    /// Ends the next park at `deadline`, in seconds on the loop's clock, instead of whatever was
    /// set before.
    pub(crate) fn set(&self, deadline: f64) -> io::Result<()> {
        let nanoseconds = clock::nanosecond_at_or_after(deadline);
        let value =
            Timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}
