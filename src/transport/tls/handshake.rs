//! From the first byte to `connection_made()`, or to the exception that the waiter gets.

use super::engine::Progress;
use super::lower::Lower;
use super::protocol::TlsProtocol;
use super::state::{Phase, Told};
use crate::py::imports;
use crate::runtime::clock;
use crate::transport::core::Endpoint;
use pyo3::exceptions::{PyConnectionAbortedError, PyConnectionResetError};
use pyo3::intern;
use pyo3::prelude::*;

const FAILED: &str = "SSL handshake failed";
const NOT_VERIFIED: &str = "SSL handshake failed on verifying the certificate";

impl TlsProtocol {
    pub(super) fn start_handshake(slf: &Bound<'_, Self>, lower: Lower) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (replaced, is_closed) = {
            let mut state = this.state.lock();
            let is_closed = state
                .links
                .transport
                .as_ref()
                .is_some_and(|transport| transport.get().is_marked_closed());
            (state.links.lower.replace(lower), is_closed)
        };
        drop(replaced);
        if is_closed {
            // Closed before it was connected, as by the cancellation of create_connection().
            return Self::abort(slf, None);
        }
        Self::log(slf, "debug", "%r starts SSL handshake")?;
        let began = this.is_debug(py).then(clock::now);
        {
            let mut state = this.state.lock();
            state.phase = Phase::Handshaking;
            state.handshake_began = began;
        }
        let timer = Self::call_later(
            slf,
            &this.timeouts.handshake,
            intern!(py, "_check_handshake_timeout"),
        )?;
        let replaced = this.state.lock().links.handshake_timer.replace(timer);
        drop(replaced);
        Self::shake_hands(slf)
    }

    pub(super) fn check_handshake_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().state.lock().phase != Phase::Handshaking {
            return Ok(());
        }
        let seconds = slf.get().timeouts.handshake.bind(slf.py()).str()?;
        let error = PyConnectionAbortedError::new_err(format!(
            "SSL handshake is taking longer than {seconds} seconds: aborting the connection"
        ));
        Self::fatal_error(slf, error, "Fatal error on transport")
    }

    pub(super) fn shake_hands(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let Some(engine) = slf.get().engine() else {
            return Ok(());
        };
        match engine.handshake(py) {
            Ok(Progress::Waiting) => Self::send_records(slf, false),
            Ok(Progress::Done) => Self::handshake_done(slf),
            Err(error) if error.is_instance(py, imports::SSL_ERROR.get(py)?) => {
                Self::handshake_failed(slf, error)
            }
            Err(error) => Err(error),
        }
    }

    fn handshake_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        Self::cancel_handshake_timer(slf)?;
        let (began, application) = {
            let mut state = slf.get().state.lock();
            if state.phase != Phase::Handshaking {
                // A callback of the handshake has ended the connection.
                return Ok(());
            }
            state.phase = Phase::Wrapped;
            state.has_negotiated = true;
            let application = match (&state.links.application, &state.links.transport) {
                (Some(application), Some(transport)) if state.told == Told::Nothing => {
                    Some((application.protocol.clone_ref(py), transport.clone_ref(py)))
                }
                _ => None,
            };
            if application.is_some() {
                state.told = Told::Made;
            }
            (state.handshake_began.take(), application)
        };
        if let Some(began) = began {
            let milliseconds = (clock::now() - began) * 1e3;
            let message = "%r: SSL handshake took %.1f ms";
            imports::logger(py)?.call_method1("debug", (message, slf, milliseconds))?;
        }
        if let Some((protocol, transport)) = application {
            Self::gathering(slf, || {
                protocol.call_method1(py, intern!(py, "connection_made"), (transport,))
            })?;
        }
        Self::wake_waiter(slf, None)?;
        // What the application wrote to a connection that had no session yet is sent as well.
        Self::read(slf)
    }

    pub(super) fn handshake_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        Self::cancel_handshake_timer(slf)?;
        slf.get().state.lock().phase = Phase::Unwrapped;
        let message = if error.is_instance(py, imports::SSL_CERTIFICATE_ERROR.get(py)?) {
            NOT_VERIFIED
        } else {
            FAILED
        };
        let exception = error.clone_ref(py).into_value(py).into_any();
        Self::fatal_error(slf, error, message)?;
        Self::wake_waiter(slf, Some(exception))
    }

    /// The transport below has ended before the handshake was over.
    pub(super) fn handshake_cut_off(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handshake_failed(slf, PyConnectionResetError::new_err(()))
    }

    fn cancel_handshake_timer(slf: &Bound<'_, Self>) -> PyResult<()> {
        let timer = slf.get().state.lock().links.handshake_timer.take();
        Self::cancel(slf.py(), timer)
    }

    /// Ends the wait of whoever connects.
    pub(super) fn wake_waiter(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let waiter = slf.get().state.lock().links.waiter.take();
        let Some(waiter) = waiter else {
            return Ok(());
        };
        let waiter = waiter.bind(py);
        if waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
            return Ok(());
        }
        match error {
            Some(error) => waiter.call_method1(intern!(py, "set_exception"), (error,))?,
            None => waiter.call_method1(intern!(py, "set_result"), (py.None(),))?,
        };
        Ok(())
    }
}
