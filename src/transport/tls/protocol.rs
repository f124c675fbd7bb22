//! `TlsProtocol`: what the transport below talks to, where it lives, and how calls get there.

use super::engine::Engine;
use super::lower::Lower;
use super::state::{Application, Links, Phase, TlsState, Told};
use super::transport::TlsTransport;
use crate::loop_::event_loop::EventLoop;
use crate::py::ffi::SharedBytes;
use crate::py::{ffi, imports};
use crate::shard::Shard;
use crate::transport::core::{Call, Endpoint, Forwarding};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyMemoryView, PyType};
use rloop_core::forwarded::Forwarded;
use rloop_core::sync::Mutex;
use std::sync::{Arc, OnceLock};

/// How much a transport of another loop may receive at a time, in bytes.
const BUFFER_SIZE: usize = 64 * 1024;

/// A call on a transport, which may come from another thread than its own.
pub(crate) enum Remote {
    ConnectionMade(Lower),
    Write(SharedBytes),
    WriteChunks(Vec<SharedBytes>),
    /// The water marks (low, high) of the write buffer.
    SetWriteLimits(u128, u128),
    /// Those of the read buffer.
    SetReadLimits(u128, u128),
    PauseReading,
    ResumeReading,
    Close,
    /// The second `close()`.
    Forget,
    Abort(Option<Py<PyAny>>),
}

/// How long the phases of a connection may take, in seconds, as the user gave them.
pub(super) struct Timeouts {
    pub(super) handshake: Py<PyAny>,
    pub(super) shutdown: Py<PyAny>,
    /// The shutdown lasts until the connection is lost, not only until the close notifications are
    /// exchanged: a peer that does not read does not hold it open.
    pub(super) shutdown_includes_flush: bool,
}

/// The protocol of the transport below a TLS connection.
#[pyclass(frozen, subclass, weakref, module = "rloop._rloop")]
pub(crate) struct TlsProtocol {
    pub(super) state: Mutex<TlsState>,
    pub(super) timeouts: Timeouts,
    /// Where the connection lives, once there is a transport below.
    home: OnceLock<Arc<Shard>>,
    forwarded: Forwarded<Remote>,
}

impl Endpoint for TlsProtocol {
    fn with_ends<R>(&self, operation: impl FnOnce(&Py<EventLoop>, &Py<PyAny>) -> R) -> Option<R> {
        let state = self.state.lock();
        let application = state.links.application.as_ref()?;
        Some(operation(state.links.event_loop.as_ref()?, &application.protocol))
    }

    /// The loop, also after the application has heard of the end.
    fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, EventLoop>> {
        let state = self.state.lock();
        state.links.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py).into_bound(py))
    }

    /// As in asyncio, the transport is the one below, and the protocol is this.
    fn parties(slf: &Bound<'_, Self>) -> (Option<Py<PyAny>>, Option<Py<PyAny>>) {
        (slf.get().lower_object(slf.py()), Some(slf.as_any().clone().unbind()))
    }

    /// As in asyncio, the transport is the application's, and the protocol is this.
    fn flow_parties(slf: &Bound<'_, Self>) -> (Option<Py<PyAny>>, Option<Py<PyAny>>) {
        let transport = {
            let state = slf.get().state.lock();
            state.links.transport.as_ref().map(|transport| transport.clone_ref(slf.py()).into_any())
        };
        (transport, Some(slf.as_any().clone().unbind()))
    }
}

impl Forwarding for TlsProtocol {
    type Call = Remote;

    fn forwarded(&self) -> &Forwarded<Remote> {
        &self.forwarded
    }

    /// Without a transport below, nothing happens on a thread of its own.
    fn home_shard(&self) -> Option<&Arc<Shard>> {
        self.home()
    }

