//! Calls on a transport: made at home, in the order in which the program made them.
//!
//! See [`rloop_core::forwarded`] for the order, and [`rloop_core::steps`] for what else a step sends.

use crate::loop_::event_loop::EventLoop;
use crate::py::interrupt::Interrupt;
use crate::shard::{Shard, Work};
use crate::transport::core::{Call, Endpoint, Polled};
use pyo3::prelude::*;
use rloop_core::forwarded::Forwarded;
use std::sync::Arc;

/// A transport whose calls run on its home shard.
pub(crate) trait Forwarding: Endpoint {
    /// A call, with its arguments.
    type Call;

    /// The calls from other threads that wait.
    fn forwarded(&self) -> &Forwarded<Self::Call>;

    /// The shard that runs the transport, if that is known by now.
    fn home_shard(&self) -> Option<&Arc<Shard>>;

    /// Makes a call. Only on a thread that may touch the transport.
    fn make(slf: &Bound<'_, Self>, call: Self::Call) -> PyResult<()>;

    /// The work of making the calls up to `number`.
    fn errand(slf: &Bound<'_, Self>, number: u64) -> Call;

    /// Whether a call that waits keeps the data that comes from now on from the protocol; `None` if it is
    /// about something else.
    fn stops_reading(call: &Self::Call) -> Option<bool>;

    /// Called before a call is forwarded.
    fn note_forwarded(&self, _call: &Self::Call) {}

    /// Forwards a call if this thread may not touch the transport; true if it did. If not, the calls that
    /// were forwarded before have been made.
    #[inline]
    fn forward(
        slf: &Bound<'_, Self>,
        call: impl FnOnce() -> PyResult<Self::Call>,
    ) -> PyResult<bool> {
        let Some(home) = slf.get().home_shard() else {
            return Ok(false);
        };
        if home.is_elsewhere() {
            Self::send_home(slf, home, call()?);
            return Ok(true);
        }
        if slf.get().forwarded().is_busy() && !Self::make_earlier(slf)? {
            Self::send_home(slf, home, call()?);
            return Ok(true);
        }
        Ok(false)
    }

    /// Makes a call, or forwards it if this thread may not touch the transport.
    fn make_or_forward(slf: &Bound<'_, Self>, call: Self::Call) -> PyResult<()> {
        let mut call = Some(call);
        let take = |call: &mut Option<Self::Call>| call.take().expect("it is taken once");
        if Self::forward(slf, || Ok(take(&mut call)))? {
            Ok(())
        } else {
            Self::make(slf, take(&mut call))
        }
    }

    #[cold]
    fn send_home(slf: &Bound<'_, Self>, home: &Arc<Shard>, call: Self::Call) {
        slf.get().note_forwarded(&call);
        let number = slf.get().forwarded().add(call);
        Self::send_errand(slf, home, number);
    }

    fn send_errand(slf: &Bound<'_, Self>, home: &Arc<Shard>, number: u64) {
        home.push(Work::Remote(Box::new(Self::errand(slf, number))));
    }

    /// Makes the calls up to that number, which has arrived at home.
    fn run_errand(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        number: u64,
    ) -> Result<(), Interrupt> {
        let is_made = Self::make_forwarded(slf, Some(event_loop), Some(number))?;
        if let (false, Some(home)) = (is_made, slf.get().home_shard()) {
            // A thread that began while the loop was stopped is still at it. It leaves the calls that were
            // added since.
            Self::send_errand(slf, home, number);
        }
        Ok(())
    }

    /// Makes the calls that were forwarded before. False if another thread makes calls, as it may while the
    /// loop is stopped.
    #[cold]
    fn make_earlier(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let event_loop = slf.get().event_loop(slf.py());
        if event_loop.as_ref().is_none_or(|it| it.get().check_closed().is_err()) {
            // Nobody will take their numbers out, and they would find a closed transport.
            drop(slf.get().forwarded().take_all());
            return Ok(true);
        }
        Ok(Self::make_forwarded(slf, event_loop.as_ref(), None)?)
    }

    /// Called before data is received: a call that was forwarded before may stop that.
    #[inline]
    fn make_earlier_stop(slf: &Bound<'_, Self>) -> Result<(), Interrupt> {
        let forwarded = slf.get().forwarded();
        if forwarded.is_busy() && forwarded.newest(Self::stops_reading) == Some(true) {
            let event_loop = slf.get().event_loop(slf.py());
            Self::make_forwarded(slf, event_loop.as_ref(), None)?;
        }
        Ok(())
    }

    /// Whether data reaches the protocol once the calls that wait have been made; `None` if they do not
    /// change that.
    fn is_reading_asked(&self) -> Option<bool> {
        self.forwarded().newest(Self::stops_reading).map(|stops| !stops)
    }

    /// Whether the transport receives, once the calls that wait have been made.
    fn receives(&self) -> bool
    where
        Self: Polled,
    {
        let asked = self.is_reading_asked();
        self.with_lifecycle(|life| {
            asked.map_or_else(|| life.is_reading(), |asked| asked && !life.is_closing())
        })
    }

    /// Makes the calls up to that number, or those that wait now. False if another thread makes calls.
    #[cold]
    fn make_forwarded(
        slf: &Bound<'_, Self>,
        event_loop: Option<&Bound<'_, EventLoop>>,
        number: Option<u64>,
    ) -> Result<bool, Interrupt> {
        let Some(claim) = slf.get().forwarded().claim() else {
            return Ok(false);
        };
        let last = number.unwrap_or_else(|| claim.newest());
        while let Some(call) = claim.next(last) {
            let made = Self::make(slf, call);
            Self::settle_remote(slf, event_loop, made)?;
        }
        Ok(true)
    }
}
