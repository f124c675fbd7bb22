//! `StreamTransport`: TCP and Unix stream connections, as asyncio's selector transport behaves.
//!
//! # Theory of operation
//!
//! The transport belongs to one shard. Events of its socket arrive there as work of a turn, each
//! protocol callback runs there, in a context, and failures go where asyncio sends them: a failed
//! system call to `connection_lost(exc)`, a failed protocol method to the exception handler *and*
//! `connection_lost(exc)`. A method called on another thread while the shard runs is forwarded to
//! it, in order.
//!
//! The shard keeps the transport alive from its first event until `connection_lost()`, as a
//! selector would.
//!
//! The socket stays a Python object, which the user may reach. The transport holds one of its
//! `_io_refs`, as `socket.makefile()` does: `sock.close()` by somebody else then takes effect when
//! the transport has closed, and the number is never reused under it.

use crate::driving::registration::{Direction, Event, Read, Registration};
use crate::python::error::{OrOsError, os_error};
use crate::python::event_loop::EventLoop;
use crate::python::ffi::OneArgumentMethod;
use crate::python::handle::must_propagate;
use crate::python::shard::{Shard, Work};
use crate::python::stream_state::{Flushed, Objects, ReadPath, Receiver, StreamState};
use crate::python::{buffer, ffi, imports};
use parking_lot::Mutex;
use pyo3::exceptions::{PyConnectionError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyContext, PyDict, PyList, PyTuple, PyType};
use rloop_core::flow::{FlowChange, FlowControl};
use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The most one read takes, as in `asyncio.selector_events`.
const MAX_READ_SIZE: usize = 256 * 1024;
/// After so many writes on a lost connection each further one is logged, as in
/// `asyncio.constants`.
const LOG_THRESHOLD_FOR_CONNLOST_WRITES: u32 = 5;

static NEXT_GENERATION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Where a read goes before its size is known.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A call on a transport that was made on another thread than its own.
pub(crate) enum Remote {
    Write(PyBackedBytes),
    WriteEof,
    PauseReading,
    ResumeReading,
    Close,
    Abort(Option<Py<PyAny>>),
}

/// A stream transport on a connected socket.
#[pyclass(frozen, subclass, weakref, dict, module = "rloop._rloop")]
pub(crate) struct StreamTransport {
    state: Mutex<StreamState>,
    fd: RawFd,
    /// Tells the transports that had this descriptor apart.
    generation: u64,
    /// Where the transport lives.
    home: Arc<Shard>,
    /// Whether the shard keeps it alive; only the home thread changes this.
    attached: AtomicBool,
}

/// How a write that is not finished went.
enum Written {
    /// The kernel took so many bytes.
    Partly(usize),
    /// The connection is gone; so many writes came after that, plus one.
    Lost(u32),
    Failed(std::io::Error),
}

/// What a read event led to.
enum Received<'py> {
    /// Nothing: the transport is not reading, or the event was stale.
    Nothing,
    /// Bytes for `data_received`; `more` is the next event, if the driver will not deliver it.
    Data {
        data: Bound<'py, PyBytes>,
        more: Option<Event>,
        path: Arc<ReadPath>,
    },
    /// A buffered protocol has to be asked where to receive.
    Wanted(Arc<ReadPath>),
    End(Arc<ReadPath>),
    Failed(std::io::Error),
}

impl StreamTransport {
    fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, EventLoop>> {
        let state = self.state.lock();
        state.objects.as_ref().map(|objects| objects.event_loop.clone_ref(py).into_bound(py))
    }

    /// Forwards `call` if this is not the thread it has to run on; true if it did.
    fn forward(slf: &Bound<'_, Self>, call: impl FnOnce() -> PyResult<Remote>) -> PyResult<bool> {
        let home = &slf.get().home;
        if home.is_elsewhere() {
            home.push(Work::Remote(slf.clone().unbind(), Box::new(call()?)));
            return Ok(true);
        }
        Ok(false)
    }

