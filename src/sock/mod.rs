//! The native half of the `sock_*` methods: one attempt at once, and further ones when the socket is
//! ready.
//!
//! The coroutines of `rloop._sockets` call a method of [`EventLoop`] that begins an operation. It
//! returns the result if the socket does not keep it waiting, else a future, which the coroutine
//! awaits. The future is CPython's, so that cancelling a task, naming what it waits for, and waking
//! it are CPython's as well. asyncio adds a callback to it, which removes the reader; here the
//! operation does so when it is done, and the coroutine, through [`forget`], when it fails: one
//! callback less per message.
//!
//! `recv`, `recv_into` and `send` on a plain `socket.socket` are system calls from here, which never
//! block, whatever the socket's mode. Everything else is the socket object's own method: addresses
//! have a shape for each family, and a subclass may do as it likes.

use crate::loop_::event_loop::EventLoop;
use crate::loop_::handle::Handle;
use crate::loop_::watches::Waiter;
use crate::py::buffer::{self, TARGET_OF_RECV_INTO};
use crate::py::error::{Finally, OrOsError, os_error};
use crate::py::interrupt::{self, Interrupt};
use crate::py::{ffi, imports};
use crate::runtime::sockets;
use crate::transport::core::{MAX_READ_SIZE, with_read_buffer};
use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice, PyString, PyTuple};
use rloop_core::watches::Side;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The most that `sendfile(2)` takes in one call, in bytes, rounded down.
const LARGEST_BLOCK: usize = 0x7000_0000;

/// A socket that an operation is about to work on.
pub(crate) struct Target<'a, 'py> {
    event_loop: &'a Bound<'py, EventLoop>,
    sock: &'a Bound<'py, PyAny>,
    is_plain: bool,
}

impl<'a, 'py> Target<'a, 'py> {
    /// Checks a socket as asyncio does.
    ///
    /// # Errors
    /// `TypeError` for a TLS socket; in debug mode, `ValueError` for a blocking one.
    pub(crate) fn new(
        event_loop: &'a Bound<'py, EventLoop>,
        sock: &'a Bound<'py, PyAny>,
    ) -> PyResult<Self> {
        let py = sock.py();
        let is_plain = sock.get_type().is(imports::SOCKET.get(py)?);
        if !is_plain {
            imports::CHECK_SSL_SOCKET.get(py)?.call1((sock,))?;
        }
        if event_loop.get().is_debug() && sock.call_method0(intern!(py, "gettimeout"))?.ne(0)? {
            return Err(PyValueError::new_err("the socket must be non-blocking"));
        }
        Ok(Self { event_loop, sock, is_plain })
    }

    /// Receives at most `limit` bytes.
    pub(crate) fn receive(self, limit: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if !self.is_plain {
            return self.call("recv", (limit,), Side::Reader);
        }
        let limit = usize::try_from(limit.extract::<isize>()?)
            .map_err(|_| PyValueError::new_err("negative buffersize in recv"))?;
        self.begin(Operation::Receive(limit), Side::Reader)
    }

    /// Receives into a writable buffer.
    pub(crate) fn receive_into(self, buffer: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if self.is_plain && ffi::with_writable_bytes(buffer, TARGET_OF_RECV_INTO, |_| ()).is_ok() {
            return self.begin(Operation::ReceiveInto(buffer.clone().unbind()), Side::Reader);
        }
        self.call("recv_into", (buffer,), Side::Reader)
    }

    /// Sends all of `data`.
    pub(crate) fn send_all(self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = data.py();
        let fd = file_number(self.sock)?;
        let (sent, len) = if self.is_plain {
            let (sent, len) = match buffer::as_bytes(data) {
                Some(bytes) => (sockets::send(fd, bytes.as_bytes()), bytes.as_bytes().len()),
                None => ffi::with_bytes(data, |bytes| (sockets::send(fd, bytes), bytes.len()))?,
            };
            (sent.or_os_error(py)?.unwrap_or(0), len)
        } else {
            let sent = self.sock.call_method1(intern!(py, "send"), (data,));
            let sent = unless_not_ready(py, sent)?.map_or(Ok(0), |sent| sent.extract())?;
            (sent, data.len()?)
        };
        if !data.is_exact_instance_of::<PyBytes>() {
            // asyncio asks for it, and has no result without.
            data.len()?;
        }
        if sent == len {
            return Ok(py.None().into_bound(py));
        }
        let view = PyMemoryView::from(data)?.unbind();
        self.wait(fd, Operation::SendAll(view, AtomicUsize::new(sent)), Side::Writer)
    }

