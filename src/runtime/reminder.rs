//! A second timer of a shard, which tells that it has rung.
//!
//! The alarm ends a park, and the shard asks the clock whether a timer is due. This one is noted like an
//! event of a descriptor, so that an iteration that it did not ring for does not ask the clock.

use crate::runtime::alarm::Alarm;
use crate::runtime::clock;
use crate::runtime::registration::ReminderEvent;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;

/// The timer.
pub(crate) struct Reminder {
    alarm: Alarm,
    on_ring: Waker,
}

impl Reminder {
    /// Creates the timer; the caller has entered the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { alarm: Alarm::new()?, on_ring: Arc::new(ReminderEvent).into() })
    }

    /// Lets the timer ring in `delay` seconds instead of whenever it was to ring before.
    pub(crate) fn set(&self, delay: f64) -> io::Result<()> {
        self.alarm.set(clock::now() + delay)?;
        let io = self.alarm.io();
        // tokio remembers that it has rung before.
        let cleared: io::Result<()> =
            io.try_io(Interest::READABLE, |_| Err(io::ErrorKind::WouldBlock.into()));
        debug_assert!(cleared.is_err());
        match io.poll_read_ready(&mut Context::from_waker(&self.on_ring)) {
            Poll::Pending => (),
            Poll::Ready(_) => self.on_ring.wake_by_ref(),
        }
        Ok(())
    }
}
