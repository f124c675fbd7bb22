//! From `write()` to the socket: at once if nothing waits, else through the queue; and flow control.

use super::state::Objects;
use super::transport::{Remote, StreamTransport};
use crate::loop_::event_loop::EventLoop;
use crate::py::error::{Finally, OrOsError, os_error};
use crate::py::interrupt::Interrupt;
use crate::py::{buffer, ffi};
use crate::runtime::stream::Flushed;
use crate::transport::core::{Endpoint, Polled, Queueing, warn_about_lost_write};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

/// How a write that is not finished went.
enum Written {
    /// The kernel took so many bytes.
    Partly(usize),
    /// The connection is gone; so many writes came after that, plus one.
    Lost(u32),
    Failed(std::io::Error),
}

impl StreamTransport {
    pub(crate) fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = data.cast::<PyBytes>();
        if bytes.is_err() {
            buffer::check(data)?;
        }
        if Self::forward(slf, || buffer::snapshot(data).map(Remote::Write))? {
            return Ok(());
        }
        match bytes {
            Ok(bytes) => Self::write_checked(slf, bytes.as_bytes(), || buffer::snapshot(data)),
            Err(_) => ffi::with_bytes(data, |bytes| {
                Self::write_checked(slf, bytes, || buffer::snapshot(data))
            })?,
        }
    }

    /// Writes checked bytes: at once if nothing waits, and the rest when the socket has room.
    pub(super) fn write_checked(
        slf: &Bound<'_, Self>,
        bytes: &[u8],
        snapshot: impl FnOnce() -> PyResult<PyBackedBytes>,
    ) -> PyResult<()> {
        let py = slf.py();
        let written = {
            let mut state = slf.get().state.lock();
            if state.eof_written || state.empty_waiter.is_some() {
                state.check_writable("write")?;
            }
            // asyncio does not count an empty write.
            let lost = if bytes.is_empty() { None } else { state.life.note_write() };
            match lost {
                Some(count) => Written::Lost(count),
                None => match state.write_now(bytes) {
                    Ok(sent) if sent == bytes.len() => return Ok(()),
                    Ok(sent) => Written::Partly(sent),
                    Err(error) => Written::Failed(error),
                },
            }
        };
        let sent = match written {
            Written::Partly(sent) => sent,
            Written::Lost(count) => return warn_about_lost_write(py, count),
            Written::Failed(error) => {
                return Self::fatal_error(
                    slf,
                    os_error(py, &error),
                    "Fatal write error on socket transport",
                );
            }
        };
        Self::enqueue(slf, snapshot()?, sent)
    }

    /// Gives the socket what it takes of `bytes`, if nothing is in the way of a `write()`; returns how
    /// much that was. No Python code runs. [`StreamTransport::write_on`] has to follow.
    pub(crate) fn write_ahead(&self, bytes: &[u8]) -> std::io::Result<usize> {
        let state = self.state.lock();
        if state.eof_written || state.empty_waiter.is_some() || state.life.is_lost() {
            return Ok(0);
        }
        state.write_now(bytes)
    }

    /// Completes a write that [`StreamTransport::write_ahead`] began: `rest` is what was left.
    pub(crate) fn write_on(
        slf: &Bound<'_, Self>,
        ahead: std::io::Result<usize>,
        rest: Option<Bound<'_, PyBytes>>,
    ) -> PyResult<()> {
        match (ahead, rest) {
            (Err(error), _) => {
                let error = os_error(slf.py(), &error);
                Self::fatal_error(slf, error, "Fatal write error on socket transport")
            }
            (Ok(_), None) => Ok(()),
            // Something is in the way, or the socket is full: that is for `write()` to say.
            (Ok(0), Some(rest)) => Self::write(slf, rest.as_any()),
            (Ok(_), Some(rest)) => Self::enqueue(slf, PyBackedBytes::from(rest), 0),
        }
    }

    pub(super) fn enqueue(
        slf: &Bound<'_, Self>,
        data: PyBackedBytes,
        offset: usize,
    ) -> PyResult<()> {
        let context = slf.get().callback_context(slf.py())?;
        let (change, old_context) = {
            let mut state = slf.get().state.lock();
            let starts = state.queue.is_empty();
            let change = state.enqueue(data, offset);
            let old_context = if starts { state.set_write_context(context) } else { Some(context) };
            (change, old_context)
        };
        drop(old_context);
        Self::update_interest(slf);
        match change {
            Ok(change) => Self::apply_flow_change(slf, change),
            Err(error) => {
                let error = os_error(slf.py(), &error);
                Self::fatal_error(slf, error, "Fatal write error on socket transport")
            }
        }
    }

    /// Queues all of `chunks` and sends them together.
    pub(super) fn write_chunks(slf: &Bound<'_, Self>, chunks: Vec<PyBackedBytes>) -> PyResult<()> {
        let py = slf.py();
        let lost = slf.get().with_lifecycle(Lifecycle::note_write);
        if let Some(count) = lost {
            return warn_about_lost_write(py, count);
        }
        let mut used = Vec::new();
        let (flushed, change) = {
            let mut state = slf.get().state.lock();
            for chunk in chunks {
                state.queue.push(chunk, 0);
            }
            let flushed = state.flush(&mut used);
            let buffered = state.queue.len();
            let change = match flushed {
                Ok(Flushed::Partly) => state.flow.grown(buffered),
                Ok(Flushed::Everything) => state.flow.shrunk(buffered),
                Err(_) => FlowChange::Unchanged,
            };
            (flushed, change)
        };
        drop(used);
        if matches!(flushed, Ok(Flushed::Partly)) {
            let context = slf.get().callback_context(py)?;
            let old_context = slf.get().state.lock().set_write_context(context);
            drop(old_context);
        }
        Self::update_interest(slf);
        if let Err(error) = flushed {
            return Self::write_failed(slf, os_error(py, &error));
        }
        let told = Self::apply_flow_change(slf, change);
        told.finally(py, Self::finish_if_empty(slf))
    }

    /// The socket has room again.
    pub(crate) fn on_writable(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let context = {
            let state = slf.get().state.lock();
            if state.life.is_lost() || state.queue.is_empty() {
                return Ok(());
            }
            match &state.objects {
                Some(Objects { write_context: Some(context), .. }) => context.clone_ref(py),
                _ => return Ok(()),
            }
        };
        let context = context.bind(py);
        ffi::in_context(context, || Self::flush(slf)).or_else(|error| {
            Self::callback_failed(slf, event_loop, "_write_ready", Some(context), error)
        })
    }

    /// Sends what is queued, and does what waits for the queue to be empty.
    pub(super) fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut used = Vec::new();
        let (flushed, change) = {
            let mut state = slf.get().state.lock();
            let flushed = state.flush(&mut used);
            let buffered = state.queue.len();
            (flushed, state.flow.shrunk(buffered))
        };
        drop(used);
        Self::update_interest(slf);
        if let Err(error) = flushed {
            return Self::write_failed(slf, os_error(py, &error));
        }
        let told = Self::apply_flow_change(slf, change);
        told.finally(py, Self::finish_if_empty(slf))
    }

    /// Does what waits for the queue to be empty. The call before may have queued more.
    fn finish_if_empty(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let waiter = {
            let state = slf.get().state.lock();
            if !state.queue.is_empty() {
                return Ok(());
            }
            state.empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py))
        };
        // The waiter of a cancelled sendfile() refuses the result.
        let told = waiter.map_or(Ok(()), |waiter| {
            waiter.call_method1(py, intern!(py, "set_result"), (py.None(),)).map(drop)
        });
        let ended = if slf.get().with_queue(Lifecycle::drained) {
            Self::connection_lost(slf, None)
        } else if slf.get().state.lock().eof_written {
            slf.get().shutdown_write(py)
        } else {
            Ok(())
        };
        told.finally(py, ended)
    }

    pub(super) fn write_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        let waiter =
            slf.get().state.lock().empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py));
        let exception = error.clone_ref(py);
        let ended = Self::fatal_error(slf, error, "Fatal write error on socket transport");
        let told = waiter.map_or(Ok(()), |waiter| {
            waiter.call_method1(py, intern!(py, "set_exception"), (exception,)).map(drop)
        });
        ended.finally(py, told)
    }

    pub(super) fn write_eof_here(&self, py: Python<'_>) -> PyResult<()> {
        let shut_down = {
            let mut state = self.state.lock();
            if state.life.is_closing() || state.eof_written {
                return Ok(());
            }
            state.eof_written = true;
            state.queue.is_empty()
        };
        if shut_down { self.shutdown_write(py) } else { Ok(()) }
    }

    pub(super) fn shutdown_write(&self, py: Python<'_>) -> PyResult<()> {
        match &self.state.lock().socket {
            Some(socket) => socket.shutdown_write().or_os_error(py),
            None => Ok(()),
        }
    }
}