    /// Sends a part of a file.
    pub(crate) fn send_file(self, part: FilePart) -> PyResult<Bound<'py, PyAny>> {
        self.begin(Operation::SendFile(part), Side::Writer)
    }

    /// Accepts a connection.
    pub(crate) fn accept(self) -> PyResult<Bound<'py, PyAny>> {
        self.begin(Operation::Accept, Side::Reader)
    }

    /// Calls a method of the socket.
    pub(crate) fn call(
        self,
        method: &str,
        arguments: impl IntoPyObject<
            'py,
            Target = PyTuple,
            Output = Bound<'py, PyTuple>,
            Error: Into<PyErr>,
        >,
        side: Side,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = self.sock.py();
        let arguments = arguments.into_pyobject(py).map_err(Into::into)?;
        let method = PyString::intern(py, method);
        self.begin(Operation::Call(method.unbind(), arguments.unbind()), side)
    }

    /// Tries at once; if the socket is not ready, arranges for it to be tried when it is.
    fn begin(self, operation: Operation, side: Side) -> PyResult<Bound<'py, PyAny>> {
        let fd = file_number(self.sock)?;
        match operation.attempt(self.sock, self.is_plain.then_some(fd))? {
            Some(result) => Ok(result),
            None => self.wait(fd, operation, side),
        }
    }

    fn wait(self, fd: RawFd, operation: Operation, side: Side) -> PyResult<Bound<'py, PyAny>> {
        let py = self.sock.py();
        let event_loop = self.event_loop;
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        if event_loop.get().transports(event_loop)?.contains(fd)? {
            event_loop.call_method1(intern!(py, "_ensure_fd_no_transport"), (fd,))?;
        }
        event_loop.get().check_closed()?;
        let home = event_loop.get().home_here(py)?;
        let pending = Pending {
            sock: self.sock.clone().unbind(),
            is_plain: self.is_plain,
            fd,
            side,
            operation,
            future: future.clone().unbind(),
        };
        let waiter = Waiter::Operation(Arc::new(pending));
        let replaced = event_loop.get().set_waiter(fd, side, home, waiter, None)?;
        if let Some(replaced) = replaced.or_os_error(py)? {
            replaced.cancel(py)?;
        }
        Ok(future)
    }
}

/// What is done to a socket.
enum Operation {
    /// Receive at most so many bytes, as `bytes`.
    Receive(usize),
    /// Receive into a writable buffer.
    ReceiveInto(Py<PyAny>),
    /// Send all of a view, of which so many items are gone.
    SendAll(Py<PyMemoryView>, AtomicUsize),
    /// Send a part of a file; the result is how many bytes were sent and the failure, if any.
    SendFile(FilePart),
    /// Call the method with the arguments.
    Call(Py<PyString>, Py<PyTuple>),
    /// Call `accept()`, and make the connection non-blocking.
    Accept,
}

