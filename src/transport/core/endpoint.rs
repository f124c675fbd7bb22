//! What a transport of any kind tells its loop and its protocol, and its hold on a socket.

use crate::loop_::event_loop::EventLoop;
use crate::loop_::handle::Handle;
use crate::loop_::overrides::Overrides;
use crate::py::imports;
use crate::py::interrupt::{self, Interrupt};
use crate::shard::Work;
use crate::transport::core::{Place, Transport};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyContext, PyDict, PyTuple};
use pyo3::{PyClass, PyTypeInfo};
use rloop_core::flow::{DEFAULT_HIGH, FlowChange, FlowControl};

/// A transport class.
pub(crate) trait Endpoint: PyClass<Frozen = True> + PyTypeInfo + Sync {
    /// Runs `operation` on the loop and the protocol, under the transport's lock; `None` once the
    /// transport is closed.
    fn with_ends<R>(&self, operation: impl FnOnce(&Py<EventLoop>, &Py<PyAny>) -> R) -> Option<R>;

    /// The context that the transport was given for all its callbacks, if it was given one and is
    /// open.
    fn own_context(&self, _py: Python<'_>) -> Option<Py<PyContext>> {
        None
    }

    /// The loop; `None` once the transport is closed.
    fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, EventLoop>> {
        self.with_ends(|event_loop, _| event_loop.clone_ref(py).into_bound(py))
    }

