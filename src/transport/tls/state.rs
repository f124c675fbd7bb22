//! What a TLS connection remembers, and the transitions that need no Python code.
//!
//! One lock guards it all. Whatever is taken out is dropped after the lock was let go. The states
//! and names are those of `asyncio.sslproto`.

use super::engine::Engine;
use super::lower::Lower;
use super::protocol::TlsProtocol;
use super::transport::TlsTransport;
use crate::loop_::event_loop::EventLoop;
use crate::py::ffi::SharedBytes;
use crate::py::imports;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView};
use rloop_core::flow::FlowControl;
use rloop_core::write_queue::WriteQueue;
use std::ops::Range;
use std::sync::Arc;

/// The default high-water marks, in bytes: those of `asyncio.constants`.
pub(super) const WRITE_HIGH: u128 = 512 * 1024;
pub(super) const READ_HIGH: u128 = 256 * 1024;

/// The most that is encrypted before the records leave, in bytes: enough for a system call to be
/// worth it, and little enough to notice that the transport below is full.
pub(super) const LARGEST_PIECE: usize = 256 * 1024;

/// The most that small writes are joined to, in bytes: what one record holds.
pub(super) const LARGEST_JOINED: usize = 1 << 14;

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before the handshake, or after the end.
    Unwrapped,
    Handshaking,
    Wrapped,
    /// Closing: what was written is being sent, what comes is still delivered.
    Flushing,
    /// Close notifications are being exchanged.
    ShuttingDown,
}

/// What the application was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Made,
    Eof,
    Lost,
}

/// How plaintext reaches the application's protocol.
pub(super) enum Receiver {
    /// `data_received()` of an `asyncio.Protocol`, looked up for each event.
    Streaming(Py<PyAny>),
    /// `get_buffer()` and `buffer_updated()` of an `asyncio.BufferedProtocol`. `sslproto` looks them up
    /// when it gets the protocol, and later replacements have no effect there either.
    Buffered { get_buffer: Py<PyAny>, buffer_updated: Py<PyAny> },
    /// A TLS connection inside this one.
    Tls(Py<TlsProtocol>),
}

impl Receiver {
    /// # Errors
    /// `AttributeError` if a buffered protocol has no `buffer_updated()`.
    fn new(protocol: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = protocol.py();
        if let Ok(protocol) = protocol.cast::<TlsProtocol>() {
            return Ok(Self::Tls(protocol.clone().unbind()));
        }
        let get_buffer = protocol.getattr_opt(intern!(py, "get_buffer"))?;
        if let Some(get_buffer) = get_buffer
            && protocol.is_instance(imports::BUFFERED_PROTOCOL.get(py)?)?
        {
            let buffer_updated = protocol.getattr(intern!(py, "buffer_updated"))?.unbind();
            return Ok(Self::Buffered { get_buffer: get_buffer.unbind(), buffer_updated });
        }
        Ok(Self::Streaming(protocol.clone().unbind()))
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Streaming(protocol) => visit.call(protocol),
            Self::Buffered { get_buffer, buffer_updated } => {
                visit.call(get_buffer)?;
                visit.call(buffer_updated)
            }
            Self::Tls(protocol) => visit.call(protocol),
        }
    }
}

/// The application's protocol.
pub(super) struct Application {
    pub(super) protocol: Py<PyAny>,
    pub(super) receiver: Arc<Receiver>,
}

impl Application {
    /// # Errors
    /// Those of [`Receiver::new`].
    pub(super) fn new(protocol: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            protocol: protocol.clone().unbind(),
            receiver: Arc::new(Receiver::new(protocol)?),
        })
    }
}

/// The objects a connection is tied to.
pub(super) struct Links {
    /// `None` only after garbage collection, like `engine`.
    pub(super) event_loop: Option<Py<EventLoop>>,
    pub(super) engine: Option<Arc<Engine>>,
    /// `None` before `connection_made()` and after `connection_lost()`.
    pub(super) lower: Option<Lower>,
    /// `None` after `connection_lost()`, like `transport`.
    pub(super) application: Option<Application>,
    pub(super) transport: Option<Py<TlsTransport>>,
    /// Done after the handshake.
    pub(super) waiter: Option<Py<PyAny>>,
    pub(super) handshake_timer: Option<Py<PyAny>>,
    /// Of the shutdown, or of the alert of a failure.
    pub(super) shutdown_timer: Option<Py<PyAny>>,
    /// The exception that the connection has failed with. The peer is told by an alert, which may fail as well.
    pub(super) failure: Option<Py<PyAny>>,
    /// Where a transport of another loop receives.
    pub(super) buffer: Option<Py<PyMemoryView>>,
}