    /// Runs a forwarded call.
    pub(crate) fn run_remote(slf: &Bound<'_, Self>, call: Remote) -> PyResult<()> {
        match call {
            Remote::Write(data) => {
                Self::write_checked(slf, data.as_ref(), || Ok(data.clone_ref(slf.py())))
            }
            Remote::WriteEof => slf.get().write_eof_here(slf.py()),
            Remote::PauseReading => Self::pause_here(slf),
            Remote::ResumeReading => Self::resume_here(slf),
            Remote::Close => Self::close_here(slf),
            Remote::Abort(error) => Self::force_close(slf, error),
        }
    }

    /// Called once `connection_made()` has run.
    pub(crate) fn start_reading(slf: &Bound<'_, Self>) {
        let mut state = slf.get().state.lock();
        if state.is_reading() {
            let event = state.activate_reader();
            drop(state);
            Self::update_interest(slf);
            slf.get().expect_event(event);
        }
    }

    /// Lets the shard keep the transport alive while it is reading or has something to send, as a
    /// selector would, and no longer.
    fn update_interest(slf: &Bound<'_, Self>) {
        let this = slf.get();
        let wanted = this.state.lock().is_interested();
        if wanted != this.attached.swap(wanted, Ordering::Relaxed) {
            if wanted {
                drop(this.home.attach_stream(this.fd, this.generation, slf.clone().unbind()));
            } else {
                drop(this.home.detach_stream(this.fd, this.generation));
            }
        }
    }

    /// Queues an event that the driver will not deliver.
    fn expect_event(&self, event: Option<Event>) {
        if let Some(event) = event {
            self.home.push(Work::Event(event));
        }
    }