impl Operation {
    /// The name of the loop's method that began the operation.
    fn method<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let operation = match self {
            Self::Receive(_) => "recv",
            Self::ReceiveInto(_) => "recv_into",
            Self::SendAll(..) => "sendall",
            Self::SendFile(_) => "sendfile",
            Self::Call(method, _) => method.bind(py).to_str()?,
            Self::Accept => "accept",
        };
        Ok(PyString::new(py, &format!("sock_{operation}")))
    }

    /// Tries it; `None` if the socket is not ready. `fd` is the descriptor of a plain socket.
    fn attempt<'py>(
        &self,
        sock: &Bound<'py, PyAny>,
        fd: Option<RawFd>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = sock.py();
        match self {
            Self::Receive(limit) => receive(py, fd.unwrap_or(-1), *limit),
            Self::ReceiveInto(buffer) => {
                let fd = fd.unwrap_or(-1);
                let received =
                    ffi::with_writable_bytes(buffer.bind(py), TARGET_OF_RECV_INTO, |bytes| {
                        if bytes.is_empty() { Ok(Some(0)) } else { sockets::receive(fd, bytes) }
                    })?;
                let received = received.or_os_error(py)?;
                received.map(|count| Ok(count.into_pyobject(py)?.into_any())).transpose()
            }
            Self::SendAll(view, position) => {
                let view = view.bind(py);
                let start = position.load(Ordering::Relaxed);
                let (sent, len) = if let Some(fd) = fd {
                    let (sent, len) = ffi::with_bytes(view, |bytes| {
                        // A buffer of the program's may be shorter the next time.
                        let rest = bytes.get(start..).unwrap_or_default();
                        (sockets::send(fd, rest), bytes.len())
                    })?;
                    (sent.or_os_error(py)?.unwrap_or(0), len)
                } else {
                    let len = view.len()?;
                    let rest =
                        view.get_item(PySlice::new(py, start.cast_signed(), len.cast_signed(), 1))?;
                    let sent = sock.call_method1(intern!(py, "send"), (rest,));
                    (unless_not_ready(py, sent)?.map_or(Ok(0), |sent| sent.extract())?, len)
                };
                position.store(start + sent, Ordering::Relaxed);
                Ok((start + sent >= len).then(|| py.None().into_bound(py)))
            }
            Self::SendFile(part) => part.send(py, file_number(sock)?),
            Self::Call(method, arguments) => {
                unless_not_ready(py, sock.call_method1(method.bind(py), arguments.bind(py)))
            }
            Self::Accept => {
                let accepted = sock.call_method0(intern!(py, "accept"));
                let Some(accepted) = unless_not_ready(py, accepted)? else {
                    return Ok(None);
                };
                let connection = accepted.get_item(0)?;
                connection.call_method1(intern!(py, "setblocking"), (false,))?;
                Ok(Some(accepted))
            }
        }
    }
}

/// What `sock_sendfile()` sends.
pub(crate) struct FilePart {
    file: RawFd,
    offset: u64,
    /// How many bytes; `None` for all up to the end of the file.
    count: Option<u64>,
    /// How many bytes one system call is asked to send at most.
    block: u64,
    sent: AtomicU64,
}

impl FilePart {
    pub(crate) fn new(file: RawFd, offset: u64, count: Option<u64>, block: u64) -> Self {
        Self { file, offset, count, block, sent: AtomicU64::new(0) }
    }

    /// Sends as much as the socket has room for now. As in asyncio, others have their turn before
    /// more is sent, however fast the peer reads.
    fn send<'py>(&self, py: Python<'py>, fd: RawFd) -> PyResult<Option<Bound<'py, PyAny>>> {
        let before = self.sent.load(Ordering::Relaxed);
        let wanted = self.count.map_or(self.block, |count| count - before);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).min(LARGEST_BLOCK);
        let (sent, error) = match sockets::send_file(fd, self.file, self.offset + before, wanted) {
            Ok(None) => return Ok(None),
            Ok(Some(sent)) => {
                let all = before + sent as u64;
                self.sent.store(all, Ordering::Relaxed);
                if sent > 0 && self.count.is_none_or(|count| all < count) {
                    return Ok(None);
                }
                (all, None)
            }
            Err(error) => (before, Some(os_error(py, &error))),
        };
        Ok(Some((sent, error).into_pyobject(py)?.into_any()))
    }
}

/// The descriptor of a `socket.socket`, or -1 if it is closed.
fn file_number(sock: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    sock.call_method0(intern!(sock.py(), "fileno"))?.extract()
}

