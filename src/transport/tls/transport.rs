//! `TlsTransport`: what the application writes to. It has no state of its own but the fact that it
//! was closed; everything else is the protocol's.

use super::protocol::{Remote, TlsProtocol};
use crate::loop_::event_loop::EventLoop;
use crate::py::ffi::OneArgumentMethod;
use crate::py::initialized::Initialized;
use crate::py::{buffer, imports};
use crate::transport::core::{Endpoint, Forwarding};
use pyo3::exceptions::{PyNotImplementedError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

/// The transport of a TLS connection.
#[pyclass(frozen, subclass, weakref, dict, module = "rloop._rloop")]
pub(crate) struct TlsTransport {
    protocol: Py<TlsProtocol>,
    closed: AtomicBool,
    initialized: Initialized,
}

impl TlsTransport {
    pub(super) fn protocol(&self) -> &Py<TlsProtocol> {
        &self.protocol
    }

    /// Nothing is to be written any more.
    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn end(&self, py: Python<'_>, error: Option<Py<PyAny>>) -> PyResult<()> {
        self.mark_closed();
        TlsProtocol::make_or_forward(self.protocol.bind(py), Remote::Abort(error))
    }

    pub(super) fn is_marked_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// `TlsTransport.write`
pub(crate) struct Write;

impl OneArgumentMethod for Write {
    type Class = TlsTransport;
    const NAME: &'static CStr = c"write";
    const DOC: &'static CStr = c"write($self, data, /)\n--\n\n\
        Writes bytes. Does not block; what cannot be sent now is queued, as it is now.";

    fn call(slf: &Bound<'_, TlsTransport>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if !(data.is_instance_of::<PyBytes>()
            || data.is_instance_of::<PyByteArray>()
            || data.is_instance_of::<PyMemoryView>())
        {
            return Err(PyTypeError::new_err(format!(
                "data: expecting a bytes-like instance, got {}",
                data.get_type().name()?
            )));
        }
        if buffer::is_false(data)? {
            return Ok(());
        }
        let protocol = slf.get().protocol.bind(data.py());
        match buffer::snapshot(data) {
            Ok(chunk) if chunk.as_ref().is_empty() => Ok(()),
            Ok(chunk) => TlsProtocol::make_or_forward(protocol, Remote::Write(chunk)),
            Err(error) => TlsProtocol::no_buffer(protocol, error),
        }
    }
}

#[pymethods]
impl TlsTransport {
    #[new]
    fn new(protocol: Py<TlsProtocol>) -> Self {
        Self { protocol, closed: AtomicBool::new(false), initialized: Initialized::new() }
    }

    /// asyncio's class of such transports, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::SSL_TRANSPORT.class(py)?.clone())
    }

    /// Optional transport information, as `asyncio.BaseTransport.get_extra_info`.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        &self,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        TlsProtocol::extra_info(self.protocol.bind(name.py()), name, default)
    }

    /// Replaces the protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.protocol.get().set_application(protocol)
    }

    /// The current protocol.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol.get().protocol(py)
    }

    /// True if the transport is closing or closed.
    ///
    /// `StreamWriter.drain()` asks this, and the program may block after it, so the writes gathered so
    /// far are sent first.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        TlsProtocol::send_early_if_here(self.protocol.bind(py))?;
        Ok(self.is_marked_closed() || self.protocol.get().is_lower_closing(py)?)
    }

    /// Closes the transport once what is queued was sent and the peer was told.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let is_second = self.closed.swap(true, Ordering::Relaxed);
        let call = if is_second { Remote::Forget } else { Remote::Close };
        TlsProtocol::make_or_forward(self.protocol.bind(py), call)
    }

    /// Closes the transport at once; what is queued is lost.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, None)
    }

    /// True if received data reaches the protocol.
    fn is_reading(&self) -> bool {
        let protocol = self.protocol.get();
        protocol.is_reading_asked().unwrap_or_else(|| !protocol.state.lock().reading.paused)
    }

    /// Stops the calls of `data_received()`.
    fn pause_reading(&self, py: Python<'_>) -> PyResult<()> {
        TlsProtocol::make_or_forward(self.protocol.bind(py), Remote::PauseReading)
    }

    /// Goes on with the calls of `data_received()`.
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        TlsProtocol::make_or_forward(self.protocol.bind(py), Remote::ResumeReading)
    }

    /// Sets the water marks of the write buffer, in bytes.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        TlsProtocol::set_write_limits(self.protocol.bind(py), high, low)
    }

    /// The water marks of the write buffer (low, high), in bytes.
    fn get_write_buffer_limits(&self) -> (u128, u128) {
        let protocol = self.protocol.get();
        let asked = protocol.forwarded().newest(|call| match call {
            Remote::SetWriteLimits(low, high) => Some((*low, *high)),
            _ => None,
        });
        asked.unwrap_or_else(|| protocol.state.lock().writing.flow.limits())
    }

    /// How many bytes wait to be given to the transport below.
    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        TlsProtocol::unsent_size(self.protocol.bind(py))
    }

    /// Sets the water marks of the read buffer, in bytes of ciphertext.
    #[pyo3(signature = (high = None, low = None))]
    fn set_read_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        TlsProtocol::set_read_limits(self.protocol.bind(py), high, low)
    }

    /// The water marks of the read buffer (low, high), in bytes of ciphertext.
    fn get_read_buffer_limits(&self) -> (u128, u128) {
        let protocol = self.protocol.get();
        let asked = protocol.forwarded().newest(|call| match call {
            Remote::SetReadLimits(low, high) => Some((*low, *high)),
            _ => None,
        });
        asked.unwrap_or_else(|| protocol.state.lock().reading.flow.limits())
    }

    /// How many bytes of ciphertext wait to be decrypted.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.protocol.get().read_buffer_size(py)
    }

    /// Writes an iterable of bytes-like objects, in as few records as possible.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let protocol = self.protocol.bind(list_of_data.py());
        let mut chunks = Vec::new();
        let mut failure = None;
        for chunk in list_of_data.try_iter()? {
            let chunk = chunk?;
            if !chunk.is_exact_instance_of::<PyBytes>() {
                // asyncio asks for it first; what has none raises here.
                chunk.len()?;
            }
            match buffer::snapshot(&chunk) {
                Ok(chunk) => chunks.push(chunk),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            None => TlsProtocol::make_or_forward(protocol, Remote::WriteChunks(chunks)),
            Some(error) => TlsProtocol::no_buffer(protocol, error),
        }
    }

    /// Raises `NotImplementedError`: TLS has no half-closed connections in asyncio.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// False, see `write_eof()`.
    fn can_write_eof(&self) -> bool {
        false
    }

    /// Ends the connection with `error`, which `connection_lost()` receives.
    #[pyo3(signature = (error))]
    fn _force_close(&self, py: Python<'_>, error: Option<Py<PyAny>>) -> PyResult<()> {
        self.end(py, error)
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.is_marked_closed()
    }

    /// The index of the shard that the connection belongs to, once it has a transport below.
    #[getter]
    fn _shard(&self) -> Option<u16> {
        self.protocol.get().home().map(|home| home.index())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<EventLoop>> {
        self.protocol.get().event_loop(py).map(Bound::unbind)
    }

    #[getter]
    fn _protocol_paused(&self) -> bool {
        self.protocol.get().state.lock().writing.flow.is_paused()
    }

    #[getter]
    fn _ssl_protocol(&self, py: Python<'_>) -> Py<TlsProtocol> {
        self.protocol.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.initialized.is_set() {
            return Ok(());
        }
        visit.call(&self.protocol)
    }
}