    /// The socket has something to read, or may have.
    ///
    /// # Errors
    /// `SystemExit` and `KeyboardInterrupt` of the protocol.
    pub(crate) fn on_readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let received = READ_BUFFER.with_borrow_mut(|buffer| {
            let state = slf.get().state.lock();
            let Some(objects) = state.objects.as_ref().filter(|_| state.reader_active) else {
                return Received::Nothing;
            };
            let path = objects.read_path.clone();
            if matches!(path.receiver, Receiver::Buffered { .. }) {
                return Received::Wanted(path);
            }
            if buffer.is_empty() {
                buffer.resize(MAX_READ_SIZE, 0);
            }
            let (len, more) = match state.read(buffer) {
                Ok(Read::Received(len)) => (len, None),
                Ok(Read::ReceivedMore(len)) => (len, Some(slf.get().read_event())),
                Ok(Read::NotReady) => return Received::Nothing,
                Ok(Read::End) => return Received::End(path),
                Err(error) => return Received::Failed(error),
            };
            drop(state);
            Received::Data { data: PyBytes::new(py, &buffer[..len]), more, path }
        });
        match received {
            Received::Nothing => Ok(()),
            Received::Data { data, more, path } => {
                slf.get().expect_event(more);
                if data.as_bytes().is_empty() {
                    return Ok(());
                }
                let Receiver::Streaming { data_received } = &path.receiver else {
                    return Ok(());
                };
                let called =
                    ffi::in_context(path.context.bind(py), || data_received.call(data.into_any()));
                Self::check_protocol_call(slf, called, "data_received").map(|_| ())
            }
            Received::Wanted(path) => Self::receive_into(slf, &path),
            Received::End(path) => Self::on_end(slf, path.context.bind(py)),
            Received::Failed(error) => {
                Self::fatal_error(slf, os_error(py, &error), "Fatal read error on socket transport")
            }
        }
    }

    fn read_event(&self) -> Event {
        Event { fd: self.fd, generation: self.generation, direction: Direction::Read }
    }

    fn receive_into(slf: &Bound<'_, Self>, path: &ReadPath) -> PyResult<()> {
        let py = slf.py();
        let Receiver::Buffered { get_buffer, buffer_updated } = &path.receiver else {
            return Ok(());
        };
        let (context, get_buffer, buffer_updated) =
            (path.context.bind(py), get_buffer.bind(py), buffer_updated.bind(py));
        let called = ffi::in_context(context, || {
            let target = get_buffer.call1((-1,))?;
            if target.len()? == 0 {
                return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
            }
            Ok(target)
        });
        let Some(target) = Self::check_protocol_call(slf, called, "get_buffer")? else {
            return Ok(());
        };
        let read = ffi::with_writable_bytes(&target, |bytes| slf.get().state.lock().read(bytes));
        let (len, more) = match read.and_then(|read| read.or_os_error(slf.py())) {
            Ok(Read::NotReady) => return Ok(()),
            Ok(Read::End) => return Self::on_end(slf, context),
            Ok(Read::Received(len)) => (len, None),
            Ok(Read::ReceivedMore(len)) => (len, Some(slf.get().read_event())),
            Err(error) => {
                return Self::fatal_error(slf, error, "Fatal read error on socket transport");
            }
        };
        slf.get().expect_event(more);
        if len == 0 {
            return Ok(());
        }
        let called = ffi::in_context(context, || buffer_updated.call1((len,)));
        Self::check_protocol_call(slf, called, "buffer_updated").map(|_| ())
    }

    /// The peer has shut down its side.
    fn on_end(slf: &Bound<'_, Self>, context: &Bound<'_, PyContext>) -> PyResult<()> {
        let py = slf.py();
        log_debug(slf, "%r received EOF")?;
        let Some(protocol) = slf.get().protocol(py) else {
            return Ok(());
        };
        let called = ffi::in_context(context, || {
            protocol.bind(py).call_method0(intern!(py, "eof_received"))?.is_truthy()
        });
        match Self::check_protocol_call(slf, called, "eof_received")? {
            None => Ok(()),
            // The protocol may go on to write, but there is nothing more to read.
            Some(true) => {
                slf.get().state.lock().reader_active = false;
                Self::update_interest(slf);
                Ok(())
            }
            Some(false) => Self::close_here(slf),
        }
    }

    /// Handles a failed protocol method: `Ok(None)` after the error was dealt with.
    #[inline]
    fn check_protocol_call<R>(
        slf: &Bound<'_, Self>,
        called: PyResult<R>,
        method: &str,
    ) -> PyResult<Option<R>> {
        match called {
            Ok(result) => Ok(Some(result)),
            Err(error) if must_propagate(slf.py(), &error) => Err(error),
            Err(error) => {
                let message = format!("Fatal error: protocol.{method}() call failed.");
                Self::fatal_error(slf, error, &message).map(|()| None)
            }
        }
    }

    /// The socket has room again.
    ///
    /// # Errors
    /// `SystemExit` and `KeyboardInterrupt` of the protocol.
    pub(crate) fn on_writable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let context = {
            let state = slf.get().state.lock();
            if state.lost > 0 || state.queue.is_empty() {
                return Ok(());
            }
            match &state.objects {
                Some(Objects { write_context: Some(context), .. }) => context.clone_ref(py),
                _ => return Ok(()),
            }
        };
        let mut outcome = Ok(());
        ffi::in_context(context.bind(py), || {
            outcome = Self::flush(slf);
            Ok(())
        })?;
        outcome
    }

    /// Sends what is queued, and does what waits for the queue to be empty.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut used = Vec::new();
        let (flushed, change) = {
            let mut state = slf.get().state.lock();
            let flushed = state.flush(&mut used);
            let buffered = state.queue.len();
            (flushed, state.flow.shrunk(buffered))
        };
        drop(used);
        Self::update_interest(slf);
        if let Err(error) = flushed {
            return Self::write_failed(slf, os_error(py, &error));
        }
        Self::apply_flow_change(slf, change)?;
        // resume_writing() may have queued more.
        let (waiter, closing) = {
            let state = slf.get().state.lock();
            if !state.queue.is_empty() {
                return Ok(());
            }
            (
                state.empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py)),
                state.closing && state.lost == 0,
            )
        };
        if let Some(waiter) = waiter {
            waiter.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
        }
        if closing {
            slf.get().state.lock().lost += 1;
            return Self::connection_lost(slf, None);
        }
        if slf.get().state.lock().eof_written {
            return slf.get().shutdown_write(py);
        }
        Ok(())
    }

    fn write_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        let waiter =
            slf.get().state.lock().empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py));
        let exception = error.clone_ref(py);
        Self::fatal_error(slf, error, "Fatal write error on socket transport")?;
        if let Some(waiter) = waiter {
            waiter.call_method1(py, intern!(py, "set_exception"), (exception,))?;
        }
        Ok(())
    }

    fn apply_flow_change(slf: &Bound<'_, Self>, change: FlowChange) -> PyResult<()> {
        let py = slf.py();
        let method = match change {
            FlowChange::Unchanged => return Ok(()),
            FlowChange::Pause => "pause_writing",
            FlowChange::Resume => "resume_writing",
        };
        let Some(protocol) = slf.get().protocol(py) else {
            return Ok(());
        };
        match protocol.call_method0(py, method) {
            Ok(_) => Ok(()),
            Err(error) if must_propagate(py, &error) => Err(error),
            Err(error) => Self::report(slf, &format!("protocol.{method}() failed"), error),
        }
    }

    fn protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.state.lock();
        state.objects.as_ref().map(|objects| objects.protocol.clone_ref(py))
    }

    /// Tells the loop's exception handler.
    fn report(slf: &Bound<'_, Self>, message: &str, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().event_loop(py) else {
            return Ok(());
        };
        let report = PyDict::new(py);
        report.set_item("message", message)?;
        report.set_item("exception", error)?;
        report.set_item("transport", slf)?;
        report.set_item("protocol", slf.get().protocol(py))?;
        event_loop.call_method1("call_exception_handler", (report,))?;
        Ok(())
    }

    /// Ends the connection because of `error`; reports it unless it is the network's.
    fn fatal_error(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        let exception = error.clone_ref(py).into_value(py).into_any();
        if error.is_instance_of::<PyOSError>(py) {
            if slf.get().event_loop(py).is_some_and(|event_loop| event_loop.get().is_debug()) {
                let keywords = PyDict::new(py);
                keywords.set_item("exc_info", error)?;
                imports::logger(py)?.call_method(
                    "debug",
                    ("%r: %s", slf, message),
                    Some(&keywords),
                )?;
            }
        } else {
            Self::report(slf, message, error)?;
        }
        Self::force_close(slf, Some(exception))
    }

    fn force_close(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let unsent = slf.get().state.lock().force_close();
        if unsent.is_none() {
            return Ok(());
        }
        drop(unsent);
        Self::update_interest(slf);
        Self::schedule_connection_lost(slf, error)
    }

    fn schedule_connection_lost(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let Some(event_loop) = slf.get().event_loop(py) else {
            return Ok(());
        };
        let callback = slf.getattr(intern!(py, "_call_connection_lost"))?.unbind();
        let arguments = PyTuple::new(py, [error])?.unbind();
        // As in asyncio, this is the scheduling method that refuses a closed loop.
        event_loop.get().check_closed()?;
        EventLoop::schedule(&event_loop, callback, arguments, None)?;
        Ok(())
    }

    /// Tells the protocol that the connection is gone, and lets go of everything.
    fn connection_lost(slf: &Bound<'_, Self>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let (protocol, connected) = {
            let state = slf.get().state.lock();
            let protocol = state.objects.as_ref().map(|objects| objects.protocol.clone_ref(py));
            (protocol, state.protocol_connected)
        };
        let called = match protocol {
            Some(protocol) if connected => {
                protocol.call_method1(py, intern!(py, "connection_lost"), (error,)).map(|_| ())
            }
            _ => Ok(()),
        };
        let released = Self::release(slf);
        called.and(released)
    }

    /// Closes the socket and drops every reference. Only the first call does something.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (objects, registration, unsent, waiter) = {
            let mut state = this.state.lock();
            state.reader_active = false;
            (
                state.objects.take(),
                state.registration.take(),
                state.queue.take(),
                state.empty_waiter.take(),
            )
        };
        drop(unsent);
        let Some(objects) = objects else {
            return Ok(());
        };
        // In this order: the registration must not outlive the descriptor.
        drop(registration);
        Self::update_interest(slf);
        let sock = objects.sock.bind(py);
        let closed = sock.call_method0(intern!(py, "close")).and_then(|_| release_socket(sock));
        let detached = match &objects.server {
            Some(server) if py.version_info() >= (3, 13) => {
                server.call_method1(py, intern!(py, "_detach"), (slf,)).map(|_| ())
            }
            Some(server) => server.call_method0(py, intern!(py, "_detach")).map(|_| ()),
            None => Ok(()),
        };
        if let Some(waiter) = waiter {
            let error = PyConnectionError::new_err("Connection is closed by peer");
            waiter.call_method1(py, intern!(py, "set_exception"), (error,))?;
        }
        closed.and(detached)
    }

    /// Writes checked bytes: at once if nothing waits, and the rest when the socket has room.
    fn write_checked(
        slf: &Bound<'_, Self>,
        bytes: &[u8],
        snapshot: impl FnOnce() -> PyResult<PyBackedBytes>,
    ) -> PyResult<()> {
        let py = slf.py();
        let written = {
            let mut state = slf.get().state.lock();
            if state.eof_written || state.empty_waiter.is_some() {
                state.check_writable("write")?;
            }
            if state.note_lost_write() {
                Written::Lost(state.lost)
            } else {
                match state.write_now(bytes) {
                    Ok(sent) if sent == bytes.len() => return Ok(()),
                    Ok(sent) => Written::Partly(sent),
                    Err(error) => Written::Failed(error),
                }
            }
        };
        let sent = match written {
            Written::Partly(sent) => sent,
            Written::Lost(count) => return warn_about_lost_write(py, count),
            Written::Failed(error) => {
                return Self::fatal_error(
                    slf,
                    os_error(py, &error),
                    "Fatal write error on socket transport",
                );
            }
        };
        Self::enqueue(slf, snapshot()?, sent)
    }

    fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = data.cast::<PyBytes>();
        if bytes.is_err() {
            buffer::check(data)?;
        }
        if Self::forward(slf, || buffer::snapshot(data).map(Remote::Write))? {
            return Ok(());
        }
        match bytes {
            Ok(bytes) => Self::write_checked(slf, bytes.as_bytes(), || buffer::snapshot(data)),
            Err(_) => ffi::with_bytes(data, |bytes| {
                Self::write_checked(slf, bytes, || buffer::snapshot(data))
            })?,
        }
    }

    fn enqueue(slf: &Bound<'_, Self>, data: PyBackedBytes, offset: usize) -> PyResult<()> {
        let context = ffi::copy_context(slf.py())?;
        let (change, old_context) = {
            let mut state = slf.get().state.lock();
            let starts = state.queue.is_empty();
            let change = state.enqueue(data, offset);
            let old_context = match &mut state.objects {
                Some(objects) if starts => objects.write_context.replace(context),
                _ => Some(context),
            };
            (change, old_context)
        };
        drop(old_context);
        Self::update_interest(slf);
        match change {
            Ok(change) => Self::apply_flow_change(slf, change),
            Err(error) => {
                let error = os_error(slf.py(), &error);
                Self::fatal_error(slf, error, "Fatal write error on socket transport")
            }
        }
    }

    fn write_eof_here(&self, py: Python<'_>) -> PyResult<()> {
        let shut_down = {
            let mut state = self.state.lock();
            if state.closing || state.eof_written {
                return Ok(());
            }
            state.eof_written = true;
            state.queue.is_empty()
        };
        if shut_down { self.shutdown_write(py) } else { Ok(()) }
    }

    fn shutdown_write(&self, py: Python<'_>) -> PyResult<()> {
        match &self.state.lock().registration {
            Some(registration) => registration.shutdown_write().or_os_error(py),
            None => Ok(()),
        }
    }

    fn pause_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        {
            let mut state = slf.get().state.lock();
            if !state.is_reading() {
                return Ok(());
            }
            state.paused = true;
            state.reader_active = false;
        }
        Self::update_interest(slf);
        log_debug(slf, "%r pauses reading")
    }

    fn resume_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let context = ffi::copy_context(slf.py())?;
        let (old_context, event) = {
            let mut state = slf.get().state.lock();
            if state.closing || !state.paused {
                return Ok(());
            }
            state.paused = false;
            let old = state.objects.as_mut().map(|objects| {
                let receiver = objects.read_path.receiver.clone_ref(slf.py());
                std::mem::replace(&mut objects.read_path, Arc::new(ReadPath { receiver, context }))
            });
            (old, state.activate_reader())
        };
        drop(old_context);
        Self::update_interest(slf);
        slf.get().expect_event(event);
        log_debug(slf, "%r resumes reading")
    }

    fn close_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let nothing_queued = slf.get().state.lock().close();
        Self::update_interest(slf);
        if nothing_queued { Self::schedule_connection_lost(slf, None) } else { Ok(()) }
    }
}

