//! What Python sees of a transport: asyncio's methods, in its order, and the attributes that the
//! standard library looks at.

use super::state::{Objects, ReadPath, Receiver, StreamState};
use super::transport::{Remote, StreamTransport};
use crate::loop_::event_loop::EventLoop;
use crate::py::error::{OrOsError, os_error};
use crate::py::ffi::OneArgumentMethod;
use crate::py::imports;
use crate::runtime::sockets;
use crate::runtime::stream::StreamSocket;
use crate::shard::Work;
use crate::transport::core::{
    Endpoint, Forwarding, Place, Polled, SocketHold, Transport, checked_limits, extra_info,
};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyTuple, PyType};
use rloop_core::forwarded::Forwarded;
use rloop_core::sync::Mutex;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::Arc;

/// `StreamTransport.write`
pub(crate) struct Write;

impl OneArgumentMethod for Write {
    type Class = StreamTransport;
    const NAME: &'static CStr = c"write";
    const DOC: &'static CStr = c"write($self, data, /)\n--\n\n\
        Writes bytes. Does not block; what the socket does not take is queued, as it is now.";

    fn call(slf: &Bound<'_, StreamTransport>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        StreamTransport::write(slf, data)
    }
}

#[pymethods]
impl StreamTransport {
    /// Takes over a connected, non-blocking socket. `_open()` starts the transport.
    #[new]
    #[pyo3(signature = (
        event_loop, sock, protocol, waiter = None, extra = None, server = None, context = None
    ))]
    fn new(
        event_loop: &Bound<'_, EventLoop>,
        sock: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
        server: Option<Py<PyAny>>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        // The subclass hands the waiter to `_open()`.
        let _: Option<&Bound<'_, PyAny>> = waiter;
        let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        if fd < 0 {
            return Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}")));
        }
        let own_context = context.as_ref().map(|context| context.clone_ref(py));
        // The context names the home afterwards.
        let (context, home, _) = EventLoop::home_for(event_loop, context)?;
        let home = event_loop.get().shard(home).clone();
        let mut objects = Objects {
            event_loop: event_loop.clone().unbind(),
            sock: sock.clone().unbind(),
            hold: SocketHold::default(),
            protocol: protocol.clone().unbind(),
            read_path: Arc::new(ReadPath { receiver: Receiver::new(protocol)?, context }),
            server,
            own_context,
            write_context: None,
        };
        let extra = match extra {
            Some(extra) => extra.copy()?,
            None => PyDict::new(py),
        };
        if sock.get_type().is(imports::SOCKET.get(py)?) {
            sockets::disable_nagle(fd).or_os_error(py)?;
        }
        objects.hold = SocketHold::new(sock)?;
        Ok(Self {
            state: Mutex::new(StreamState::new(objects, extra.unbind())),
            place: Place::new(fd, home),
            forwarded: Forwarded::new(),
        })
    }

    /// Registers the socket and schedules `connection_made()`, the first read, and the waiter.
    fn _open(slf: &Bound<'_, Self>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (Some(event_loop), Some(protocol)) = (this.event_loop(py), this.protocol(py)) else {
            return Err(PyRuntimeError::new_err("the transport is closed"));
        };
        let shard = &this.place.home;
        let io = shard.io()?;
        event_loop.get().evict(py, this.place.fd)?;
        let registered = {
            let _entered = io.driver.enter();
            StreamSocket::register(this.place.fd, this.place.generation)
        };
        // As in asyncio, a descriptor that cannot be polled fails the connection once it was made.
        let mut failure = None;
        match registered {
            Ok(socket) => this.state.lock().socket = Some(socket),
            Err(error) => failure = Some(os_error(py, &error).into_value(py).into_any()),
        }
        let connection_made = protocol.getattr(py, intern!(py, "connection_made"))?;
        let context = || this.own_context(py);
        let arguments = PyTuple::new(py, [slf])?.unbind();
        EventLoop::schedule(&event_loop, connection_made, arguments, context())?;
        match failure {
            None => {
                let transport = Transport::Stream(slf.clone().unbind());
                Self::schedule_reading(slf, &event_loop, &this.place, transport)?;
            }
            Some(error) => {
                shard.push(Work::Fail(slf.clone().unbind(), error));
            }
        }
        EventLoop::schedule_waiter(&event_loop, waiter, context())
    }

    /// The name under which the start of reading is scheduled.
    fn _add_reader(slf: &Bound<'_, Self>) {
        Self::start_reading(slf);
    }

    /// asyncio's base class of such transports, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::TRANSPORT.class(py)?.clone())
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
    fn set_protocol(&self, py: Python<'_>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let receiver = Receiver::new(protocol)?;
        let protocol = protocol.clone().unbind();
        let replaced = self.state.lock().set_protocol(py, protocol, receiver);
        drop(replaced);
        Ok(())
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
        Self::make_or_forward(slf, Remote::PauseReading)
    }

    /// Goes on with the calls of `data_received()`.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, Remote::ResumeReading)
    }

    /// Sets the water marks of the write queue, in bytes.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        let (low, high) = checked_limits(high, low)?;
        Self::make_or_forward(slf, Remote::SetLimits(low, high))
    }

    /// The water marks of the write queue (low, high), in bytes.
    fn get_write_buffer_limits(&self) -> (u128, u128) {
        let asked = self.forwarded.newest(|call| match call {
            Remote::SetLimits(low, high) => Some((*low, *high)),
            _ => None,
        });
        asked.unwrap_or_else(|| self.state.lock().flow.limits())
    }

    /// How many bytes wait to be sent.
    fn get_write_buffer_size(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Writes an iterable of bytes-like objects, in as few system calls as possible.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::write_lines(slf, list_of_data)
    }

    /// Shuts down the sending side once what is queued was sent.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, Remote::WriteEof)
    }

    /// True: a stream socket has a sending side of its own.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Ends the connection with `error`, which `connection_lost()` receives.
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

    /// Closes the socket without a word to the protocol.
    fn _release(slf: &Bound<'_, Self>) -> PyResult<()> {
        // As in asyncio, `sendfile()` on a transport that nobody refers to is not told.
        let waiter = slf.get().state.lock().empty_waiter.take();
        drop(waiter);
        Self::release(slf)
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

    /// The name under which an exception of a read event is reported.
    fn _read_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handle_event(slf, Self::on_readable)
    }

    /// The name under which an exception of a write event is reported.
    fn _write_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handle_event(slf, Self::on_writable)
    }

    /// A future that is done once the queue is empty, for `loop.sendfile()`.
    fn _make_empty_waiter<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let event_loop = slf.get().event_loop(py);
        let event_loop =
            event_loop.ok_or_else(|| PyRuntimeError::new_err("the transport is closed"))?;
        let waiter = event_loop.call_method0(intern!(py, "create_future"))?;
        let is_empty = {
            let mut state = slf.get().state.lock();
            if state.empty_waiter.is_some() {
                return Err(PyRuntimeError::new_err("Empty waiter is already set"));
            }
            state.empty_waiter = Some(waiter.clone().unbind());
            state.queue.is_empty()
        };
        if is_empty {
            waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
        }
        Ok(waiter)
    }

    fn _reset_empty_waiter(&self) {
        let waiter = self.state.lock().empty_waiter.take();
        drop(waiter);
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
                state.queue.len()
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

    /// The index of the shard that the transport belongs to.
    #[getter]
    fn _shard(&self) -> u16 {
        self.place.home.index()
    }

    #[getter]
    fn _sock_fd(&self) -> RawFd {
        self.place.fd
    }

    #[getter]
    fn _server(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.state.lock();
        state.objects.as_ref()?.server.as_ref().map(|server| server.clone_ref(py))
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
    fn _extra(&self, py: Python<'_>) -> Py<PyDict> {
        self.state.lock().extra.clone_ref(py)
    }

    #[getter]
    fn _eof(&self) -> bool {
        self.state.lock().eof_written
    }

    #[getter]
    fn _empty_waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.lock().empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py))
    }

    #[getter]
    fn _conn_lost(&self) -> u32 {
        self.state.lock().life.lost()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.place.is_initialized() {
            return Ok(());
        }
        self.forwarded.try_each(|call| match call {
            Remote::Abort(error) => visit.call(error),
            _ => Ok(()),
        })?;
        // A locked transport is in use by a thread, hence no garbage.
        self.state.try_lock().map_or(Ok(()), |state| state.visit(visit))
    }

    fn __clear__(&self) {
        let (objects, socket, waiter) = {
            let mut state = self.state.lock();
            (state.objects.take(), state.socket.take(), state.empty_waiter.take())
        };
        drop(socket);
        drop((objects, waiter, self.forwarded.take_all()));
    }
}
