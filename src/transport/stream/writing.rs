//! From `write()` to the socket: at once if nothing waits, else through the queue; and flow control.

use super::state::Written;
use super::transport::{Remote, StreamTransport};
use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::Chunk;
use crate::py::error::{Finally, OrOsError, os_error};
use crate::py::ffi::SharedBytes;
use crate::py::interrupt::{self, Interrupt};
use crate::py::{buffer, ffi};
use crate::runtime::stream::{Flushed, StreamSocket};
use crate::transport::core::{Endpoint, Forwarding, Polled, Queueing, warn_about_lost_write};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

impl StreamTransport {
    pub(crate) fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let Ok(bytes) = data.cast_exact::<PyBytes>() else {
            return Self::write_object(slf, data);
        };
        if Self::forward(slf, || Ok(Remote::Write(SharedBytes::new(bytes))))? {
            return Ok(());
        }
        Self::finish_write(slf, slf.get().write_shared(bytes))
    }

    /// Writes what is no plain `bytes` object: its length and its buffer may be methods of the program.
    #[inline(never)]
    fn write_object(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        buffer::check(data)?;
        if !slf.get().place.home.is_elsewhere() {
            slf.get().state.lock().check_writable("write")?;
        }
        if !data.is_truthy()? {
            return Ok(());
        }
        if Self::forward(slf, || buffer::snapshot(data).map(Remote::Write))? {
            return Ok(());
        }
        let written = match buffer::as_bytes(data) {
            Some(bytes) => Ok(slf.get().write_shared(bytes)),
            None => ffi::with_bytes(data, |bytes| slf.get().write_copied(bytes)),
        };
        match written {
            Ok(written) => Self::finish_write(slf, written),
            Err(error) => Self::no_buffer(slf, error),
        }
    }

    /// Deals with the exception of an object whose bytes cannot be had, as asyncio, which gives the object
    /// to the socket.
    #[cold]
    fn no_buffer(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        if slf.get().place.home.is_elsewhere() {
            return Err(error);
        }
        let (lost, is_waiting) = {
            let mut state = slf.get().state.lock();
            (state.life.note_write(), !state.queue.is_empty())
        };
        if let Some(count) = lost {
            return warn_about_lost_write(slf.py(), count);
        }
        if is_waiting && !cfg!(Py_3_12) {
            // asyncio copied it into its buffer at once.
            return Err(error);
        }
        let error = interrupt::reportable(slf.py(), error)?;
        Self::fatal_error(slf, error, "Fatal write error on socket transport")
    }

    /// Writes bytes that do not change. No Python code runs. [`StreamTransport::finish_write`] has to
    /// follow.
    #[expect(clippy::inline_always, reason = "once per packet; its second caller is rare")]
    #[inline(always)]
    fn write_shared(&self, bytes: &Bound<'_, PyBytes>) -> Written {
        let rest = |sent| Ok((Chunk::Shared(SharedBytes::new(bytes)), sent));
        self.state.lock().write(bytes.as_bytes(), rest)
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

    /// Writes an iterable of bytes-like objects, in one piece: nothing of other senders comes in between.
    pub(super) fn write_lines(slf: &Bound<'_, Self>, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if !cfg!(Py_3_12) {
            // asyncio.WriteTransport.writelines() joined the parts before 3.12.
            let joined = PyBytes::new(py, b"").call_method1("join", (lines,))?;
            return Self::write(slf, &joined);
        }
        slf.get().state.lock().check_writable("writelines")?;
        if !lines.is_truthy()? {
            return Ok(());
        }
        let mut chunks = Vec::new();
        let mut failure = None;
        for line in lines.try_iter()? {
            let line = line?;
            if let Ok(bytes) = line.cast_exact() {
                chunks.push(SharedBytes::new(bytes));
            } else if cfg!(Py_3_15) && !line.is_truthy()? {
                // asyncio leaves out what is false, whatever it is.
            } else {
                let view = PyMemoryView::from(&line)?;
                let chunk = match buffer::as_bytes(&line) {
                    Some(bytes) => Ok(SharedBytes::new(bytes)),
                    // asyncio counts what is gone by the lengths of the views.
                    None => view.len().and_then(|_| buffer::snapshot(&view)),
                };
                match chunk {
                    Ok(chunk) => chunks.push(chunk),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        if let Some(error) = failure {
            // asyncio does not know until it hands them all to the socket.
            return Self::no_buffer(slf, error);
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let mut chunks = Some(chunks);
        if Self::forward(slf, || Ok(Remote::WriteLines(chunks.take().unwrap_or_default())))? {
            return Ok(());
        }
        Self::write_chunks(slf, chunks.unwrap_or_default())
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
