//! What a TLS engine has to do: bytes in, bytes out, no I/O.
//!
//! The protocol calls these methods on the connection's home thread, attached to Python and without
//! a lock. A method may run Python code, which may call back into the connection. Errors are the
//! exceptions that the `ssl` module raises for the same event: they reach the application.

use super::openssl::OpenSsl;
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
}

impl Engine {
    /// Takes received ciphertext.
    pub(super) fn feed(&self, ciphertext: &Bound<'_, PyBytes>) -> PyResult<()> {
        match self {
            Self::OpenSsl(engine) => engine.feed(ciphertext),
        }
    }

    /// Goes on with the handshake.
    pub(super) fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        match self {
            Self::OpenSsl(engine) => engine.handshake(py),
        }
    }

    /// Decrypts everything that was fed.
    pub(super) fn read<'py>(&self, py: Python<'py>) -> Batch<'py> {
        match self {
            Self::OpenSsl(engine) => engine.read(py),
        }
    }

    /// Decrypts into a writable, contiguous buffer that is not empty.
    pub(super) fn read_into(&self, target: &Bound<'_, PyAny>) -> Filled {
        match self {
            Self::OpenSsl(engine) => engine.read_into(target),
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
        }
    }

    /// The records to send, which may be none.
    pub(super) fn take_records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match self {
            Self::OpenSsl(engine) => engine.take_records(py),
        }
    }

    /// Sends a close notification, if that was not done, and looks for the peer's. What the peer
    /// sent before it is dropped.
    pub(super) fn close(&self, py: Python<'_>) -> PyResult<Progress> {
        match self {
            Self::OpenSsl(engine) => engine.close(py),
        }
    }

    /// How many bytes of whole records wait to be decrypted.
    pub(super) fn undecrypted(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::OpenSsl(engine) => engine.undecrypted(py),
        }
    }

    /// How many bytes [`Engine::take_records`] would return.
    pub(super) fn unsent(&self, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::OpenSsl(engine) => engine.unsent(py),
        }
    }

    /// What `get_extra_info("ssl_object")` returns.
    pub(super) fn ssl_object<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        match self {
            Self::OpenSsl(engine) => engine.ssl_object(py),
        }
    }

    pub(super) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::OpenSsl(engine) => engine.visit(visit),
        }
    }
}
