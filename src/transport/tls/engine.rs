//! What a TLS engine has to do: bytes in, bytes out, no I/O.
//!
//! The protocol calls these methods on the connection's home thread, attached to Python and without
//! a lock. A method may run Python code, which may call back into the connection. Errors are the
//! exceptions that the `ssl` module raises for the same event: they reach the application.

use super::openssl::OpenSsl;
use crate::transport::tls::rustls::RustlsObject;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ops::Range;

/// How far an exchange with the peer has come.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// It goes on when more ciphertext has come. There may be records to send.
    Waiting,
}

impl Progress {
    fn of(is_done: bool) -> Self {
        if is_done { Self::Done } else { Self::Waiting }
    }
}

/// Why there is no more plaintext.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// More ciphertext has to come.
    Drained,
    /// The buffer is full; there may be more.
    Full,
    /// The peer has sent its close notification.
    Closed,
}

impl End {
    fn of(is_closed: bool) -> Self {
        if is_closed { Self::Closed } else { Self::Drained }
    }
}

/// All the plaintext there was.
pub(super) struct Batch<'py> {
    /// `None` if there was not a single byte.
    pub(super) data: Option<Bound<'py, PyBytes>>,
    /// What came behind it.
    pub(super) end: PyResult<End>,
}

/// The plaintext that was put into a buffer.
pub(super) struct Filled {
    /// In bytes.
    pub(super) len: usize,
    /// What came behind it.
    pub(super) end: PyResult<End>,
}

/// The engine of one connection.
pub(super) enum Engine {
    OpenSsl(OpenSsl),
    Rustls(Py<RustlsObject>),
}

impl Engine {
    /// `engine` is a [`RustlsObject`], or an `SSLObject` with its two `MemoryBIO`s.
    pub(super) fn new(engine: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(object) = engine.cast::<RustlsObject>() {
            return Ok(Self::Rustls(object.clone().unbind()));
        }
        let (ssl_object, incoming, outgoing) = engine.extract()?;
        Ok(Self::OpenSsl(OpenSsl::new(ssl_object, incoming, outgoing)?))
    }

    /// Takes received ciphertext.
    pub(super) fn feed(&self, ciphertext: &Bound<'_, PyBytes>) -> PyResult<()> {
        match self {
            Self::OpenSsl(engine) => engine.feed(ciphertext),
            Self::Rustls(engine) => engine.get().feed(ciphertext.py(), ciphertext.as_bytes()),
        }
    }

    /// Takes received ciphertext without keeping it, if this engine can. No Python code runs.
    pub(super) fn decrypt(&self, py: Python<'_>, ciphertext: &[u8]) -> Option<PyResult<()>> {
        match self {
            Self::OpenSsl(_) => None,
            Self::Rustls(engine) => Some(engine.get().feed(py, ciphertext)),
        }
    }

    /// Goes on with the handshake.
    pub(super) fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        match self {
            Self::OpenSsl(engine) => engine.handshake(py),
            Self::Rustls(engine) => engine.get().handshake(py).map(Progress::of),
        }
    }

    /// Decrypts everything that was fed.
    pub(super) fn read<'py>(&self, py: Python<'py>) -> Batch<'py> {
        match self {
            Self::OpenSsl(engine) => engine.read(py),
            Self::Rustls(engine) => {
                let engine = engine.get();
                match engine.read(py) {
                    Ok(data) => Batch { data, end: engine.end(py).map(End::of) },
                    Err(error) => Batch { data: None, end: Err(error) },
                }
            }
        }
    }

    /// Decrypts into a writable, contiguous buffer that is not empty.
    pub(super) fn read_into(&self, target: &Bound<'_, PyAny>) -> Filled {
        match self {
            Self::OpenSsl(engine) => engine.read_into(target),
            Self::Rustls(engine) => {
                let engine = engine.get();
                match engine.read_into(target) {
                    Ok((len, true)) => Filled { len, end: Ok(End::Full) },
                    Ok((len, false)) => Filled { len, end: engine.end(target.py()).map(End::of) },
                    Err(error) => Filled { len: 0, end: Err(error) },
                }
            }
        }
    }

    /// Encrypts a part of `data`; returns how many bytes it took, at least one, or `None` if the
    /// peer has to be heard first.
    pub(super) fn write(
        &self,
        data: &Bound<'_, PyBytes>,
        part: Range<usize>,
    ) -> PyResult<Option<usize>> {
        match self {
            Self::OpenSsl(engine) => engine.write(data, part),
            Self::Rustls(engine) => {
                let (py, engine) = (data.py(), engine.get());
                if !engine.is_established() {
                    return Ok(None);
                }
                let len = part.len();
                engine.write(py, &data.as_bytes()[part])?;
                Ok(Some(len))
            }
        }
    }

    /// The records to send, which may be none.
    pub(super) fn take_records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match self {
            Self::OpenSsl(engine) => engine.take_records(py),
            Self::Rustls(engine) => engine.get().take_records(py),
        }
    }

    /// Sends a close notification, if that was not done, and looks for the peer's. What the peer
    /// sent before it is dropped.
    pub(super) fn close(&self, py: Python<'_>) -> PyResult<Progress> {
        match self {
            Self::OpenSsl(engine) => engine.close(py),
            Self::Rustls(engine) => engine.get().close(py).map(Progress::of),
        }
    }

    /// Whether an end of the stream without a close notification is a failure.
    pub(super) fn refuses_truncation(&self) -> bool {
        match self {
            Self::OpenSsl(_) => false,
            Self::Rustls(engine) => engine.get().refuses_truncation(),
        }
    }

    /// How many bytes of whole records wait to be decrypted.
    pub(super) fn undecrypted(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::OpenSsl(engine) => engine.undecrypted(py),
            Self::Rustls(engine) => Ok(engine.get().unread(py)),
        }
    }

    /// How many bytes [`Engine::take_records`] would return.
    pub(super) fn unsent(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::OpenSsl(engine) => engine.unsent(py),
            Self::Rustls(engine) => Ok(engine.get().unsent(py)),
        }
    }

    /// What `get_extra_info("ssl_object")` returns.
    pub(super) fn ssl_object<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        match self {
            Self::OpenSsl(engine) => engine.ssl_object(py),
            Self::Rustls(engine) => engine.bind(py).as_any(),
        }
    }

    pub(super) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::OpenSsl(engine) => engine.visit(visit),
            Self::Rustls(engine) => visit.call(engine),
        }
    }
}