/// The receiving side.
pub(super) struct Reading {
    /// The application paused it.
    pub(super) paused: bool,
    /// Counts ciphertext; its pause is that of the transport below.
    pub(super) flow: FlowControl,
    pub(super) stream: Stream,
    /// The peer has sent its close notification.
    pub(super) close_notified: bool,
}

/// Whether more can come from the transport below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Open,
    /// It has ended before the application closed the connection.
    EndedFirst,
    /// It has ended since.
    EndedLast,
}

/// The sending side.
pub(super) struct Writing {
    /// Plaintext.
    pub(super) backlog: WriteQueue<SharedBytes>,
    pub(super) flow: FlowControl,
    /// The transport below does not want to be written to.
    pub(super) is_held: bool,
    /// The application is being told something; what it writes is encrypted afterwards.
    pub(super) is_gathering: bool,
    /// The oldest part of the backlog is being encrypted. OpenSSL's own callbacks may write.
    pub(super) is_encrypting: bool,
    /// Writes since the end.
    pub(super) lost: u32,
}

/// A TLS connection.
pub(super) struct TlsState {
    pub(super) phase: Phase,
    pub(super) told: Told,
    pub(super) links: Links,
    pub(super) reading: Reading,
    pub(super) writing: Writing,
    /// What `get_extra_info()` knows.
    pub(super) extra: Py<PyDict>,
    /// The handshake is over, so the engine knows the peer.
    pub(super) has_negotiated: bool,
    /// Nobody is to ask for `extra` any more.
    pub(super) is_forgotten: bool,
    /// When the handshake began, on the loop's clock; only in debug mode.
    pub(super) handshake_began: Option<f64>,
}

/// Plaintext to encrypt next.
pub(super) struct Piece<'py> {
    pub(super) data: Bound<'py, PyBytes>,
    pub(super) part: Range<usize>,
}

impl Links {
    pub(super) fn new(
        event_loop: &Bound<'_, EventLoop>,
        engine: Engine,
        application: Application,
        waiter: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            event_loop: Some(event_loop.clone().unbind()),
            engine: Some(Arc::new(engine)),
            lower: None,
            application: Some(application),
            transport: None,
            waiter,
            handshake_timer: None,
            shutdown_timer: None,
            failure: None,
            buffer: None,
        }
    }

    fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        if let Some(engine) = &self.engine {
            engine.visit(visit)?;
        }
        if let Some(lower) = &self.lower {
            visit.call(lower.object())?;
        }
        if let Some(application) = &self.application {
            visit.call(&application.protocol)?;
            application.receiver.visit(&visit)?;
        }
        visit.call(&self.transport)?;
        visit.call(&self.waiter)?;
        visit.call(&self.handshake_timer)?;
        visit.call(&self.shutdown_timer)?;
        visit.call(&self.failure)
    }
}

impl TlsState {
    pub(super) fn new(links: Links, extra: Py<PyDict>, told: Told) -> Self {
        Self {
            phase: Phase::Unwrapped,
            told,
            links,
            reading: Reading {
                paused: false,
                flow: FlowControl::with_high(READ_HIGH),
                stream: Stream::Open,
                close_notified: false,
            },
            writing: Writing {
                backlog: WriteQueue::new(),
                flow: FlowControl::with_high(WRITE_HIGH),
                is_held: false,
                is_gathering: false,
                is_encrypting: false,
                lost: 0,
            },
            extra,
            has_negotiated: false,
            is_forgotten: false,
            handshake_began: None,
        }
    }

    /// True if what is written now will never be sent.
    pub(super) fn is_write_lost(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::ShuttingDown | Phase::Unwrapped)
    }

    pub(super) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.extra)?;
        self.links.visit(visit)
    }
}

impl Writing {
    /// What to encrypt next: the oldest chunk, or as many as fit into a record together.
    pub(super) fn next_piece<'py>(&self, py: Python<'py>) -> PyResult<Option<Piece<'py>>> {
        let Some((chunk, offset)) = self.backlog.first() else {
            return Ok(None);
        };
        let first_len = chunk.as_ref().len() - offset;
        if first_len >= LARGEST_JOINED || first_len == self.backlog.len() {
            let data = chunk.object(py).clone();
            let part = offset..offset + first_len.min(LARGEST_PIECE);
            return Ok(Some(Piece { data, part }));
        }
        let len = self.backlog.len().min(LARGEST_JOINED);
        let data = PyBytes::new_with(py, len, |mut target| {
            for slice in self.backlog.slices() {
                let (now, later) = target.split_at_mut(slice.len().min(target.len()));
                now.copy_from_slice(&slice[..now.len()]);
                target = later;
                if target.is_empty() {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(Some(Piece { data, part: 0..len }))
    }
}
