//! The end of a connection: the exchange of close notifications, failures, `connection_lost()`.

use super::engine::Progress;
use super::protocol::TlsProtocol;
use super::state::{Phase, Stream, Told};
use crate::loop_::event_loop::EventLoop;
use crate::py::imports;
use crate::transport::core::Endpoint;
use pyo3::exceptions::{PyException, PyOSError, PyRuntimeError, PyTimeoutError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyString, PyTuple};
use std::time::Duration;

/// How long a failed connection waits for the peer to take the alert, and what was sent before it.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);

/// `ssl.SSL_ERROR_EOF`
const SSL_ERROR_EOF: i32 = 8;

impl TlsProtocol {
    /// Begins an orderly end.
    pub(super) fn start_shutdown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (phase, transport) = {
            let state = slf.get().state.lock();
            (state.phase, state.links.transport.as_ref().map(|transport| transport.clone_ref(py)))
        };
        if !matches!(phase, Phase::Handshaking | Phase::Wrapped) {
            return Ok(());
        }
        if let Some(transport) = transport {
            transport.get().mark_closed();
        }
        if phase == Phase::Handshaking {
            return Self::abort(slf, None);
        }
        slf.get().state.lock().phase = Phase::Flushing;
        Self::start_shutdown_timer(slf)?;
        Self::flush(slf)
    }

    fn start_shutdown_timer(slf: &Bound<'_, Self>) -> PyResult<()> {
        let method = intern!(slf.py(), "_check_shutdown_timeout");
        let timer = Self::call_later(slf, &slf.get().timeouts.shutdown, method)?;
        let replaced = slf.get().state.lock().links.shutdown_timer.replace(timer);
        drop(replaced);
        Ok(())
    }

    /// The close notifications are exchanged: the timer ends, or it goes on until the transport below
    /// has flushed what it queued.
    fn settle_shutdown_timer(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !slf.get().timeouts.shutdown_includes_flush {
            return Self::cancel_shutdown_timer(slf);
        }
        if slf.get().state.lock().links.shutdown_timer.is_some() {
            return Ok(());
        }
        // The peer began the shutdown.
        Self::start_shutdown_timer(slf)
    }

    pub(super) fn check_shutdown_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        let phase = slf.get().state.lock().phase;
        if matches!(phase, Phase::Flushing | Phase::ShuttingDown) {
            let error = PyTimeoutError::new_err("SSL shutdown timed out");
            Self::force_close(slf, Some(error.into_value(slf.py()).into_any()))?;
        }
        Ok(())
    }

    /// Delivers what has come, encrypts all that was written, and ends the session.
    pub(super) fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::read(slf)?;
        Self::or_fatal(slf, Self::send_backlog(slf, true))?;
        {
            let mut state = slf.get().state.lock();
            if state.phase != Phase::Flushing {
                // The application, which was told of what came, has ended the connection.
                return Ok(());
            }
            state.phase = Phase::ShuttingDown;
        }
        Self::shut_down(slf)
    }

    /// Exchanges close notifications, unless the transport below has ended.
    pub(super) fn shut_down(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (engine, eof, is_truncated) = {
            let state = slf.get().state.lock();
            let reading = &state.reading;
            let is_truncated = reading.stream == Stream::EndedFirst && !reading.close_notified;
            (state.links.engine.clone(), reading.stream != Stream::Open, is_truncated)
        };
        let closed = match engine {
            Some(engine) if is_truncated && engine.refuses_truncation() => {
                let (code, text) =
                    (SSL_ERROR_EOF, "EOF occurred in violation of protocol (rustls)");
                let error = imports::SSL_EOF_ERROR.get(py)?.call1((code, text))?;
                Err(PyErr::from_value(error))
            }
            Some(engine) if !eof => {
                let closed = engine.close(py);
                if matches!(closed, Ok(Progress::Done)) {
                    slf.get().state.lock().reading.close_notified = true;
                }
                closed
            }
            _ => Ok(Progress::Done),
        };
        match closed {
            Ok(Progress::Waiting) => {
                Self::send_records(slf, true)?;
                // The engine has dropped what the application did not want to read.
                Self::control_reading(slf)
            }
            Ok(Progress::Done) => {
                Self::send_records(slf, true)?;
                Self::tell_eof(slf)?;
                Self::settle_shutdown_timer(slf)?;
                Self::close_lower_soon(slf)
            }
            Err(error) if error.is_instance(py, imports::SSL_ERROR.get(py)?) => {
                Self::cancel_shutdown_timer(slf)?;
                Self::fatal_error(slf, error, "Fatal error on transport")
            }
            Err(error) => Err(error),
        }
    }

    fn close_lower_soon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (event_loop, lower) = {
            let state = slf.get().state.lock();
            let (Some(event_loop), Some(lower)) = (&state.links.event_loop, &state.links.lower)
            else {
                return Ok(());
            };
            (event_loop.clone_ref(py), lower.clone_ref(py))
        };
        let close = lower.object().getattr(py, intern!(py, "close"))?;
        EventLoop::schedule(event_loop.bind(py), close, PyTuple::empty(py).unbind(), None)?;
        Ok(())
    }

    /// The transport below has received the end. True keeps it open.
    pub(super) fn on_end(slf: &Bound<'_, Self>) -> PyResult<bool> {
        match Self::try_to_end(slf) {
            Err(error) if error.is_instance_of::<PyException>(slf.py()) => {
                Self::close_lower(slf)?;
                Err(error)
            }
            ended => ended,
        }
    }

    fn try_to_end(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::log(slf, "debug", "%r received EOF")?;
        let (phase, is_paused) = {
            let mut state = slf.get().state.lock();
            let phase = state.phase;
            if phase == Phase::Wrapped {
                state.phase = Phase::Flushing;
                state.reading.stream = Stream::EndedFirst;
            } else if state.reading.stream == Stream::Open {
                state.reading.stream = Stream::EndedLast;
            }
            (phase, state.reading.paused)
        };
        match phase {
            Phase::Unwrapped => (),
            Phase::Handshaking => Self::handshake_cut_off(slf)?,
            // What has come is delivered when the application resumes reading.
            Phase::Wrapped if is_paused => return Ok(true),
            Phase::Wrapped => Self::flush(slf)?,
            Phase::Flushing => {
                Self::send_backlog(slf, true)?;
                slf.get().state.lock().phase = Phase::ShuttingDown;
                Self::shut_down(slf)?;
            }
            Phase::ShuttingDown => Self::shut_down(slf)?,
        }
        Ok(false)
    }

    /// Ends the connection at once.
    pub(super) fn abort(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        Self::send_early(slf)?;
        slf.get().state.lock().phase = Phase::Unwrapped;
        Self::force_close(slf, error)
    }

    /// Ends the connection because of `error`; reports it unless it is the network's or the peer's.
    pub(super) fn fatal_error(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        let exception = error.clone_ref(py).into_value(py).into_any();
        if error.is_instance(py, imports::SSL_ERROR.get(py)?) {
            Self::close_with_alert(slf, exception)?;
        } else {
            Self::force_close(slf, Some(exception))?;
        }
        if error.is_instance(py, imports::CANCELLED_ERROR.get(py)?) {
            return Ok(());
        }
        let is_expected = error.is_instance_of::<PyOSError>(py);
        Self::tell_of_failure(slf, error, message, is_expected)
    }

    /// Ends the connection once the engine's alert is sent (RFC 8446, 6.2). A peer that takes no more
    /// data has [`ALERT_TIMEOUT`] to take it.
    fn close_with_alert(slf: &Bound<'_, Self>, error: Py<PyAny>) -> PyResult<()> {
        let py = slf.py();
        let (engine, lower) = {
            let state = slf.get().state.lock();
            let lower = state.links.lower.as_ref().map(|lower| lower.clone_ref(py));
            (state.links.engine.clone(), lower)
        };
        let (Some(engine), Some(lower)) = (engine, lower) else {
            return Ok(());
        };
        // It counts even if the alert cannot be sent.
        slf.get().state.lock().links.failure.get_or_insert_with(|| error.clone_ref(py));
        let alert = engine.take_records(py)?;
        if alert.as_bytes().is_empty() {
            return lower.force_close(py, Some(error));
        }
        lower.write(&alert)?;
        if lower.unsent(py)? == 0 {
            return lower.force_close(py, Some(error));
        }
        let transport = {
            let mut state = slf.get().state.lock();
            state.phase = Phase::Unwrapped;
            state.links.transport.as_ref().map(|it| it.clone_ref(py))
        };
        if let Some(transport) = transport {
            transport.get().mark_closed();
        }
        let delay = PyFloat::new(py, ALERT_TIMEOUT.as_secs_f64()).into_any().unbind();
        let timer = Self::call_later(slf, &delay, intern!(py, "_check_alert_timeout"))?;
        let replaced = slf.get().state.lock().links.shutdown_timer.replace(timer);
        Self::cancel(py, replaced)?;
        lower.call(py, "close")
    }

    /// The peer has not taken the alert in time. It does not matter which error is passed on: the
    /// application is told of [`Links::failure`](super::state::Links::failure).
    pub(super) fn check_alert_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::force_close(slf, None)
    }

    fn force_close(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let lower = slf.get().state.lock().links.lower.as_ref().map(|lower| lower.clone_ref(py));
        lower.map_or(Ok(()), |lower| lower.force_close(py, error))
    }

    fn close_lower(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let lower = slf.get().state.lock().links.lower.as_ref().map(|lower| lower.clone_ref(py));
        lower.map_or(Ok(()), |lower| lower.call(py, "close"))
    }

    /// The application has closed a connection that was closing, as by `with` and `close()`. Once the
    /// connection is gone, it lets go of the session, as in asyncio: whoever keeps the transport does
    /// not keep the `SSLContext`.
    pub(super) fn forget(slf: &Bound<'_, Self>) {
        let (extra, forgotten) = {
            let mut state = slf.get().state.lock();
            state.is_forgotten = true;
            if state.links.lower.is_some() {
                return;
            }
            (state.extra.clone_ref(slf.py()), state.links.engine.take())
        };
        drop(forgotten);
        extra.bind(slf.py()).clear();
    }

    /// The transport below is gone: tells the application, and lets go of everything.
    pub(super) fn end(slf: &Bound<'_, Self>, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let (is_to_tell, is_forgotten, event_loop, application, failure, dropped, timers) = {
            let mut state = slf.get().state.lock();
            let is_to_tell =
                state.phase != Phase::Handshaking && matches!(state.told, Told::Made | Told::Eof);
            if is_to_tell {
                state.told = Told::Lost;
            }
            state.phase = Phase::Unwrapped;
            state.writing.lost = state.writing.lost.saturating_add(1);
            let unsent = state.writing.backlog.take();
            let is_forgotten = state.is_forgotten;
            let links = &mut state.links;
            if let Some(transport) = &links.transport {
                transport.get().mark_closed();
            }
            (
                is_to_tell,
                is_forgotten,
                links.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)),
                links.application.take(),
                links.failure.take(),
                (links.lower.take(), links.transport.take(), links.buffer.take(), unsent),
                [links.shutdown_timer.take(), links.handshake_timer.take()],
            )
        };
        drop(dropped);
        if is_forgotten {
            Self::forget(slf);
        }
        let error = failure.or_else(|| error.map(Bound::unbind));
        if let (true, Some(event_loop), Some(application)) = (is_to_tell, event_loop, application) {
            let callback = application.protocol.getattr(py, intern!(py, "connection_lost"))?;
            let arguments = PyTuple::new(py, [error.as_ref()])?.unbind();
            event_loop.get().check_closed()?;
            EventLoop::schedule(event_loop.bind(py), callback, arguments, None)?;
        }
        Self::wake_waiter(slf, error)?;
        timers.into_iter().try_for_each(|timer| Self::cancel(py, timer))
    }

    fn cancel_shutdown_timer(slf: &Bound<'_, Self>) -> PyResult<()> {
        let timer = slf.get().state.lock().links.shutdown_timer.take();
        Self::cancel(slf.py(), timer)
    }

    pub(super) fn cancel(py: Python<'_>, timer: Option<Py<PyAny>>) -> PyResult<()> {
        timer.map_or(Ok(()), |timer| timer.call_method0(py, intern!(py, "cancel")).map(|_| ()))
    }

    /// Schedules one of this protocol's methods, `delay` in seconds.
    pub(super) fn call_later(
        slf: &Bound<'_, Self>,
        delay: &Py<PyAny>,
        method: &Bound<'_, PyString>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let callback = slf.getattr(method)?;
        let event_loop = slf.get().event_loop(py);
        let event_loop = event_loop
            .ok_or_else(|| PyRuntimeError::new_err("the connection was garbage-collected"))?;
        Ok(event_loop.call_method1(intern!(py, "call_later"), (delay, callback))?.unbind())
    }

    /// Schedules one of this protocol's methods for the next iteration.
    pub(super) fn call_soon(slf: &Bound<'_, Self>, method: &Bound<'_, PyString>) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().event_loop(py) else {
            return Ok(());
        };
        let callback = slf.getattr(method)?.unbind();
        EventLoop::schedule(&event_loop, callback, PyTuple::empty(py).unbind(), None)?;
        Ok(())
    }
}
