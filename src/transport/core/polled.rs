//! What the transports that own a descriptor do alike when they pause, close, fail and end: the part
//! of `asyncio.selector_events` that is the same for all of them.
//!
//! Called on a transport's home thread, without a lock.

use crate::py::error::Finally;
use crate::py::imports;
use crate::transport::core::Endpoint;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

/// A transport on a descriptor that its shard polls.
pub(crate) trait Polled: Endpoint {
    /// Runs `operation` under the transport's lock.
    fn with_lifecycle<R>(&self, operation: impl FnOnce(&mut Lifecycle) -> R) -> R;

    /// Tells the shard whether events of the descriptor matter.
    fn update_interest(slf: &Bound<'_, Self>);

    /// Closes the descriptor and drops every reference. Only the first call does something.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()>;

    fn pause_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !slf.get().with_lifecycle(Lifecycle::pause) {
            return Ok(());
        }
        Self::update_interest(slf);
        Self::log(slf, "debug", "%r pauses reading")
    }

    /// Tells the protocol that the transport is closed, and lets go of everything.
    fn connection_lost(slf: &Bound<'_, Self>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let called = Self::tell_connection_lost(slf, error);
        let released = Self::release(slf);
        called.finally(slf.py(), released)
    }

    /// Ends the transport at once, unless its end is scheduled already.
    fn force_close(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        if !slf.get().with_lifecycle(Lifecycle::force_close) {
            return Ok(());
        }
        Self::abandon(slf)?;
        Self::schedule_connection_lost(slf, error)
    }

    /// Drops what is not sent, and waits for no event any more.
    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::update_interest(slf);
        Ok(())
    }

    /// Ends the transport because of `error`; reports it unless it is the network's.
    fn fatal_error(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        let exception = error.clone_ref(py).into_value(py).into_any();
        let is_expected = error.is_instance_of::<PyOSError>(py);
        Self::tell_of_failure(slf, error, message, is_expected)?;
        Self::force_close(slf, Some(exception))
    }
}

/// A transport that queues what the descriptor does not take.
pub(crate) trait Queueing: Polled {
    /// Runs `operation` under the transport's lock; its flag tells that nothing is queued.
    fn with_queue<R>(&self, operation: impl FnOnce(&mut Lifecycle, bool) -> R) -> R;

    /// What the water marks ask for if they are new.
    fn review_flow(&self) -> FlowChange;

    /// Closes the transport once what is queued was sent.
    fn close_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let ends = slf.get().with_queue(Lifecycle::close);
        Self::update_interest(slf);
        if ends { Self::schedule_connection_lost(slf, None) } else { Ok(()) }
    }

    /// Pauses the protocol if more is queued than limits that are new allow.
    fn review_flow_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::apply_flow_change(slf, slf.get().review_flow())
    }
}

/// Logs a write on a lost connection, of which `count` tells how many there were, as asyncio does.
pub(crate) fn warn_about_lost_write(py: Python<'_>, count: u32) -> PyResult<()> {
    if count > Lifecycle::LOG_THRESHOLD_FOR_CONNLOST_WRITES {
        imports::logger(py)?.call_method1("warning", ("socket.send() raised exception.",))?;
    }
    Ok(())
}
