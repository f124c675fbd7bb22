//! `RustlsObject`: one connection. It is the engine's half of a connection and, for the application,
//! what `get_extra_info("ssl_object")` returns.
//!
//! The methods that move bytes are called on the connection's home thread. Those that tell about the
//! connection may be called from any: what they tell does not change after the handshake.
//!
//! The lock guards the session. It is held while the session works, detached from Python when that
//! takes long; no Python code runs under it.

use super::certificate;
use super::error::exception;
use super::setup::{RustlsSetup, Side};
use crate::py::{ffi, imports};
use crate::transport::core::with_record_buffer;
use pyo3::exceptions::{PyNotImplementedError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyType};
use rloop_core::sync::Mutex;
use rloop_tls::certificate::describe;
use rloop_tls::config::VerifyMode;
use rloop_tls::error::TlsError;
use rloop_tls::pki_types::CertificateDer;
use rloop_tls::session::{Negotiated, Received, Session};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// From so many bytes on, protection of records is worth letting other threads run meanwhile.
const DETACH_FROM: usize = 64 * 1024;

/// A session and what it has not handed over yet.
struct Connection {
    session: Session,
    /// Decrypted, in order.
    plaintext: VecDeque<Py<PyBytes>>,
    /// How much of the first of these was read. Invariant: less than its length, or 0.
    first_offset: usize,
    /// Encrypted, in order.
    records: VecDeque<Py<PyBytes>>,
    /// What ended the connection, until somebody is told.
    failure: Option<TlsError>,
}

/// A TLS connection of the fast engine.
#[pyclass(frozen, weakref, module = "rloop._rloop")]
pub(crate) struct RustlsObject {
    connection: Mutex<Connection>,
    negotiated: OnceLock<Arc<Negotiated>>,
    side: Side,
    server_hostname: Option<String>,
    refuses_truncation: bool,
    /// The `ssl.SSLContext`; only garbage collection takes it.
    context: Mutex<Option<Py<PyAny>>>,
}

impl RustlsObject {
    /// Takes received ciphertext, and decrypts it.
    pub(crate) fn feed(&self, py: Python<'_>, ciphertext: &[u8]) -> PyResult<()> {
        let room = {
            let connection = self.connection.lock();
            connection.session.plaintext_bound(ciphertext)
        };
        // A handshake takes long as well.
        let is_long = ciphertext.len() >= DETACH_FROM || !self.is_established();
        let receive =
            |target: &mut [u8]| self.connection.lock().session.receive(ciphertext, target);
        let mut outcome = Ok(());
        let plaintext = ffi::bytes_with(py, room, |target| {
            let received = if is_long { py.detach(|| receive(target)) } else { receive(target) };
            let Received { plaintext, outcome: ended } = received;
            outcome = ended;
            plaintext
        })?;
        let mut connection = self.connection.lock();
        if let Some(negotiated) = connection.session.negotiated() {
            self.negotiated.get_or_init(|| Arc::clone(negotiated));
        }
        if let Err(error) = outcome {
            connection.failure = Some(error);
        }
        if !plaintext.as_bytes().is_empty() {
            connection.plaintext.push_back(plaintext.unbind());
        }
        Ok(())
    }

    pub(crate) fn refuses_truncation(&self) -> bool {
        self.refuses_truncation
    }

    /// True once the handshake is over.
    pub(crate) fn is_established(&self) -> bool {
        self.negotiated.get().is_some()
    }

    /// Whether the handshake is over. What the connection failed for since is told by [`Self::end`].
    ///
    /// # Errors
    /// What it failed for, once.
    pub(crate) fn handshake(&self, py: Python<'_>) -> PyResult<bool> {
        let is_over = self.is_established();
        if !is_over {
            self.raise_failure(py)?;
        }
        Ok(is_over)
    }

    fn raise_failure(&self, py: Python<'_>) -> PyResult<()> {
        let failure = self.connection.lock().failure.take();
        match failure {
            Some(error) => Err(exception(py, &error, self.server_hostname.as_deref())),
            None => Ok(()),
        }
    }

