//! From `write()` to the socket: at once if nothing waits, else through the queue; and flow control.

use super::state::Written;
use super::transport::{Remote, StreamTransport};
use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::Chunk;
use crate::py::error::{Finally, OrOsError, os_error};
use crate::py::ffi::SharedBytes;
use crate::py::interrupt::Interrupt;
use crate::py::{buffer, ffi};
use crate::runtime::stream::{Flushed, StreamSocket};
use crate::transport::core::{Endpoint, Polled, Queueing, warn_about_lost_write};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

impl StreamTransport {
    pub(crate) fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = data.cast::<PyBytes>();
        if bytes.is_err() {
            buffer::check(data)?;
        }
        if Self::forward(slf, || buffer::snapshot(data).map(Remote::Write))? {
            return Ok(());
        }
        let written =
            match bytes {
                Ok(bytes) => slf.get().state.lock().write(bytes.as_bytes(), |sent| {
                    Ok((Chunk::Shared(SharedBytes::new(bytes)), sent))
                }),
                Err(_) => ffi::with_bytes(data, |bytes| slf.get().write_copied(bytes))?,
            };
        Self::finish_write(slf, written)
    }

    /// Writes bytes that change after this call. No Python code runs. [`StreamTransport::finish_write`]
    /// has to follow.
    pub(crate) fn write_copied(&self, bytes: &[u8]) -> Written {
        self.state.lock().write(bytes, |sent| Ok((Chunk::copy(&bytes[sent..])?, 0)))
    }

    /// Does what a write leaves to do.
    #[inline]
    pub(crate) fn finish_write(slf: &Bound<'_, Self>, written: Written) -> PyResult<()> {
        match written {
            Written::Everything => Ok(()),
            written => Self::finish_unsent(slf, written),
        }
    }

    #[cold]
    fn finish_unsent(slf: &Bound<'_, Self>, written: Written) -> PyResult<()> {
        let py = slf.py();
        match written {
            Written::Everything => Ok(()),
            Written::Queued { starts, change } => {
                if starts {
                    Self::renew_write_context(slf);
                }
                Self::update_interest(slf);
                Self::apply_flow_change(slf, change)
            }
            Written::Lost(count) => warn_about_lost_write(py, count),
            Written::Refused(error) => Err(error),
            Written::Failed(error) => {
                let error = os_error(py, &error);
                Self::fatal_error(slf, error, "Fatal write error on socket transport")
            }
        }
    }

    /// Makes a copy of the current context that of the writing callbacks. Without memory for one they
    /// keep the context they have, so that what is queued is sent.
    fn renew_write_context(slf: &Bound<'_, Self>) {
        let py = slf.py();
        match slf.get().callback_context(py) {
            Ok(context) => {
                let replaced = slf.get().state.lock().set_write_context(context);
                drop(replaced);
            }
            Err(error) => error.write_unraisable(py, Some(slf)),
        }
    }

    /// Queues all of `chunks` and sends them together.
    pub(super) fn write_chunks(slf: &Bound<'_, Self>, chunks: Vec<SharedBytes>) -> PyResult<()> {
        let py = slf.py();
        let mut used = Vec::with_capacity(chunks.len());
        let written = {
            let mut state = slf.get().state.lock();
            if let Some(count) = state.life.note_write() {
                Err(count)
            } else {
                for chunk in chunks {
                    used.extend(state.queue.push(Chunk::Shared(chunk), 0));
                }
                let flushed = state.flush(&mut used);
                let buffered = state.queue.len();
                let change = match flushed {
                    Ok(Flushed::Partly) => state.flow.grown(buffered),
                    Ok(Flushed::Everything) => state.flow.shrunk(buffered),
                    Err(_) => FlowChange::Unchanged,
                };
                Ok((flushed, change))
            }
        };
        drop(used);
        let (flushed, change) = match written {
            Ok(written) => written,
            Err(count) => return warn_about_lost_write(py, count),
        };
        if matches!(flushed, Ok(Flushed::Partly)) {
            Self::renew_write_context(slf);
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
            match state.write_context(py) {
                Some(context) => context,
                None => return Ok(()),
            }
        };
        Self::run_in(slf, event_loop, context.bind(py), "_write_ready", || Self::flush(slf))
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
        } else if slf.get().is_to_shut_down() {
            slf.get().shutdown_write(py)
        } else {
            Ok(())
        };
        told.finally(py, ended)
    }

    /// True if nothing is left to send before the end.
    fn is_to_shut_down(&self) -> bool {
        let state = self.state.lock();
        state.eof_written && state.queue.is_empty()
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
        let shut_down = self.state.lock().socket.as_ref().map(StreamSocket::shutdown_write);
        shut_down.map_or(Ok(()), |shut_down| shut_down.or_os_error(py))
    }
}