/// Takes one of the socket's `_io_refs`, see the module's documentation.
fn hold_socket(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = sock.py();
    if sock.is_instance(imports::SOCKET.get(py)?)? {
        let references = sock.getattr(intern!(py, "_io_refs"))?;
        sock.setattr(intern!(py, "_io_refs"), references.add(1)?)?;
    }
    Ok(())
}

/// Gives back what [`hold_socket`] took; a socket that was closed meanwhile is closed now.
fn release_socket(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = sock.py();
    if sock.is_instance(imports::SOCKET.get(py)?)? {
        sock.call_method0(intern!(py, "_decref_socketios"))?;
    }
    Ok(())
}

fn log_debug(slf: &Bound<'_, StreamTransport>, message: &str) -> PyResult<()> {
    let py = slf.py();
    if slf.get().event_loop(py).is_some_and(|event_loop| event_loop.get().is_debug()) {
        imports::logger(py)?.call_method1("debug", (message, slf))?;
    }
    Ok(())
}

fn warn_about_lost_write(py: Python<'_>, count: u32) -> PyResult<()> {
    if count > LOG_THRESHOLD_FOR_CONNLOST_WRITES {
        imports::logger(py)?.call_method1("warning", ("socket.send() raised exception.",))?;
    }
    Ok(())
}

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
    #[pyo3(signature = (event_loop, sock, protocol, waiter = None, extra = None, server = None))]
    fn new(
        event_loop: &Bound<'_, EventLoop>,
        sock: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
        server: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        // The subclass hands the waiter to `_open()`.
        let _: Option<&Bound<'_, PyAny>> = waiter;
        let fd: RawFd = sock.call_method0(intern!(py, "fileno"))?.extract()?;
        if fd < 0 {
            return Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}")));
        }
        let objects = Objects {
            event_loop: event_loop.clone().unbind(),
            sock: sock.clone().unbind(),
            protocol: protocol.clone().unbind(),
            read_path: Arc::new(ReadPath {
                receiver: Receiver::new(protocol)?,
                context: ffi::copy_context(py)?,
            }),
            server,
            write_context: None,
        };
        let extra = match extra {
            Some(extra) => extra.copy()?,
            None => PyDict::new(py),
        };
        hold_socket(sock)?;
        Ok(Self {
            state: Mutex::new(StreamState::new(objects, extra.unbind())),
            fd,
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
            home: event_loop.get().main_shard().clone(),
            attached: AtomicBool::new(false),
        })
    }

    /// Registers the socket and schedules `connection_made()`, the first read, and the waiter.
    fn _open(slf: &Bound<'_, Self>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (Some(event_loop), Some(protocol)) = (this.event_loop(py), this.protocol(py)) else {
            return Err(PyRuntimeError::new_err("the transport is closed"));
        };
        let shard = &this.home;
        let io = shard.io()?;
        let forgotten = io.watches.evict(this.fd).or_os_error(py)?;
        for handle in &forgotten {
            handle.call_method0(py, "cancel")?;
        }
        let registered = {
            let _entered = io.driver.enter();
            Registration::new(this.fd, this.generation)
        };
        // As in asyncio, a descriptor that cannot be polled fails the connection once it was made.
        let mut failure = None;
        match registered {
            Ok(registration) => this.state.lock().registration = Some(registration),
            Err(error) => failure = Some(os_error(py, &error).into_value(py).into_any()),
        }
        let connection_made = protocol.getattr(py, intern!(py, "connection_made"))?;
        EventLoop::schedule(&event_loop, connection_made, PyTuple::new(py, [slf])?.unbind(), None)?;
        shard.push(match failure {
            None => Work::StartReading(slf.clone().unbind()),
            Some(error) => Work::Remote(slf.clone().unbind(), Box::new(Remote::Abort(Some(error)))),
        });
        if let Some(waiter) = waiter {
            let callback = imports::SET_RESULT_UNLESS_CANCELLED.get(py)?.clone().unbind();
            let arguments = PyTuple::new(py, [waiter, py.None()])?.unbind();
            EventLoop::schedule(&event_loop, callback, arguments, None)?;
        }
        Ok(())
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
        match extra.bind(py).get_item(name)? {
            Some(value) => Ok(value.unbind()),
            None => Ok(default.unwrap_or_else(|| py.None())),
        }
    }

    /// True if the transport is closing or closed.
    fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    /// Closes the transport once what is queued was sent.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::forward(slf, || Ok(Remote::Close))? { Ok(()) } else { Self::close_here(slf) }
    }

    /// Closes the transport at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::_force_close(slf, None)
    }

    /// Replaces the protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let receiver = Receiver::new(protocol)?;
        let replaced = {
            let mut state = self.state.lock();
            state.protocol_connected = true;
            state.objects.as_mut().map(|objects| {
                let context = objects.read_path.context.clone_ref(protocol.py());
                (
                    std::mem::replace(&mut objects.protocol, protocol.clone().unbind()),
                    std::mem::replace(
                        &mut objects.read_path,
                        Arc::new(ReadPath { receiver, context }),
                    ),
                )
            })
        };
        drop(replaced);
        Ok(())
    }

    /// The current protocol.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py)
    }

    /// True if the transport is receiving.
    fn is_reading(&self) -> bool {
        self.state.lock().is_reading()
    }

    /// Stops the calls of `data_received()`.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::forward(slf, || Ok(Remote::PauseReading))? {
            Ok(())
        } else {
            Self::pause_here(slf)
        }
    }

    /// Goes on with the calls of `data_received()`.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::forward(slf, || Ok(Remote::ResumeReading))? {
            Ok(())
        } else {
            Self::resume_here(slf)
        }
    }

    /// Sets the water marks of the write queue, in bytes.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<i128>,
        low: Option<i128>,
    ) -> PyResult<()> {
        let (low, high) = FlowControl::derive_limits(high, low).map_err(|(low, high)| {
            PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0"))
        })?;
        let change = {
            let mut state = slf.get().state.lock();
            state.flow.set_limits(low, high);
            let buffered = state.queue.len();
            state.flow.grown(buffered)
        };
        Self::apply_flow_change(slf, change)
    }

    /// The water marks of the write queue (low, high), in bytes.
    fn get_write_buffer_limits(&self) -> (u128, u128) {
        self.state.lock().flow.limits()
    }

    /// How many bytes wait to be sent.
    fn get_write_buffer_size(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Writes an iterable of bytes-like objects, in as few system calls as possible.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if py.version_info() < (3, 12) {
            // asyncio.WriteTransport.writelines() joined the parts before 3.12.
            let joined = PyBytes::new(py, b"").call_method1("join", (list_of_data,))?;
            return Self::write(slf, &joined);
        }
        slf.get().state.lock().check_writable("writelines")?;
        let chunks = PyList::new(py, list_of_data.try_iter()?.collect::<PyResult<Vec<_>>>()?)?;
        let chunks =
            chunks.iter().map(|chunk| buffer::snapshot(&chunk)).collect::<PyResult<Vec<_>>>()?;
        if chunks.is_empty() {
            return Ok(());
        }
        if slf.get().home.is_elsewhere() {
            for chunk in chunks {
                Self::forward(slf, || Ok(Remote::Write(chunk)))?;
            }
            return Ok(());
        }
        Self::write_chunks(slf, chunks)
    }

    /// Shuts down the sending side once what is queued was sent.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Self::forward(slf, || Ok(Remote::WriteEof))? {
            Ok(())
        } else {
            slf.get().write_eof_here(slf.py())
        }
    }

    /// True: a stream socket has a sending side of its own.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Ends the connection with `error`, which `connection_lost()` receives.
    #[pyo3(signature = (error))]
    fn _force_close(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let copy = error.as_ref().map(|error| error.clone_ref(slf.py()));
        if Self::forward(slf, || Ok(Remote::Abort(copy)))? {
            Ok(())
        } else {
            Self::force_close(slf, error)
        }
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
        Self::release(slf)
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
        let name = slf.get_type().name()?;
        let state = slf.get().state.lock();
        let closed = match (&state.objects, state.closing) {
            (None, _) => " closed",
            (Some(_), true) => " closing",
            (Some(_), false) => "",
        };
        let polling = match open_loop {
            None => String::new(),
            Some(_) => format!(
                " read={} write=<{}, bufsize={}>",
                if state.reader_active { "polling" } else { "idle" },
                if state.queue.is_empty() { "idle" } else { "polling" },
                state.queue.len()
            ),
        };
        Ok(format!("<{name}{closed} fd={}{polling}>", slf.get().fd))
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
        self.fd
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
    fn _protocol_paused(&self) -> bool {
        self.state.lock().flow.is_paused()
    }

    #[getter]
    fn _extra(&self, py: Python<'_>) -> Py<PyDict> {
        self.state.lock().extra.clone_ref(py)
    }

    #[getter]
    fn _conn_lost(&self) -> u32 {
        self.state.lock().lost
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A locked transport is in use by a thread, hence no garbage.
        self.state.try_lock().map_or(Ok(()), |state| state.visit(visit))
    }

    fn __clear__(&self) {
        let (objects, registration, waiter) = {
            let mut state = self.state.lock();
            (state.objects.take(), state.registration.take(), state.empty_waiter.take())
        };
        drop(registration);
        drop((objects, waiter));
    }
}

