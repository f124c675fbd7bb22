//! The transport object: what it is made of, where it lives, and how calls get there.

use super::state::StreamState;
use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::Chunk;
use crate::py::ffi;
use crate::py::ffi::SharedBytes;
use crate::py::interrupt::{self, Interrupt};
use crate::runtime::registration::Direction;
use crate::shard::Shard;
use crate::transport::core::{Call, Endpoint, Forwarding, Place, Polled, Queueing};
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::forwarded::Forwarded;
use rloop_core::sync::Mutex;
use std::sync::Arc;

/// A call on a transport that was made on another thread than its own.
pub(crate) enum Remote {
    Write(SharedBytes),
    WriteLines(Vec<SharedBytes>),
    WriteEof,
    /// The water marks (low, high).
    SetLimits(u128, u128),
    PauseReading,
    ResumeReading,
    Close,
    Abort(Option<Py<PyAny>>),
}

/// A stream transport on a connected socket.
#[pyclass(frozen, subclass, weakref, dict, module = "rloop._rloop")]
pub(crate) struct StreamTransport {
    pub(super) state: Mutex<StreamState>,
    pub(super) place: Place,
    pub(super) forwarded: Forwarded<Remote>,
}

impl Endpoint for StreamTransport {
    fn with_ends<R>(&self, operation: impl FnOnce(&Py<EventLoop>, &Py<PyAny>) -> R) -> Option<R> {
        let state = self.state.lock();
        state.objects.as_ref().map(|objects| operation(&objects.event_loop, &objects.protocol))
    }

    fn own_context(&self, py: Python<'_>) -> Option<Py<PyContext>> {
        let state = self.state.lock();
        state.objects.as_ref()?.own_context.as_ref().map(|context| context.clone_ref(py))
    }
}

impl Forwarding for StreamTransport {
    type Call = Remote;

    fn forwarded(&self) -> &Forwarded<Remote> {
        &self.forwarded
    }

    fn home_shard(&self) -> Option<&Arc<Shard>> {
        Some(&self.place.home)
    }

    fn make(slf: &Bound<'_, Self>, call: Remote) -> PyResult<()> {
        match call {
            Remote::Write(data) => {
                let written = slf.get().state.lock().write(data.as_ref(), |sent| {
                    Ok((Chunk::Shared(data.clone_ref(slf.py())), sent))
                });
                Self::finish_write(slf, written)
            }
            Remote::WriteLines(chunks) => {
                let checked = slf.get().state.lock().check_writable("writelines");
                checked.and_then(|()| Self::write_chunks(slf, chunks))
            }
            Remote::SetLimits(low, high) => {
                slf.get().state.lock().flow.set_limits(low, high);
                Self::review_flow_here(slf)
            }
            Remote::WriteEof => slf.get().write_eof_here(slf.py()),
            Remote::PauseReading => Self::pause_here(slf),
            Remote::ResumeReading => Self::resume_here(slf),
            Remote::Close => Self::close_here(slf),
            Remote::Abort(error) => Self::force_close(slf, error),
        }
    }

    fn stops_reading(call: &Remote) -> Option<bool> {
        match call {
            Remote::PauseReading | Remote::Close | Remote::Abort(_) => Some(true),
            Remote::ResumeReading => Some(false),
            _ => None,
        }
    }

    fn errand(slf: &Bound<'_, Self>, number: u64) -> Call {
        Call::Stream(slf.clone().unbind(), number)
    }

    fn note_forwarded(&self, call: &Remote) {
        if matches!(call, Remote::Close | Remote::Abort(_)) {
            self.place.note_close();
        }
    }
}

impl StreamTransport {
    /// Where the transport lives.
    pub(crate) fn home(&self) -> &Arc<Shard> {
        &self.place.home
    }

    /// The context of a callback that is scheduled now: the transport's own, or a copy of the current
    /// one.
    pub(super) fn callback_context(&self, py: Python<'_>) -> PyResult<Py<PyContext>> {
        self.own_context(py).map_or_else(|| ffi::copy_context(py), Ok)
    }

    /// Ends a transport that could not be registered with `error`.
    pub(crate) fn fail(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        error: Py<PyAny>,
    ) -> Result<(), Interrupt> {
        let ended = Self::force_close(slf, Some(error));
        Self::settle_remote(slf, Some(event_loop), ended)
    }

    /// The context of the callbacks of that direction; `None` once the transport is closed.
    pub(crate) fn context_of(&self, py: Python<'_>, direction: Direction) -> Option<Py<PyContext>> {
        let state = self.state.lock();
        match direction {
            Direction::Read => Some(state.objects.as_ref()?.read_path.context.clone_ref(py)),
            Direction::Write => state.write_context(py),
        }
    }

    /// Runs the transport's `callback` inside `context`. Its failure is reported as that of a handle.
    ///
    /// A program can get at the context that a transport has from CPython 3.15 on, and another thread may
    /// have entered it. asyncio reports that and calls again. Here data may have been taken from the
    /// kernel already, so after the report the callback runs outside of the context.
    pub(super) fn run_in(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        context: &Bound<'_, PyContext>,
        callback: &str,
        operation: impl FnOnce() -> PyResult<()>,
    ) -> Result<(), Interrupt> {
        let mut operation = Some(operation);
        let ran = ffi::in_context(context, || operation.take().map_or(Ok(()), |run| run()));
        let Err(error) = ran else {
            return Ok(());
        };
        let Some(operation) = operation else {
            return Self::callback_failed(slf, event_loop, callback, Some(context), error);
        };
        Self::callback_failed(slf, event_loop, callback, None, error)?;
        operation().or_else(|error| Self::callback_failed(slf, event_loop, callback, None, error))
    }

    /// Deals with a protocol method that raised: reports it and ends the connection, unless it is an
    /// interrupt.
    #[cold]
    pub(super) fn protocol_failed(
        slf: &Bound<'_, Self>,
        error: PyErr,
        method: &str,
    ) -> PyResult<()> {
        let error = interrupt::reportable(slf.py(), error)?;
        Self::fatal_error(slf, error, &format!("Fatal error: protocol.{method}() call failed."))
    }
}