    fn make(slf: &Bound<'_, Self>, call: Remote) -> PyResult<()> {
        match call {
            Remote::ConnectionMade(lower) => Self::start_handshake(slf, lower),
            Remote::Write(chunk) => Self::write(slf, std::iter::once(chunk)),
            Remote::WriteChunks(chunks) => Self::write(slf, chunks),
            Remote::SetWriteLimits(low, high) => {
                slf.get().state.lock().writing.flow.set_limits(low, high);
                Self::review_flow(slf)
            }
            Remote::SetReadLimits(low, high) => {
                slf.get().state.lock().reading.flow.set_limits(low, high);
                Self::review_flow(slf)
            }
            Remote::PauseReading => {
                slf.get().state.lock().reading.paused = true;
                Ok(())
            }
            Remote::ResumeReading => Self::resume(slf),
            Remote::Close => Self::start_shutdown(slf),
            Remote::Forget => {
                Self::forget(slf);
                Ok(())
            }
            Remote::Abort(error) => Self::abort(slf, error),
        }
    }

    fn stops_reading(call: &Remote) -> Option<bool> {
        match call {
            Remote::PauseReading | Remote::Abort(_) => Some(true),
            Remote::ResumeReading => Some(false),
            _ => None,
        }
    }

    fn errand(slf: &Bound<'_, Self>, number: u64) -> Call {
        Call::Tls(slf.clone().unbind(), number)
    }
}

impl TlsProtocol {
    pub(super) fn engine(&self) -> Option<Arc<Engine>> {
        self.state.lock().links.engine.clone()
    }

    pub(super) fn set_application(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let application = Application::new(protocol)?;
        let replaced = {
            let mut state = self.state.lock();
            // After the end there is nothing to tell.
            match &mut state.links.application {
                Some(current) => std::mem::replace(current, application),
                None => application,
            }
        };
        drop(replaced);
        Ok(())
    }

    /// Pauses or resumes both directions, as the water marks say.
    fn review_flow(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::send_early(slf)?;
        Self::control_writing(slf)?;
        Self::control_reading(slf)
    }

    /// Where the connection lives, if it has a transport below.
    pub(super) fn home(&self) -> Option<&Arc<Shard>> {
        self.home.get()
    }

    /// The connection has a transport below, and lives where that does.
    fn settle(&self, home: Arc<Shard>) {
        // A protocol is connected once; asyncio does not check that either.
        self.home.get_or_init(|| home);
    }

    fn lower_object(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.state.lock();
        state.links.lower.as_ref().map(|lower| lower.object().clone_ref(py))
    }

    pub(super) fn is_lower_closing(&self, py: Python<'_>) -> PyResult<bool> {
        match self.lower_object(py) {
            Some(lower) => lower.bind(py).call_method0(intern!(py, "is_closing"))?.is_truthy(),
            None => Ok(false),
        }
    }

    /// `get_extra_info()`. What OpenSSL tells of the peer is asked for when it is wanted first.
    pub(super) fn extra_info(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let (extra, engine, close_notified) = {
            let state = slf.get().state.lock();
            let engine = state.links.engine.clone().filter(|_| state.has_negotiated);
            (state.extra.clone_ref(py), engine, state.reading.close_notified)
        };
        if name.eq(intern!(py, "close_notify_received"))? {
            return Ok(PyBool::new(py, close_notified).to_owned().into_any().unbind());
        }
        let extra = extra.bind(py);
        if let Some(value) = extra.get_item(name)? {
            return Ok(value.unbind());
        }
        if let (Some(engine), Ok(name)) = (engine, name.extract::<&str>()) {
            let ssl_object = engine.ssl_object(py);
            let fact = match name {
                "ssl_object" => Some(ssl_object.clone()),
                "peercert" => Some(ssl_object.call_method0("getpeercert")?),
                "cipher" | "compression" => Some(ssl_object.call_method0(name)?),
                _ => None,
            };
            if let Some(fact) = fact {
                extra.set_item(name, &fact)?;
                return Ok(fact.unbind());
            }
        }
        match slf.get().lower_object(py) {
            Some(lower) => lower.call_method1(py, intern!(py, "get_extra_info"), (name, default)),
            None => Ok(default.unwrap_or_else(|| py.None())),
        }
    }
}

