//! What Python sees of a transport that writes to a pipe: asyncio's methods, in its order.

use super::objects::Beginning;
use super::write::{WritePipeTransport, WriteRemote, WriteState};
use crate::loop_::event_loop::EventLoop;
use crate::py::imports;
use crate::runtime::pipe::WriteEnd;
use crate::transport::core::{Endpoint, Forwarding, Polled, Transport, checked_limits, extra_info};
use pyo3::exceptions::PyAssertionError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyMemoryView, PyType};
use rloop_core::flow::FlowControl;
use rloop_core::forwarded::Forwarded;
use rloop_core::lifecycle::Lifecycle;
use rloop_core::sync::Mutex;
use rloop_core::write_queue::WriteQueue;
use std::os::fd::RawFd;

#[pymethods]
impl WritePipeTransport {
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
        let refusal = "Pipe transport is only for pipes, sockets and character devices";
        let Beginning { objects, extra, place, kind } =
            Beginning::new(event_loop, pipe, protocol, extra, refusal)?;
        let state = WriteState {
            objects: Some(objects),
            end: Some(WriteEnd::new(place.fd)),
            extra,
            queue: WriteQueue::new(),
            flow: FlowControl::new(),
            life: Lifecycle::default(),
            lost_writes: 0,
        };
        Ok(Self { state: Mutex::new(state), place, forwarded: Forwarded::new(), kind })
    }

    /// Schedules `connection_made()`, the watch for the end of the reader, and the waiter.
    fn _open(slf: &Bound<'_, Self>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
        let transport = Transport::WritePipe(slf.clone().unbind());
        Self::schedule_start(slf, &slf.get().place, transport, waiter)
    }

    /// asyncio's class of such transports, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::WRITE_PIPE_TRANSPORT.class(py)?.clone())
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
        Self::write_eof(slf)
    }

    /// Closes the transport at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, WriteRemote::Abort)
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

    /// Sets the water marks of the write queue, in bytes.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        let (low, high) = checked_limits(high, low)?;
        Self::make_or_forward(slf, WriteRemote::SetLimits(low, high))
    }

    /// The water marks of the write queue (low, high), in bytes.
    fn get_write_buffer_limits(&self) -> (u128, u128) {
        let asked = self.forwarded.newest(|call| match call {
            WriteRemote::SetLimits(low, high) => Some((*low, *high)),
            _ => None,
        });
        asked.unwrap_or_else(|| self.state.lock().flow.limits())
    }

    /// How many bytes wait to be sent.
    fn get_write_buffer_size(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Writes bytes. Does not block; what the pipe does not take is queued, as it is now.
    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if data.is_instance_of::<PyBytes>()
            || data.is_instance_of::<PyByteArray>()
            || data.is_instance_of::<PyMemoryView>()
        {
            return Self::write_object(slf, data);
        }
        // What asyncio's transport says.
        Err(PyAssertionError::new_err(data.repr()?.unbind()))
    }

    /// Writes an iterable of bytes-like objects.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let joined = PyBytes::new(slf.py(), b"").call_method1("join", (list_of_data,))?;
        Self::write_object(slf, &joined)
    }

    /// Closes the transport once what is queued was sent: the reader is told by that.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::make_or_forward(slf, WriteRemote::WriteEof)
    }

    /// True.
    fn can_write_eof(&self) -> bool {
        true
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
    fn _write_ready(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::handle_event(slf, Self::on_event)
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
        let buffered = state.queue.len();
        let polling = match (watched, buffered) {
            (false, _) => "open".to_owned(),
            (true, 0) => "idle bufsize=0".to_owned(),
            (true, _) => format!("polling bufsize={buffered}"),
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
        let (objects, end, unsent) = {
            let mut state = slf.get().state.lock();
            state.life.end();
            (state.objects.take(), state.end.take(), state.queue.take())
        };
        drop(end);
        drop(unsent);
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
    fn _protocol_paused(&self) -> bool {
        self.state.lock().flow.is_paused()
    }

    #[getter]
    fn _conn_lost(&self) -> u32 {
        self.state.lock().lost_writes
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
        let (objects, end, unsent) = {
            let mut state = self.state.lock();
            (state.objects.take(), state.end.take(), state.queue.take())
        };
        drop(end);
        drop((objects, unsent));
    }
}