/// Receives at most `limit` bytes, as `bytes`; `None` if there is nothing yet.
fn receive(py: Python<'_>, fd: RawFd, limit: usize) -> PyResult<Option<Bound<'_, PyAny>>> {
    let received = if limit == 0 {
        // As socket.recv() does, which then asks nobody.
        Some(PyBytes::new(py, b""))
    } else if limit <= MAX_READ_SIZE {
        with_read_buffer(|buffer| {
            match sockets::receive(fd, &mut buffer[..limit]).or_os_error(py)? {
                Some(count) => ffi::new_bytes(py, &buffer[..count]).map(Some),
                None => Ok(None),
            }
        })?
    } else {
        ffi::bytes_filled_by(py, limit, |buffer| {
            Ok(sockets::receive(fd, buffer).or_os_error(py)?.map(|(received, _)| received))
        })?
    };
    Ok(received.map(Bound::into_any))
}

/// The result of a method of a socket; `None` if it raised what says that the socket is not ready.
fn unless_not_ready<'py>(
    py: Python<'_>,
    result: PyResult<Bound<'py, PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if error.is_instance_of::<PyBlockingIOError>(py)
                || error.is_instance_of::<PyInterruptedError>(py) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An operation on a socket that is not ready.
pub(crate) struct Pending {
    sock: Py<PyAny>,
    is_plain: bool,
    /// The number the socket had at the beginning.
    fd: RawFd,
    side: Side,
    operation: Operation,
    future: Py<PyAny>,
}

impl Pending {
    /// Tries again, because the socket is ready, or may be. Reports what asyncio's callback would raise:
    /// a future that was cancelled meanwhile refuses the result.
    pub(crate) fn retry(
        self: &Arc<Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        let py = event_loop.py();
        self.try_again(event_loop)
            .or_else(|error| interrupt::contain(py, error, |error| self.report(event_loop, error)))
    }

    #[cold]
    fn report(&self, event_loop: &Bound<'_, EventLoop>, error: PyErr) -> PyResult<()> {
        let py = event_loop.py();
        let callback = event_loop.getattr(self.operation.method(py)?)?;
        let arguments = PyTuple::new(py, [&self.sock])?;
        let (called, with) = (callback.clone().unbind(), arguments.clone().unbind());
        let handle = Bound::new(py, Handle::new(event_loop, called, with, None)?)?;
        Handle::report(&handle, &callback, &arguments, error)
    }

    fn try_again(self: &Arc<Self>, event_loop: &Bound<'_, EventLoop>) -> PyResult<()> {
        let py = event_loop.py();
        let future = self.future.bind(py);
        // The future was cancelled; leave the data for the next reader.
        if future.call_method0(intern!(py, "done"))?.is_truthy()? {
            return self.finish(event_loop);
        }
        let sock = self.sock.bind(py);
        // The socket may have been closed, and its number given to another one.
        let attempted = file_number(sock)
            .and_then(|fd| self.operation.attempt(sock, self.is_plain.then_some(fd)));
        match attempted {
            Ok(None) => self.renew(event_loop),
            Ok(Some(result)) => {
                let told = future.call_method1(intern!(py, "set_result"), (result,)).map(drop);
                told.finally(py, self.finish(event_loop))
            }
            Err(error) => match interrupt::reportable(py, error) {
                Ok(error) => {
                    let told = future.call_method1(intern!(py, "set_exception"), (error,));
                    told.map(drop).finally(py, self.finish(event_loop))
                }
                Err(interrupt) => Err(interrupt.into()).finally(py, self.renew(event_loop)),
            },
        }
    }

    /// Waits for another event. The future of an operation that cannot be waited for fails.
    fn renew(self: &Arc<Self>, event_loop: &Bound<'_, EventLoop>) -> PyResult<()> {
        let (py, this) = (event_loop.py(), event_loop.get());
        match this.watches().renew(this, self.fd, self.side, self) {
            Ok(()) => Ok(()),
            // The socket's own method has closed it. As in asyncio, the future stays pending.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
            Err(error) => {
                let future = self.future.bind(py);
                let told =
                    future.call_method1(intern!(py, "set_exception"), (os_error(py, &error),));
                told.map(drop).finally(py, self.finish(event_loop))
            }
        }
    }

    fn finish(self: &Arc<Self>, event_loop: &Bound<'_, EventLoop>) -> PyResult<()> {
        let this = event_loop.get();
        this.watches().finish(this, self.fd, self.side, self).or_os_error(event_loop.py())
    }

    /// True if this is what `future` waits for.
    pub(crate) fn is_for(&self, future: &Bound<'_, PyAny>) -> bool {
        self.future.is(future)
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.operation {
            Operation::ReceiveInto(buffer) => visit.call(buffer)?,
            Operation::SendAll(view, _) => visit.call(view)?,
            Operation::Call(_, arguments) => visit.call(arguments)?,
            Operation::Receive(_) | Operation::SendFile(_) | Operation::Accept => (),
        }
        visit.call(&self.sock)?;
        visit.call(&self.future)
    }
}

/// Stops waiting for `sock` on behalf of `future`, which was cancelled.
pub(crate) fn forget(
    event_loop: &Bound<'_, EventLoop>,
    sock: &Bound<'_, PyAny>,
    future: &Bound<'_, PyAny>,
) -> PyResult<()> {
    match event_loop.get().watches().pending(file_number(sock)?, future) {
        Some(pending) => pending.finish(event_loop),
        None => Ok(()),
    }
}
