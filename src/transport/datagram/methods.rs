//! What Python sees of a transport: asyncio's methods, in its order, and the attributes that the
//! standard library looks at.

use super::state::{DatagramState, Objects, ReadPath};
use super::transport::{DatagramTransport, Remote};
use crate::loop_::event_loop::EventLoop;
use crate::py::{ffi, imports};
use crate::runtime::datagram::{DatagramSocket, Family};
use crate::transport::core::{
    Endpoint, Forwarding, Place, Polled, SocketHold, Transport, checked_limits, extra_info,
};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use rloop_core::forwarded::Forwarded;
use rloop_core::sync::{Mutex, put};
use std::os::fd::RawFd;

#[pymethods]
impl DatagramTransport {
    /// Takes over a non-blocking datagram socket. `_open()` starts the transport.
    #[new]
    #[pyo3(signature = (event_loop, sock, protocol, address = None, waiter = None, extra = None))]
    fn new(
        event_loop: &Bound<'_, EventLoop>,
        sock: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        address: Option<Bound<'_, PyAny>>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        // The subclass hands the waiter to `_open()`.
        let _: Option<&Bound<'_, PyAny>> = waiter;
        let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        if fd < 0 {
            return Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}")));
        }
        let family = sock.getattr(intern!(py, "family"))?.extract()?;
        let family = Family::from_number(family).ok_or_else(|| {
            PyValueError::new_err(format!("datagrams of address family {family} are not native"))
        })?;
        let remote = match address {
            Some(address) if address.is_truthy()? => Some(address.unbind()),
            _ => None,
        };
        let extra = match extra {
            Some(extra) => extra.copy()?,
            None => PyDict::new(py),
        };
        let home = event_loop.get().shard(event_loop.get().home_here(py)?).clone();
        let mut objects = Objects {
            event_loop: event_loop.clone().unbind(),
            sock: sock.clone().unbind(),
            hold: SocketHold::default(),
            protocol: protocol.clone().unbind(),
            read_path: ReadPath::new(protocol.clone().unbind(), ffi::copy_context(py)?),
            write_context: None,
        };
        if !extra.contains(intern!(py, "peername"))? {
            let peer = match sock.call_method0(intern!(py, "getpeername")) {
                Err(error) if error.is_instance_of::<PyOSError>(py) => py.None().into_bound(py),
                peer => peer?,
            };
            extra.set_item(intern!(py, "peername"), peer)?;
        }
        // An address of a connected socket is true, as for asyncio.
        let peer = extra.get_item(intern!(py, "peername"))?;
        let is_connected = peer.map_or(Ok(false), |peer| peer.is_truthy())?;
        objects.hold = SocketHold::new(sock)?;
        let place = Place::new(fd, home);
        let socket = DatagramSocket::new(fd, place.generation);
        Ok(Self {
            state: Mutex::new(DatagramState::new(objects, socket, extra.unbind())),
            place,
            forwarded: Forwarded::new(),
            family,
            remote,
            is_connected,
        })
    }

    /// Schedules `connection_made()`, the first read, and the waiter.
    fn _open(slf: &Bound<'_, Self>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let place = &slf.get().place;
        if let Some(event_loop) = slf.get().event_loop(py) {
            event_loop.get().evict(py, place.fd)?;
        }
        Self::schedule_start(slf, place, Transport::Datagram(slf.clone().unbind()), waiter)
    }

    /// asyncio's class of such transports, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::SELECTOR_DATAGRAM_TRANSPORT.class(py)?.clone())
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

    /// Closes the transport once what is queued was sent.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, Remote::Close)
    }

    /// Closes the transport at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::_force_close(slf, None)
    }

    /// Replaces the protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) {
        let py = protocol.py();
        let context = {
            let state = self.state.lock();
            state.objects.as_ref().map(|objects| objects.read_path.context.clone_ref(py))
        };
        let Some(context) = context else {
            return;
        };
        let path = ReadPath::new(protocol.clone().unbind(), context);
        let protocol = protocol.clone().unbind();
        let replaced = {
            let mut state = self.state.lock();
            let places = state.objects.as_mut().map(|it| (&mut it.protocol, &mut it.read_path));
            let (protocol_place, path_place) = places.unzip();
            (put(protocol_place, protocol), put(path_place, path))
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

    /// Stops the calls of `datagram_received()`.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, Remote::PauseReading)
    }

    /// Goes on with the calls of `datagram_received()`.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, Remote::ResumeReading)
    }

    /// Sets the water marks of the queue, in bytes.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        let (low, high) = checked_limits(high, low)?;
        Self::make_or_forward(slf, Remote::SetLimits(low, high))
    }

    /// The water marks of the queue (low, high), in bytes.
    fn get_write_buffer_limits(&self) -> (u128, u128) {
        let asked = self.forwarded.newest(|call| match call {
            Remote::SetLimits(low, high) => Some((*low, *high)),
            _ => None,
        });
        asked.unwrap_or_else(|| self.state.lock().flow.limits())
    }

    /// What the datagrams that wait to be sent count for, in bytes.
    fn get_write_buffer_size(&self) -> usize {
        self.state.lock().queued
    }

    /// Sends a datagram. Does not block; what the socket does not take is queued, as it is now.
    #[pyo3(signature = (data, addr = None))]
    fn sendto(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        addr: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::send(slf, data, addr)
    }

    /// Closes the transport with `error`, which `connection_lost()` receives.
    #[pyo3(signature = (error))]
    fn _force_close(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        Self::make_or_forward(slf, Remote::Abort(error))
    }

    #[pyo3(signature = (error))]
    fn _call_connection_lost(
        slf: &Bound<'_, Self>,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::connection_lost(slf, error)
    }

    /// Lets the program close a socket whose transport could not be made.
    fn _let_go(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let held = {
            let mut state = slf.get().state.lock();
            let objects = state.objects.as_mut();
            objects.map(|objects| (std::mem::take(&mut objects.hold), objects.sock.clone_ref(py)))
        };
        held.map_or(Ok(()), |(hold, sock)| hold.release(sock.bind(py)))
    }

    /// The name under which a socket that cannot be watched is reported.
    fn _add_reader(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::add_reader(slf)
    }

    /// The name under which a failing protocol is reported.
    fn _read_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handle_event(slf, Self::on_readable)
    }

    /// The name under which a failing protocol is reported.
    fn _sendto_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handle_event(slf, Self::on_writable)
    }

    /// Closes the socket without a word to the protocol.
    fn _release(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::release(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let open_loop =
            slf.get().event_loop(py).filter(|event_loop| event_loop.get().check_closed().is_ok());
        let name = slf.get_type().name()?.to_string();
        let state = slf.get().state.lock();
        let closed = match (&state.objects, state.life.is_closing()) {
            (None, _) => " closed",
            (Some(_), true) => " closing",
            (Some(_), false) => "",
        };
        let polling = match open_loop {
            None => String::new(),
            Some(_) => format!(
                " read={} write=<{}, bufsize={}>",
                if state.life.is_reader_active() { "polling" } else { "idle" },
                if state.queue.is_empty() { "idle" } else { "polling" },
                state.queued
            ),
        };
        Ok(format!("<{name}{closed} fd={}{polling}>", slf.get().place.fd))
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<EventLoop>> {
        self.event_loop(py).map(Bound::unbind)
    }

    #[getter]
    fn _sock(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.lock().objects.as_ref().map(|objects| objects.sock.clone_ref(py))
    }

    #[getter]
    fn _sock_fd(&self) -> RawFd {
        self.place.fd
    }

    #[getter]
    fn _address(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.remote.as_ref().map(|remote| remote.clone_ref(py))
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
    fn _protocol_paused(&self) -> bool {
        self.state.lock().flow.is_paused()
    }

    #[getter]
    fn _conn_lost(&self) -> u32 {
        self.state.lock().life.lost()
    }

    #[getter]
    fn _extra(&self, py: Python<'_>) -> Py<PyDict> {
        self.state.lock().extra.clone_ref(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.place.is_initialized() {
            return Ok(());
        }
        visit.call(&self.remote)?;
        self.forwarded.try_each(|call| match call {
            Remote::Abort(error) => visit.call(error),
            Remote::SendTo(_, address) => visit.call(address),
            _ => Ok(()),
        })?;
        // A locked transport is in use by a thread, hence no garbage.
        self.state.try_lock().map_or(Ok(()), |state| state.visit(visit))
    }

    fn __clear__(&self) {
        let (objects, socket, unsent) = {
            let mut state = self.state.lock();
            (state.objects.take(), state.socket.take(), std::mem::take(&mut state.queue))
        };
        drop(socket);
        drop((objects, unsent, self.forwarded.take_all()));
    }
}
