//! From ciphertext to the application: `data_received()`, or `get_buffer()` and `buffer_updated()`.

use super::engine::{Batch, End, Filled};
use super::protocol::{Remote, TlsProtocol};
use super::state::{Phase, READ_HIGH, Receiver, Told};
use crate::py::{imports, interrupt};
use crate::transport::core::{Forwarding, checked_limits_from};
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rloop_core::flow::FlowChange;

impl TlsProtocol {
    /// The transport below has received `ciphertext`.
    ///
    /// # Errors
    /// What asyncio lets through to the transport below, which reports it and closes.
    pub(crate) fn receive(slf: &Bound<'_, Self>, ciphertext: &Bound<'_, PyBytes>) -> PyResult<()> {
        Self::feed(slf, ciphertext)?;
        Self::go_on(slf)
    }

    /// Decrypts `ciphertext` where it was received, if the engine can. No Python code runs.
    /// [`TlsProtocol::go_on`] has to follow.
    pub(crate) fn decrypt(&self, py: Python<'_>, ciphertext: &[u8]) -> Option<PyResult<()>> {
        self.engine()?.decrypt(py, ciphertext)
    }

    /// Does what received ciphertext asks for.
    ///
    /// # Errors
    /// Those of [`TlsProtocol::receive`].
    pub(crate) fn go_on(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_earlier_stop(slf)?;
        let phase = slf.get().state.lock().phase;
        match phase {
            Phase::Unwrapped => Ok(()),
            Phase::Handshaking => Self::shake_hands(slf),
            Phase::Wrapped => Self::read(slf),
            Phase::Flushing => Self::flush(slf),
            Phase::ShuttingDown => Self::shut_down(slf),
        }
    }

    /// Takes ciphertext that something is done with later.
    pub(super) fn feed(slf: &Bound<'_, Self>, ciphertext: &Bound<'_, PyBytes>) -> PyResult<()> {
        slf.get().engine().map_or(Ok(()), |engine| engine.feed(ciphertext))
    }

    /// Delivers what has come, sends what there is to send, and sees to the flow control.
    pub(super) fn read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let phase = slf.get().state.lock().phase;
        if matches!(phase, Phase::Wrapped | Phase::Flushing) {
            Self::or_fatal(slf, Self::try_to_read(slf))
        } else {
            Ok(())
        }
    }

    /// Ends the connection if `outcome` is a failure.
    ///
    /// # Errors
    /// Exceptions that no `except Exception` catches.
    pub(super) fn or_fatal(slf: &Bound<'_, Self>, outcome: PyResult<()>) -> PyResult<()> {
        match outcome {
            Err(error) if error.is_instance_of::<PyException>(slf.py()) => {
                Self::fatal_error(slf, error, "Fatal error on SSL protocol")
            }
            outcome => outcome,
        }
    }

    fn try_to_read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (engine, receiver) = {
            let state = slf.get().state.lock();
            let (Some(engine), Some(application)) = (&state.links.engine, &state.links.application)
            else {
                return Ok(());
            };
            let receiver = (!state.reading.paused).then(|| application.receiver.clone());
            (engine.clone(), receiver)
        };
        if let Some(receiver) = receiver {
            let end = match &*receiver {
                Receiver::Buffered { get_buffer, buffer_updated } => {
                    let undecrypted = engine.undecrypted(slf.py())?;
                    let target = get_buffer.bind(slf.py()).call1((undecrypted,))?;
                    if target.len()? == 0 {
                        let message = "get_buffer() returned an empty buffer";
                        return Err(PyRuntimeError::new_err(message));
                    }
                    let Filled { len, end } = engine.read_into(&target);
                    drop(target);
                    if len > 0 {
                        Self::gathering(slf, || {
                            buffer_updated.bind(slf.py()).call1((len,)).map(|_| ())
                        })?;
                    }
                    end?
                }
                Receiver::Streaming(protocol) => {
                    let Batch { data, end } = engine.read(slf.py());
                    if let Some(data) = data {
                        let name = intern!(slf.py(), "data_received");
                        let protocol = protocol.bind(slf.py());
                        Self::gathering(slf, || protocol.call_method1(name, (data,)).map(|_| ()))?;
                    }
                    end?
                }
                Receiver::Tls(inner) => {
                    let Batch { data, end } = engine.read(slf.py());
                    if let Some(data) = data {
                        let inner = inner.bind(slf.py());
                        Self::gathering(slf, || Self::receive(inner, &data))?;
                    }
                    end?
                }
            };
            match end {
                End::Drained => (),
                End::Full => Self::call_soon(slf, intern!(slf.py(), "_read_on"))?,
                End::Closed => {
                    slf.get().state.lock().reading.close_notified = true;
                    Self::tell_eof(slf)?;
                    Self::start_shutdown(slf)?;
                }
            }
        }
        Self::send_backlog(slf, false)?;
        Self::control_reading(slf)
    }

    /// What asyncio does when the application resumes reading.
    pub(super) fn read_on(slf: &Bound<'_, Self>) -> PyResult<()> {
        let phase = slf.get().state.lock().phase;
        match phase {
            Phase::Unwrapped | Phase::Handshaking => Ok(()),
            Phase::Wrapped => Self::read(slf),
            Phase::Flushing => Self::flush(slf),
            Phase::ShuttingDown => Self::shut_down(slf),
        }
    }

    pub(super) fn resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        let was_paused = std::mem::take(&mut slf.get().state.lock().reading.paused);
        if was_paused { Self::call_soon(slf, intern!(slf.py(), "_read_on")) } else { Ok(()) }
    }

    /// Tells the application that the peer has ended, once.
    pub(super) fn tell_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let protocol = {
            let mut state = slf.get().state.lock();
            match &state.links.application {
                Some(application) if state.told == Told::Made => {
                    let protocol = application.protocol.clone_ref(py);
                    state.told = Told::Eof;
                    protocol
                }
                _ => return Ok(()),
            }
        };
        let told = protocol
            .bind(py)
            .call_method0(intern!(py, "eof_received"))
            .and_then(|keep_open| keep_open.is_truthy());
        match told {
            Ok(false) => Ok(()),
            Ok(true) => {
                let message = "returning true from eof_received() has no effect when using ssl";
                imports::logger(py)?.call_method1("warning", (message,))?;
                Ok(())
            }
            Err(error) => {
                let error = interrupt::reportable(py, error)?;
                Self::send_early(slf)?;
                Self::fatal_error(slf, error, "Error calling eof_received()")
            }
        }
    }

    /// Pauses or resumes the transport below, by how much of what it received waits.
    pub(super) fn control_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let waiting = slf.get().read_buffer_size(py)?;
        let (change, lower) = {
            let mut state = slf.get().state.lock();
            let change = match state.reading.flow.reached(waiting) {
                FlowChange::Unchanged => state.reading.flow.shrunk(waiting),
                change => change,
            };
            let Some(lower) =
                state.links.lower.as_ref().filter(|_| change != FlowChange::Unchanged)
            else {
                return Ok(());
            };
            (change, lower.clone_ref(py))
        };
        let method = if change == FlowChange::Pause { "pause_reading" } else { "resume_reading" };
        lower.call(py, method)
    }

    pub(super) fn set_read_limits(
        slf: &Bound<'_, Self>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        let (low, high) = checked_limits_from(READ_HIGH, high, low)?;
        Self::make_or_forward(slf, Remote::SetReadLimits(low, high))
    }

    pub(super) fn read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.engine().map_or(Ok(0), |engine| engine.undecrypted(py))
    }
}