    /// All plaintext there is; `None` if there is not a byte.
    pub(crate) fn read<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let (chunks, offset) = {
            let mut connection = self.connection.lock();
            let offset = std::mem::take(&mut connection.first_offset);
            (std::mem::take(&mut connection.plaintext), offset)
        };
        joined(py, chunks, offset)
    }

    /// Puts plaintext into a writable buffer; returns how many bytes, and whether there are more.
    pub(crate) fn read_into(&self, target: &Bound<'_, PyAny>) -> PyResult<(usize, bool)> {
        let py = target.py();
        let mut used = Vec::new();
        let read = ffi::with_writable_bytes(target, "read() argument 2", |mut target| {
            let mut connection = self.connection.lock();
            let mut len = 0;
            while let Some(chunk) = connection.plaintext.front() {
                let rest = &chunk.as_bytes(py)[connection.first_offset..];
                let (now, later) = target.split_at_mut(rest.len().min(target.len()));
                now.copy_from_slice(&rest[..now.len()]);
                len += now.len();
                if now.len() < rest.len() {
                    connection.first_offset += now.len();
                    return (len, true);
                }
                connection.first_offset = 0;
                used.extend(connection.plaintext.pop_front());
                target = later;
            }
            (len, false)
        });
        drop(used);
        read
    }

    /// What comes behind the plaintext: true if the peer has said that it sends no more.
    ///
    /// # Errors
    /// What the connection failed for, once.
    pub(crate) fn end(&self, py: Python<'_>) -> PyResult<bool> {
        self.raise_failure(py)?;
        Ok(self.connection.lock().session.peer_closed())
    }

    /// Encrypts all of `data`.
    pub(crate) fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        let room = self.connection.lock().session.sealed_bound(data.len());
        let send = |target: &mut [u8]| self.connection.lock().session.send(data, target);
        let mut outcome = Ok(());
        let records = ffi::bytes_with(py, room, |target| {
            let sent =
                if data.len() >= DETACH_FROM { py.detach(|| send(target)) } else { send(target) };
            match sent {
                Ok(len) => len,
                Err(error) => {
                    outcome = Err(error);
                    0
                }
            }
        })?;
        outcome.map_err(|error| exception(py, &error, None))?;
        self.connection.lock().records.push_back(records.unbind());
        Ok(())
    }

    /// Encrypts all of `data` after what is to be sent before it, in the thread's buffer, and runs
    /// `operation` on the records; `None` if that cannot be done, and [`Self::write`] can.
    ///
    /// `operation` must not run Python code.
    pub(crate) fn write_through<R>(
        &self,
        py: Python<'_>,
        data: &[u8],
        operation: impl FnOnce(&[u8]) -> R,
    ) -> Option<PyResult<R>> {
        let room = {
            let connection = self.connection.lock();
            // What was encrypted before comes first.
            connection.records.is_empty().then(|| connection.session.sealed_bound(data.len()))?
        };
        let send = |target: &mut [u8]| self.connection.lock().session.send(data, target);
        with_record_buffer(|buffer| {
            let target = buffer.get_mut(..room)?;
            let sent =
                if data.len() >= DETACH_FROM { py.detach(|| send(target)) } else { send(target) };
            Some(match sent {
                Ok(len) => Ok(operation(&buffer[..len])),
                Err(error) => Err(exception(py, &error, None)),
            })
        })
    }

    /// The records to send, which may be none.
    pub(crate) fn take_records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let chunks = {
            let mut connection = self.connection.lock();
            let control = std::mem::take(connection.session.outgoing());
            let mut chunks = std::mem::take(&mut connection.records);
            drop(connection);
            if !control.is_empty() {
                chunks.push_back(ffi::new_bytes(py, &control)?.unbind());
            }
            chunks
        };
        Ok(joined(py, chunks, 0)?.unwrap_or_else(|| PyBytes::new(py, b"")))
    }

    /// Says that we send no more; true if the peer has said the same. Plaintext that waits is
    /// dropped.
    ///
    /// # Errors
    /// What the connection failed for, once.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<bool> {
        let dropped = {
            let mut connection = self.connection.lock();
            connection.session.close();
            connection.first_offset = 0;
            std::mem::take(&mut connection.plaintext)
        };
        drop(dropped);
        self.end(py)
    }

    /// Bytes of plaintext that wait.
    pub(crate) fn unread(&self, py: Python<'_>) -> usize {
        let connection = self.connection.lock();
        let whole: usize = connection.plaintext.iter().map(|chunk| chunk.as_bytes(py).len()).sum();
        whole - connection.first_offset
    }

    /// How many bytes [`Self::take_records`] would return.
    pub(crate) fn unsent(&self, py: Python<'_>) -> usize {
        let mut connection = self.connection.lock();
        let control = connection.session.outgoing().len();
        let sealed: usize = connection.records.iter().map(|chunk| chunk.as_bytes(py).len()).sum();
        control + sealed
    }

    fn peer_chain(&self) -> PyResult<&[CertificateDer<'static>]> {
        match self.negotiated.get() {
            Some(negotiated) => Ok(negotiated.peer_chain()),
            None => Err(PyValueError::new_err("handshake not done yet")),
        }
    }
}