    /// The protocol; `None` once the transport is closed.
    fn protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.with_ends(|_, protocol| protocol.clone_ref(py))
    }

    /// Schedules `connection_made()`, the start of `transport`, which is this one, and `waiter`.
    fn schedule_start(
        slf: &Bound<'_, Self>,
        place: &Place,
        transport: Transport,
        waiter: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (Some(event_loop), Some(protocol)) = (this.event_loop(py), this.protocol(py)) else {
            return Err(PyRuntimeError::new_err("the transport is closed"));
        };
        let connection_made = protocol.getattr(py, intern!(py, "connection_made"))?;
        let arguments = PyTuple::new(py, [slf.as_any()])?.unbind();
        EventLoop::schedule(&event_loop, connection_made, arguments, None)?;
        Self::schedule_reading(slf, &event_loop, place, transport)?;
        EventLoop::schedule_waiter(&event_loop, waiter, None)
    }

    /// Schedules the start of `transport`, which is this one, behind `connection_made()`.
    fn schedule_reading(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        place: &Place,
        transport: Transport,
    ) -> PyResult<()> {
        let py = slf.py();
        if !Overrides::of(event_loop).has_call_soon() {
            place.home.push(Work::StartReading(transport));
            return Ok(());
        }
        // As `connection_made()` goes through the program's `call_soon()`, so does this.
        let start = slf.as_any().getattr(intern!(py, "_add_reader"))?.unbind();
        let context = slf.get().own_context(py);
        EventLoop::schedule(event_loop, start, PyTuple::empty(py).unbind(), context)
    }

    /// Calls `connection_lost(error)`.
    fn tell_connection_lost(
        slf: &Bound<'_, Self>,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        match slf.get().protocol(py) {
            Some(protocol) => {
                protocol.call_method1(py, intern!(py, "connection_lost"), (error,)).map(|_| ())
            }
            None => Ok(()),
        }
    }

    /// True unless the transport or its loop is closed.
    fn is_watched(&self, py: Python<'_>) -> bool {
        self.event_loop(py).is_some_and(|event_loop| event_loop.get().check_closed().is_ok())
    }

    /// True if the loop is in debug mode.
    fn is_debug(&self, py: Python<'_>) -> bool {
        self.event_loop(py).is_some_and(|event_loop| event_loop.get().is_debug())
    }

    /// Logs `message`, whose one argument is the transport, in debug mode.
    fn log(slf: &Bound<'_, Self>, level: &str, message: &str) -> PyResult<()> {
        let py = slf.py();
        if slf.get().is_debug(py) {
            imports::logger(py)?.call_method1(level, (message, slf))?;
        }
        Ok(())
    }

    /// The transport and the protocol that a report names.
    fn parties(slf: &Bound<'_, Self>) -> (Option<Py<PyAny>>, Option<Py<PyAny>>) {
        (Some(slf.as_any().clone().unbind()), slf.get().protocol(slf.py()))
    }

    /// The transport and the protocol that the report of a failing `pause_writing()` names.
    fn flow_parties(slf: &Bound<'_, Self>) -> (Option<Py<PyAny>>, Option<Py<PyAny>>) {
        Self::parties(slf)
    }

    /// Tells the loop's exception handler. Once the transport is closed and has no loop, the error goes
    /// to `sys.unraisablehook`.
    fn report(
        slf: &Bound<'_, Self>,
        parties: (Option<Py<PyAny>>, Option<Py<PyAny>>),
        message: &str,
        error: PyErr,
    ) -> PyResult<()> {
        if let Some(event_loop) = slf.get().event_loop(slf.py()) {
            return Self::report_to(&event_loop, parties, message, error);
        }
        error.write_unraisable(slf.py(), Some(slf.as_any()));
        Ok(())
    }

    /// Tells the exception handler of `event_loop`.
    fn report_to(
        event_loop: &Bound<'_, EventLoop>,
        (transport, protocol): (Option<Py<PyAny>>, Option<Py<PyAny>>),
        message: &str,
        error: PyErr,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let report = PyDict::new(py);
        report.set_item("message", message)?;
        report.set_item("exception", error)?;
        report.set_item("transport", transport)?;
        report.set_item("protocol", protocol)?;
        event_loop.call_method1("call_exception_handler", (report,))?;
        Ok(())
    }

    /// Tells of a failure that ends the transport: the log in debug mode if it `is_expected` to
    /// happen in any network, else the exception handler.
    fn tell_of_failure(
        slf: &Bound<'_, Self>,
        error: PyErr,
        message: &str,
        is_expected: bool,
    ) -> PyResult<()> {
        let py = slf.py();
        if !is_expected {
            return Self::report(slf, Self::parties(slf), message, error);
        }
        if slf.get().is_debug(py) {
            let keywords = PyDict::new(py);
            keywords.set_item("exc_info", error)?;
            imports::logger(py)?.call_method("debug", ("%r: %s", slf, message), Some(&keywords))?;
        }
        Ok(())
    }

    /// Deals with the outcome of a call that another thread forwarded. An exception has no caller to
    /// reach, so it is reported: to `event_loop`, which the call may have made the transport let go of.
    fn settle_remote(
        slf: &Bound<'_, Self>,
        event_loop: Option<&Bound<'_, EventLoop>>,
        called: PyResult<()>,
    ) -> Result<(), Interrupt> {
        called.or_else(|error| {
            interrupt::contain(slf.py(), error, |error| {
                let message = "A call from another thread failed";
                match event_loop {
                    Some(event_loop) => {
                        Self::report_to(event_loop, Self::parties(slf), message, error)
                    }
                    None => Self::report(slf, Self::parties(slf), message, error),
                }
            })
        })
    }

    /// Schedules the transport's `_call_connection_lost(error)`.
    fn schedule_connection_lost(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().event_loop(py) else {
            return Ok(());
        };
        let callback = slf.as_any().getattr(intern!(py, "_call_connection_lost"))?.unbind();
        let arguments = PyTuple::new(py, [error])?.unbind();
        // As in asyncio, this is the scheduling method that refuses a closed loop.
        event_loop.get().check_closed()?;
        EventLoop::schedule(&event_loop, callback, arguments, slf.get().own_context(py))?;
        Ok(())
    }

    /// Handles an event on behalf of a handle of the loop; nothing is left to handle once the transport
    /// is closed.
    fn handle_event(
        slf: &Bound<'_, Self>,
        on_event: fn(&Bound<'_, Self>, &Bound<'_, EventLoop>) -> Result<(), Interrupt>,
    ) -> PyResult<()> {
        match slf.get().event_loop(slf.py()) {
            Some(event_loop) => Ok(on_event(slf, &event_loop)?),
            None => Ok(()),
        }
    }

    /// Deals with an exception that the transport's `callback` did not handle, as asyncio's handle of
    /// that callback would: reports it, and the transport goes on. `event_loop` is the transport's,
    /// which it has no reference to once the callback has closed it; `context` is that of the handle,
    /// by default a copy of the current one.
    #[cold]
    fn callback_failed(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        callback: &str,
        context: Option<&Bound<'_, PyContext>>,
        error: PyErr,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        interrupt::contain(py, error, |error| {
            let callback = slf.as_any().getattr(callback)?;
            let arguments = PyTuple::empty(py);
            let (called, without) = (callback.clone().unbind(), arguments.clone().unbind());
            let context = context.map(|context| context.clone().unbind());
            let handle = Bound::new(py, Handle::new(event_loop, called, without, context)?)?;
            Handle::report(&handle, &callback, &arguments, error)
        })
    }

    /// Tells the protocol to pause or to go on writing.
    fn apply_flow_change(slf: &Bound<'_, Self>, change: FlowChange) -> PyResult<()> {
        let py = slf.py();
        let method = match change {
            FlowChange::Unchanged => return Ok(()),
            FlowChange::Pause => "pause_writing",
            FlowChange::Resume => "resume_writing",
        };
        let Some(protocol) = slf.get().protocol(py) else {
            return Ok(());
        };
        match protocol.call_method0(py, method) {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = interrupt::reportable(py, error)?;
                let message = format!("protocol.{method}() failed");
                Self::report(slf, Self::flow_parties(slf), &message, error)
            }
        }
    }
}

/// What `get_extra_info(name, default)` answers.
pub(crate) fn extra_info(
    py: Python<'_>,
    extra: &Py<PyDict>,
    name: Bound<'_, PyAny>,
    default: Option<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    match extra.bind(py).get_item(name)? {
        Some(value) => Ok(value.unbind()),
        None => Ok(default.unwrap_or_else(|| py.None())),
    }
}

/// The water marks (low, high) that `set_write_buffer_limits()` was asked for.
///
/// # Errors
/// `ValueError` if there are no such marks.
pub(crate) fn checked_limits(high: Option<i128>, low: Option<i128>) -> PyResult<(u128, u128)> {
    checked_limits_from(DEFAULT_HIGH, high, low)
}

/// [`checked_limits`] with another default than a socket's.
pub(crate) fn checked_limits_from(
    default_high: u128,
    high: Option<i128>,
    low: Option<i128>,
) -> PyResult<(u128, u128)> {
    FlowControl::derive_limits(default_high, high, low).map_err(|(low, high)| {
        PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0"))
    })
}
