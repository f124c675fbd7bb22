//! What an end that is written is told by the kernel, and its end.

use super::write::WritePipeTransport;
use crate::driving::pipe::WriteEnd;
use crate::driving::stream;
use crate::python::error::{OrOsError, os_error};
use crate::python::ffi;
use crate::python::transports::Endpoint;
use pyo3::exceptions::{PyBrokenPipeError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::flow::FlowChange;

const WRITE_FAILED: &str = "Fatal write error on pipe transport";

/// What an event of the pipe tells.
enum Seen {
    Room,
    /// The reader is gone.
    End,
    /// The reader was gone, and is not any more.
    Nothing,
}

impl WritePipeTransport {
    /// The pipe has room, or its reader is gone, or seemed to be.
    ///
    /// # Errors
    /// `SystemExit` and `KeyboardInterrupt` of the protocol.
    pub(crate) fn on_event(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (context, outcome) = {
            let mut state = this.state.lock();
            let state = &mut *state;
            let (Some(objects), Some(end)) = (&state.objects, &state.end) else {
                return Ok(());
            };
            if state.finished {
                return Ok(());
            }
            let outcome = end.arm().and_then(|quiet| {
                Ok(if quiet {
                    Seen::Room
                } else if end.is_abandoned()? {
                    Seen::End
                } else {
                    Seen::Nothing
                })
            });
            (objects.context.clone_ref(py), outcome)
        };
        // What cannot be asked cannot be waited for.
        let outcome = outcome.or_os_error(py);
        let context = context.bind(py);
        match outcome {
            Ok(Seen::Room) => Self::flush(slf, context),
            Ok(Seen::End) => Self::abandoned(slf, context),
            Ok(Seen::Nothing) => {
                Self::renew(slf)?;
                Self::flush(slf, context)
            }
            Err(error) => Self::write_failed(slf, error),
        }
    }

    fn renew(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let io = this.place.home.io()?;
        let renewed = {
            let _entered = io.driver.enter();
            this.state.lock().end.as_mut().map_or(Ok(()), WriteEnd::renew)
        };
        match renewed {
            Ok(()) => Ok(()),
            Err(error) => Self::write_failed(slf, os_error(slf.py(), &error)),
        }
    }

    /// The reader is gone.
    fn abandoned(slf: &Bound<'_, Self>, context: &Bound<'_, PyContext>) -> PyResult<()> {
        let py = slf.py();
        Self::log(slf, "info", "%r was closed by peer")?;
        let is_queued = !slf.get().state.lock().queue.is_empty();
        let error = is_queued.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
        ffi::in_context(context, || Self::close_with(slf, error))
    }

    /// Sends what is queued, and does what waits for the queue to be empty.
    fn flush(slf: &Bound<'_, Self>, context: &Bound<'_, PyContext>) -> PyResult<()> {
        let py = slf.py();
        let mut used = Vec::new();
        let (flushed, change) = {
            let mut state = slf.get().state.lock();
            let state = &mut *state;
            if state.queue.is_empty() {
                return Ok(());
            }
            let flushed = match &state.end {
                Some(end) => stream::flush(&mut state.queue, end, &mut used).map(|_| ()),
                None => Ok(()),
            };
            (flushed, state.flow.shrunk(state.queue.len()))
        };
        drop(used);
        let mut outcome = Ok(());
        ffi::in_context(context, || {
            outcome = Self::flushed(slf, flushed.map_err(|error| os_error(py, &error)), change);
            Ok(())
        })?;
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => Self::callback_failed(slf, "_write_ready", error),
        }
    }

    fn flushed(slf: &Bound<'_, Self>, flushed: PyResult<()>, change: FlowChange) -> PyResult<()> {
        if let Err(error) = flushed {
            return Self::write_failed(slf, error);
        }
        Self::await_room(slf)?;
        Self::apply_flow_change(slf, change)?;
        // resume_writing() may have queued more.
        let closes = {
            let mut state = slf.get().state.lock();
            let closes = state.queue.is_empty() && state.closing && !state.finished;
            state.finished |= closes;
            closes
        };
        if closes { Self::connection_lost(slf, None) } else { Ok(()) }
    }

    pub(super) fn write_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        {
            let mut state = slf.get().state.lock();
            state.lost = state.lost.saturating_add(1);
        }
        let exception = error.clone_ref(py).into_value(py).into_any();
        let is_expected = error.is_instance_of::<PyOSError>(py);
        Self::tell_of_failure(slf, error, WRITE_FAILED, is_expected)?;
        Self::close_with(slf, Some(exception))
    }

    /// Closes the transport; what is queued is lost. Only the first call does something.
    pub(super) fn close_with(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let unsent = {
            let mut state = slf.get().state.lock();
            if state.finished {
                return Ok(());
            }
            state.closing = true;
            state.finished = true;
            state.queue.take()
        };
        drop(unsent);
        Self::await_room(slf)?;
        Self::schedule_connection_lost(slf, error)
    }

    /// Closes the transport once what is queued was sent.
    pub(super) fn write_eof_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        {
            let mut state = slf.get().state.lock();
            if state.closing {
                return Ok(());
            }
            state.closing = true;
            if !state.queue.is_empty() {
                return Ok(());
            }
            state.finished = true;
        }
        Self::update_interest(slf);
        Self::schedule_connection_lost(slf, None)
    }

    /// Tells the protocol that the transport is closed, and lets go of everything.
    pub(super) fn connection_lost(
        slf: &Bound<'_, Self>,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let called = Self::tell_connection_lost(slf, error);
        let released = Self::release(slf);
        called.and(released)
    }

    /// Closes the pipe and drops every reference. Only the first call does something.
    pub(super) fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (objects, end, unsent) = {
            let mut state = slf.get().state.lock();
            state.closing = true;
            state.finished = true;
            (state.objects.take(), state.end.take(), state.queue.take())
        };
        drop(unsent);
        let Some(objects) = objects else {
            return Ok(());
        };
        slf.get().place.leave();
        if let Some(end) = end
            && objects.is_closed_elsewhere(py)?
        {
            end.forget();
        }
        Self::update_interest(slf);
        objects.close(py)
    }
}