impl StreamTransport {
    /// Queues all of `chunks` and sends them together.
    fn write_chunks(slf: &Bound<'_, Self>, chunks: Vec<PyBackedBytes>) -> PyResult<()> {
        let py = slf.py();
        let lost = {
            let mut state = slf.get().state.lock();
            state.note_lost_write().then_some(state.lost)
        };
        if let Some(count) = lost {
            return warn_about_lost_write(py, count);
        }
        let context = ffi::copy_context(py)?;
        let mut used = Vec::new();
        let (flushed, change, old_context) = {
            let mut state = slf.get().state.lock();
            let old_context = match &mut state.objects {
                Some(objects) => objects.write_context.replace(context),
                None => Some(context),
            };
            for chunk in chunks {
                state.queue.push(chunk, 0);
            }
            let flushed = state.flush(&mut used);
            let buffered = state.queue.len();
            let change = match flushed {
                Ok(Flushed::Partly) => state.flow.grown(buffered),
                _ => FlowChange::Unchanged,
            };
            (flushed, change, old_context)
        };
        drop((used, old_context));
        Self::update_interest(slf);
        match flushed {
            Ok(_) => Self::apply_flow_change(slf, change),
            Err(error) => Self::write_failed(slf, os_error(py, &error)),
        }
    }
}