#[pymethods]
impl TlsProtocol {
    /// `engine` is a `RustlsObject`, or an `SSLObject` with its two `MemoryBIO`s; `timeouts` are those of
    /// the handshake and of the shutdown in seconds, and whether the latter includes the flush of the
    /// transport below. `_attach()` completes the protocol.
    #[new]
    fn new(
        event_loop: &Bound<'_, EventLoop>,
        application: &Bound<'_, PyAny>,
        engine: &Bound<'_, PyAny>,
        extra: Py<PyDict>,
        waiter: Option<Py<PyAny>>,
        call_connection_made: bool,
        timeouts: (Py<PyAny>, Py<PyAny>, bool),
    ) -> PyResult<Self> {
        let engine = Engine::new(engine)?;
        let links = Links::new(event_loop, engine, Application::new(application)?, waiter);
        let told = if call_connection_made { Told::Nothing } else { Told::Made };
        let (handshake, shutdown, shutdown_includes_flush) = timeouts;
        Ok(Self {
            state: Mutex::new(TlsState::new(links, extra, told)),
            timeouts: Timeouts { handshake, shutdown, shutdown_includes_flush },
            home: OnceLock::new(),
            forwarded: Forwarded::new(),
        })
    }

    /// Takes the transport that the application gets.
    fn _attach(&self, transport: Py<TlsTransport>) {
        let replaced = self.state.lock().links.transport.replace(transport);
        drop(replaced);
    }

    /// Takes ciphertext that was received before the transport below was this protocol's.
    fn _feed(slf: &Bound<'_, Self>, ciphertext: &Bound<'_, PyBytes>) -> PyResult<()> {
        Self::feed(slf, ciphertext)
    }