/// One `bytes` of several, less the first `offset` bytes; `None` if there are none.
fn joined(
    py: Python<'_>,
    mut chunks: VecDeque<Py<PyBytes>>,
    offset: usize,
) -> PyResult<Option<Bound<'_, PyBytes>>> {
    if chunks.is_empty() {
        return Ok(None);
    }
    if chunks.len() == 1 && offset == 0 {
        return Ok(chunks.pop_front().map(|chunk| chunk.into_bound(py)));
    }
    let len: usize = chunks.iter().map(|chunk| chunk.as_bytes(py).len()).sum();
    let mut offset = offset;
    let whole = PyBytes::new_with(py, len - offset, |mut target| {
        for chunk in &chunks {
            let chunk = &chunk.as_bytes(py)[std::mem::take(&mut offset)..];
            let (now, later) = target.split_at_mut(chunk.len());
            now.copy_from_slice(chunk);
            target = later;
        }
        Ok(())
    })?;
    Ok(Some(whole))
}

/// A list of certificates, in DER.
fn certificates<'py>(
    py: Python<'py>,
    chain: &[CertificateDer<'static>],
) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, chain.iter().map(|certificate| PyBytes::new(py, certificate)))
}

/// The `ssl` module's interface, as far as it tells about a connection.
#[pymethods]
impl RustlsObject {
    /// A connection that `setup` describes. `context` is the `ssl.SSLContext` it was made of. With
    /// `refuses_truncation`, an end of the stream without a close notification is a failure.
    ///
    /// Raises `ValueError` if rustls does not take the name.
    #[new]
    fn new(
        setup: &Bound<'_, RustlsSetup>,
        server_hostname: Option<String>,
        context: Py<PyAny>,
        refuses_truncation: bool,
    ) -> PyResult<Self> {
        let session = setup.get().session(server_hostname.as_deref())?;
        Ok(Self {
            connection: Mutex::new(Connection {
                session,
                plaintext: VecDeque::new(),
                first_offset: 0,
                records: VecDeque::new(),
                failure: None,
            }),
            negotiated: OnceLock::new(),
            side: setup.get().side().clone(),
            server_hostname,
            refuses_truncation,
            context: Mutex::new(Some(context)),
        })
    }

