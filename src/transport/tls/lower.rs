//! The transport below a TLS connection.

use super::transport::TlsTransport;
use crate::loop_::event_loop::EventLoop;
use crate::shard::Shard;
use crate::transport::stream::StreamTransport;
use pyo3::exceptions::PyAttributeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// The transport that carries the ciphertext.
pub(crate) enum Lower {
    /// This loop's: bytes pass without a Python call.
    Stream(Py<StreamTransport>),
    Other(Py<PyAny>),
}

impl Lower {
    pub(super) fn new(transport: &Bound<'_, PyAny>) -> Self {
        match transport.cast::<StreamTransport>() {
            Ok(stream) => Self::Stream(stream.clone().unbind()),
            Err(_) => Self::Other(transport.clone().unbind()),
        }
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Stream(transport) => Self::Stream(transport.clone_ref(py)),
            Self::Other(transport) => Self::Other(transport.clone_ref(py)),
        }
    }

    /// The transport as Python sees it.
    pub(super) fn object(&self) -> &Py<PyAny> {
        match self {
            Self::Stream(transport) => transport.as_any(),
            Self::Other(transport) => transport,
        }
    }

    /// The transport, if it is that of another TLS connection.
    pub(super) fn tls<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsTransport>> {
        match self {
            Self::Stream(_) => None,
            Self::Other(transport) => transport.bind(py).cast::<TlsTransport>().ok().cloned(),
        }
    }

    /// Where the transport lives, hence the connection.
    pub(super) fn home(&self, event_loop: &Bound<'_, EventLoop>) -> PyResult<Arc<Shard>> {
        let py = event_loop.py();
        match self {
            Self::Stream(transport) => Ok(transport.get().home().clone()),
            Self::Other(_) => {
                let outer = self.tls(py);
                if let Some(home) =
                    outer.as_ref().and_then(|outer| outer.get().protocol().get().home())
                {
                    return Ok(home.clone());
                }
                let home = event_loop.get().home_here(py)?;
                Ok(event_loop.get().shard(home).clone())
            }
        }
    }

    pub(super) fn write(&self, records: &Bound<'_, PyBytes>) -> PyResult<()> {
        let py = records.py();
        match self {
            Self::Stream(transport) => StreamTransport::write(transport.bind(py), records.as_any()),
            Self::Other(transport) => {
                transport.call_method1(py, intern!(py, "write"), (records,)).map(|_| ())
            }
        }
    }

    /// How many bytes wait to be sent; 0 if the transport does not tell.
    pub(super) fn unsent(&self, py: Python<'_>) -> PyResult<usize> {
        match self.object().call_method0(py, intern!(py, "get_write_buffer_size")) {
            Ok(size) => size.extract(py),
            Err(error) if error.is_instance_of::<PyAttributeError>(py) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Ends the connection at once; `connection_lost()` gets `error`.
    pub(super) fn force_close(&self, py: Python<'_>, error: Option<Py<PyAny>>) -> PyResult<()> {
        match error {
            None => self.call(py, "abort"),
            Some(error) => {
                self.object().call_method1(py, intern!(py, "_force_close"), (error,)).map(|_| ())
            }
        }
    }

    /// Calls a method without arguments.
    pub(super) fn call(&self, py: Python<'_>, method: &str) -> PyResult<()> {
        self.object().call_method0(py, method).map(|_| ())
    }
}
