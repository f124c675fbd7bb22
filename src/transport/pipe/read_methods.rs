//! What Python sees of a transport that reads from a pipe: asyncio's methods, in its order.

use super::objects::Beginning;
use super::read::{ReadPipeTransport, ReadRemote, ReadState};
use crate::loop_::event_loop::EventLoop;
use crate::py::imports;
use crate::transport::core::{Endpoint, Forwarding, Polled, Transport, extra_info};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use rloop_core::forwarded::Forwarded;
use rloop_core::lifecycle::Lifecycle;
use rloop_core::sync::Mutex;
use std::os::fd::RawFd;

#[pymethods]
impl ReadPipeTransport {
    /// Takes over a pipe. `_open()` starts the transport.
    #[new]
    #[pyo3(signature = (event_loop, pipe, protocol, waiter = None, extra = None))]
    fn new(
        event_loop: &Bound<'_, EventLoop>,
        pipe: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        // The subclass hands the waiter to `_open()`.
        let _: Option<&Bound<'_, PyAny>> = waiter;
        let refusal = "Pipe transport is for pipes/sockets only.";
        let Beginning { objects, extra, place, kind } =
            Beginning::new(event_loop, pipe, protocol, extra, refusal)?;
        let state =
            ReadState { objects: Some(objects), end: None, extra, life: Lifecycle::default() };
        Ok(Self { state: Mutex::new(state), place, forwarded: Forwarded::new(), kind })
    }

    /// Schedules `connection_made()`, the first read, and the waiter.
    fn _open(slf: &Bound<'_, Self>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
        let transport = Transport::ReadPipe(slf.clone().unbind());
        Self::schedule_start(slf, &slf.get().place, transport, waiter)
    }

    /// asyncio's class of such transports, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::READ_PIPE_TRANSPORT.class(py)?.clone())
    }

    /// Optional transport information, as `asyncio.BaseTransport.get_extra_info`.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let extra = self.state.lock().extra.clone_ref(py);
        extra_info(py, &extra, name, default)
    }

    /// True if the transport is closing or closed.
    fn is_closing(&self) -> bool {
        self.state.lock().life.is_closing() || self.place.will_close()
    }

    /// Closes the transport.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, ReadRemote::Close)
    }

    /// Replaces the protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) {
        let replaced = {
            let mut state = self.state.lock();
            let objects = state.objects.as_mut();
            objects
                .map(|objects| std::mem::replace(&mut objects.protocol, protocol.clone().unbind()))
        };
        drop(replaced);
    }

    /// The current protocol.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py)
    }

    /// True if the transport is receiving.
    fn is_reading(&self) -> bool {
        self.receives()
    }

    /// Stops the calls of `data_received()`.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, ReadRemote::Pause)
    }

    /// Goes on with the calls of `data_received()`.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, ReadRemote::Resume)
    }

    #[pyo3(signature = (error))]
    fn _call_connection_lost(
        slf: &Bound<'_, Self>,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::connection_lost(slf, error)
    }

    /// The name under which a pipe that cannot be watched is reported.
    fn _add_reader(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::add_reader(slf)
    }

    /// The name under which a failing protocol is reported.
    fn _read_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handle_event(slf, Self::on_readable)
    }

    /// Closes the pipe without a word to the protocol.
    fn _release(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::release(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let watched = slf.get().is_watched(slf.py());
        let name = slf.get_type().name()?.to_string();
        let fd = slf.get().place.fd;
        let state = slf.get().state.lock();
        let polling = match (watched, state.life.is_reader_active()) {
            (false, _) => "open",
            (true, true) => "polling",
            (true, false) => "idle",
        };
        Ok(match (&state.objects, state.life.is_closing()) {
            (None, _) => format!("<{name} closed fd={fd} closed>"),
            (Some(_), true) => format!("<{name} closing fd={fd} {polling}>"),
            (Some(_), false) => format!("<{name} fd={fd} {polling}>"),
        })
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<EventLoop>> {
        self.event_loop(py).map(Bound::unbind)
    }

    #[getter]
    fn _pipe(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.lock().objects.as_ref().map(|objects| objects.pipe.clone_ref(py))
    }

    /// Lets go of the pipe without closing it, whatever it is set to.
    #[setter(_pipe)]
    fn set_pipe(slf: &Bound<'_, Self>, _pipe: &Bound<'_, PyAny>) -> PyResult<()> {
        let (objects, end) = {
            let mut state = slf.get().state.lock();
            state.life.deactivate_reader();
            (state.objects.take(), state.end.take())
        };
        drop(end);
        Self::update_interest(slf);
        objects.map_or(Ok(()), |objects| objects.let_go(slf.py()))
    }

    #[getter]
    fn _fileno(&self) -> RawFd {
        self.place.fd
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py)
    }

    #[getter]
    fn _paused(&self) -> bool {
        self.state.lock().life.is_paused()
    }

    #[getter]
    fn _extra(&self, py: Python<'_>) -> Py<PyDict> {
        self.state.lock().extra.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.place.is_initialized() {
            return Ok(());
        }
        // A locked transport is in use by a thread, hence no garbage.
        let Some(state) = self.state.try_lock() else {
            return Ok(());
        };
        visit.call(&state.extra)?;
        state.objects.as_ref().map_or(Ok(()), |objects| objects.visit(visit))
    }

    fn __clear__(&self) {
        let (objects, end) = {
            let mut state = self.state.lock();
            (state.objects.take(), state.end.take())
        };
        drop(end);
        drop(objects);
    }
}