    /// `ssl.SSLObject`, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::SSL_OBJECT.class(py)?.clone())
    }

    /// The `ssl.SSLContext` of the connection.
    #[getter]
    fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.context.lock().as_ref().map(|context| context.clone_ref(py))
    }

    /// Always `None`: sessions are kept by the context.
    #[getter]
    fn session(&self) -> Option<Py<PyAny>> {
        None
    }

    /// Whether the handshake took up an earlier session.
    #[getter]
    fn session_reused(&self) -> bool {
        self.negotiated.get().is_some_and(|negotiated| negotiated.is_resumed())
    }

    #[getter]
    fn server_side(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    /// The name that the server was asked for.
    #[getter]
    fn server_hostname(&self) -> Option<&str> {
        self.server_hostname.as_deref()
    }

    /// The certificate of the peer. See `ssl.SSLSocket.getpeercert()`.
    #[pyo3(signature = (binary_form=false))]
    fn getpeercert<'py>(
        &self,
        py: Python<'py>,
        binary_form: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(certificate) = self.peer_chain()?.first() else {
            return Ok(None);
        };
        if binary_form {
            return Ok(Some(PyBytes::new(py, certificate).into_any()));
        }
        if self.side.verify_mode() == VerifyMode::None {
            return Ok(Some(PyDict::new(py).into_any()));
        }
        let description = describe(certificate)
            .ok_or_else(|| PyValueError::new_err("the certificate cannot be read"))?;
        Ok(Some(certificate::dictionary(py, &description)?.into_any()))
    }

    /// The certificates that the peer presented, in DER.
    fn get_unverified_chain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let presented = self.negotiated.get().map_or(&[][..], |negotiated| negotiated.peer_chain());
        certificates(py, presented)
    }

    /// The certificates from the peer's own to a trusted one, in DER; what the peer presented if
    /// nothing was to be checked, and none if an earlier session was taken up.
    fn get_verified_chain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        match self.negotiated.get() {
            Some(negotiated) if self.side.verify_mode() != VerifyMode::None => {
                certificates(py, &py.detach(|| self.side.verified_chain(negotiated)))
            }
            _ => self.get_unverified_chain(py),
        }
    }

    /// The application protocol that was agreed upon.
    fn selected_alpn_protocol(&self) -> Option<Cow<'_, str>> {
        let alpn = self.negotiated.get().and_then(|negotiated| negotiated.alpn());
        alpn.map(String::from_utf8_lossy)
    }

    /// Always `None`: that extension is a forerunner of ALPN.
    fn selected_npn_protocol(&self) -> Option<&str> {
        None
    }

    /// Name, protocol and secret bits of the cipher; `None` before the handshake is over.
    fn cipher(&self) -> Option<(&'static str, &'static str, u16)> {
        self.negotiated.get().map(|negotiated| negotiated.cipher())
    }

    /// The group of the key exchange; `None` before the handshake is over.
    fn group(&self) -> Option<&'static str> {
        self.negotiated.get().and_then(|negotiated| negotiated.group())
    }

    /// Always `None`: rustls does not tell how the client signed.
    fn client_sigalg(&self) -> Option<&str> {
        None
    }

    /// Always `None`: rustls does not tell how the server signed.
    fn server_sigalg(&self) -> Option<&str> {
        None
    }

    /// Always `None`: rustls does not keep what the client offered.
    fn shared_ciphers(&self) -> Option<Py<PyAny>> {
        None
    }

    /// Always `None`: rustls does not compress.
    fn compression(&self) -> Option<&str> {
        None
    }

    /// Bytes that are decrypted and were not read.
    fn pending(&self, py: Python<'_>) -> usize {
        self.unread(py)
    }

    /// The version of TLS; `None` before the handshake is over.
    fn version(&self) -> Option<&'static str> {
        self.negotiated.get().map(|negotiated| negotiated.version())
    }

    /// The channel binding of this type; `None` if there is none.
    ///
    /// Only `tls-server-end-point` (RFC 5929) is known, on the client's side. Others raise `ValueError`.
    #[pyo3(signature = (cb_type="tls-unique"))]
    fn get_channel_binding<'py>(
        &self,
        py: Python<'py>,
        cb_type: &str,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if cb_type != "tls-server-end-point" {
            let message = format!("{cb_type} channel binding type not implemented");
            return Err(PyValueError::new_err(message));
        }
        let server = match (&self.side, self.negotiated.get()) {
            (Side::Client(_), Some(negotiated)) => negotiated.peer_chain().first(),
            _ => None,
        };
        let digest = server.and_then(|certificate| Negotiated::server_end_point(certificate));
        Ok(digest.map(|digest| PyBytes::new(py, &digest)))
    }

    /// Always fails: a context that may ask for certificates later is OpenSSL's.
    fn verify_client_post_handshake(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err("Post-handshake auth is not supported by rustls"))
    }

    #[pyo3(name = "_feed")]
    fn py_feed(&self, py: Python<'_>, ciphertext: &Bound<'_, PyBytes>) -> PyResult<()> {
        self.feed(py, ciphertext.as_bytes())
    }

    #[pyo3(name = "_handshake")]
    fn py_handshake(&self, py: Python<'_>) -> PyResult<bool> {
        self.handshake(py)
    }

    #[pyo3(name = "_read")]
    fn py_read<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.read(py)
    }

    #[pyo3(name = "_end")]
    fn py_end(&self, py: Python<'_>) -> PyResult<bool> {
        self.end(py)
    }

    #[pyo3(name = "_write")]
    fn py_write(&self, py: Python<'_>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
        self.write(py, data.as_bytes())
    }

    #[pyo3(name = "_take_records")]
    fn py_take_records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.take_records(py)
    }

    #[pyo3(name = "_close")]
    fn py_close(&self, py: Python<'_>) -> PyResult<bool> {
        self.close(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // `bytes` refer to nothing. The collector may run while another thread of this process, or
        // this one, holds the lock: then it looks again later.
        match self.context.try_lock() {
            Some(context) => visit.call(&*context),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        let context = self.context.lock().take();
        drop(context);
    }
}