    /// asyncio's class of such protocols, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::SSL_PROTOCOL.class(py)?.clone())
    }

    /// The transport below is connected: begins the handshake.
    fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(event_loop) = slf.get().event_loop(slf.py()) else {
            return Ok(());
        };
        let lower = Lower::new(transport);
        slf.get().settle(lower.home(&event_loop)?);
        // start_tls() may have been called on another shard.
        Self::make_or_forward(slf, Remote::ConnectionMade(lower))
    }

    /// The transport below is gone.
    #[pyo3(signature = (exc))]
    fn connection_lost(slf: &Bound<'_, Self>, exc: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        Self::end(slf, exc)
    }

    /// Where the transport below may receive.
    fn get_buffer(
        &self,
        py: Python<'_>,
        sizehint: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyMemoryView>> {
        // The size of the buffer is this protocol's choice.
        let _: &Bound<'_, PyAny> = sizehint;
        if let Some(buffer) = &self.state.lock().links.buffer {
            return Ok(buffer.clone_ref(py));
        }
        // Of a bytearray, sslproto would fill a copy of a part.
        let bytes = PyByteArray::new_with(py, BUFFER_SIZE, |_| Ok(()))?;
        let buffer = PyMemoryView::from(&bytes)?.unbind();
        let replaced = self.state.lock().links.buffer.replace(buffer.clone_ref(py));
        drop(replaced);
        Ok(buffer)
    }

    /// The transport below has received.
    fn buffer_updated(slf: &Bound<'_, Self>, nbytes: usize) -> PyResult<()> {
        let py = slf.py();
        let buffer =
            slf.get().state.lock().links.buffer.as_ref().map(|buffer| buffer.clone_ref(py));
        let Some(buffer) = buffer else {
            return Ok(());
        };
        let received = ffi::with_bytes(buffer.bind(py), |bytes| {
            bytes.get(..nbytes).map(|received| ffi::new_bytes(py, received)).transpose()
        })??;
        match received {
            Some(received) => Self::receive(slf, &received),
            None => Err(PyValueError::new_err("buffer_updated() got more than the buffer holds")),
        }
    }

    /// The transport below has received the end. True keeps it open.
    fn eof_received(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::on_end(slf)
    }

    /// The transport below does not want to be written to.
    fn pause_writing(&self) {
        self.state.lock().writing.is_held = true;
    }

    /// The transport below can be written to again.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::release(slf)
    }

    fn _check_handshake_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::check_handshake_timeout(slf)
    }

    fn _check_alert_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::check_alert_timeout(slf)
    }

    fn _check_shutdown_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::check_shutdown_timeout(slf)
    }

    /// Goes on after the application has resumed reading, or has filled its buffer.
    fn _read_on(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::read_on(slf)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<EventLoop>> {
        self.event_loop(py).map(Bound::unbind)
    }

    #[getter]
    fn _extra(&self, py: Python<'_>) -> Py<PyDict> {
        self.state.lock().extra.clone_ref(py)
    }

    #[getter]
    fn _sslobj(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.engine().map(|engine| engine.ssl_object(py).clone().unbind())
    }

    #[getter]
    fn _waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.lock().links.waiter.as_ref().map(|waiter| waiter.clone_ref(py))
    }

    #[getter]
    fn _ssl_handshake_timeout(&self, py: Python<'_>) -> Py<PyAny> {
        self.timeouts.handshake.clone_ref(py)
    }

    #[getter]
    fn _ssl_shutdown_timeout(&self, py: Python<'_>) -> Py<PyAny> {
        self.timeouts.shutdown.clone_ref(py)
    }

    /// The name of the phase in asyncio's enumeration of states.
    #[getter]
    fn _phase(&self) -> &'static str {
        match self.state.lock().phase {
            Phase::Unwrapped => "UNWRAPPED",
            Phase::Handshaking => "DO_HANDSHAKE",
            Phase::Wrapped => "WRAPPED",
            Phase::Flushing => "FLUSHING",
            Phase::ShuttingDown => "SHUTDOWN",
        }
    }

    #[getter]
    fn _conn_lost(&self) -> u32 {
        self.state.lock().writing.lost
    }

    #[getter]
    fn _ssl_writing_paused(&self) -> bool {
        self.state.lock().writing.is_held
    }

    #[getter]
    fn _ssl_reading_paused(&self) -> bool {
        self.state.lock().reading.flow.is_paused()
    }

    #[getter]
    fn _app_writing_paused(&self) -> bool {
        self.state.lock().writing.flow.is_paused()
    }

    #[getter]
    fn _app_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py)
    }

    #[getter]
    fn _app_reading_paused(&self) -> bool {
        self.state.lock().reading.paused
    }

    #[getter]
    fn _app_transport(&self, py: Python<'_>) -> Option<Py<TlsTransport>> {
        let state = self.state.lock();
        state.links.transport.as_ref().map(|transport| transport.clone_ref(py))
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.lower_object(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.timeouts.handshake)?;
        visit.call(&self.timeouts.shutdown)?;
        self.forwarded.try_each(|call| match call {
            Remote::ConnectionMade(lower) => visit.call(lower.object()),
            Remote::Abort(error) => visit.call(error),
            _ => Ok(()),
        })?;
        // A locked connection is in use by a thread, hence no garbage.
        self.state.try_lock().map_or(Ok(()), |state| state.visit(visit))
    }

    fn __clear__(&self) {
        let links = {
            let mut state = self.state.lock();
            let links = &mut state.links;
            (
                links.event_loop.take(),
                links.engine.take(),
                links.lower.take(),
                links.application.take(),
                links.transport.take(),
                links.waiter.take(),
                (links.handshake_timer.take(), links.shutdown_timer.take(), links.failure.take()),
            )
        };
        drop((links, self.forwarded.take_all()));
    }
}
