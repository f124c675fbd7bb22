//! From `sendto()` to the socket: at once if nothing waits, else through the queue; and flow control.

use super::addresses;
use super::state::{DatagramState, Destination, Queued};
use super::transport::{DatagramTransport, Remote};
use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::Chunk;
use crate::py::error::{Finally, os_error};
use crate::py::ffi::SharedBytes;
use crate::py::interrupt::{self, Interrupt};
use crate::py::{buffer, ffi};
use crate::runtime::datagram::Address;
use crate::runtime::registration::Direction;
use crate::transport::core::{Endpoint, Forwarding, Polled, Queueing, warn_about_lost_write};
use pyo3::exceptions::{
    PyAttributeError, PyBlockingIOError, PyInterruptedError, PyOSError, PyTypeError, PyValueError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;
use std::io;

/// What a queued datagram counts for beside its bytes, from Python 3.13 on.
const HEADER_SIZE: usize = 8;

/// What a datagram leaves to do after the lock was let go of.
enum Sent {
    /// Nothing: the kernel has taken it.
    Done,
    /// It was queued; `starts` tells that nothing was queued before.
    Queued { starts: bool, change: FlowChange },
    /// The socket object has to send it, to this address.
    ByPython(Py<PyAny>),
    /// The transport is gone; so many sends came after that, plus one.
    Lost(u32),
    /// The transport has no socket any more.
    Closed,
    /// The kernel has refused it, which `error_received()` is to be told.
    Refused(io::Error),
    /// There was no memory to queue it.
    Broken(io::Error),
}

/// How a call of the socket object went.
enum Called {
    Done,
    /// The socket is full.
    NoRoom,
    /// `error_received()` is to be called.
    Refused(PyErr),
    /// The transport cannot go on.
    Broken(PyErr),
}

/// What [`DatagramTransport::flush`] has found at the front of the queue.
enum Step {
    /// Nothing, or the socket is full.
    Over,
    /// A datagram was sent, and is to be dropped.
    Done(Queued),
    Refused(Queued, io::Error),
    /// A datagram that the socket object has to send, to this address. It was taken out of the queue.
    ByPython(Chunk, Py<PyAny>),
}

impl DatagramTransport {
    /// Sends or queues a datagram.
    pub(super) fn send(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        address: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if !(data.is_instance_of::<PyBytes>()
            || data.is_instance_of::<PyByteArray>()
            || data.is_instance_of::<PyMemoryView>())
        {
            return Err(PyTypeError::new_err(format!(
                "data argument must be a bytes-like object, not {}",
                data.get_type().name()?.repr()?
            )));
        }
        if !cfg!(Py_3_13) && !data.is_truthy()? {
            return Ok(());
        }
        let address = slf.get().check_address(py, address)?;
        let remote =
            || Ok(Remote::SendTo(buffer::snapshot(data)?, address.map(|it| it.clone().unbind())));
        if Self::forward(slf, remote)? {
            return Ok(());
        }
        Self::send_checked(slf, data, address)
    }

    /// The address to send to, of which a transport with a remote address accepts that one only.
    fn check_address<'a, 'py>(
        &'a self,
        py: Python<'py>,
        address: Option<&'a Bound<'py, PyAny>>,
    ) -> PyResult<Option<&'a Bound<'py, PyAny>>> {
        let Some(remote) = &self.remote else {
            return Ok(address);
        };
        let remote = remote.bind(py);
        match address {
            Some(address) if !address.is(remote) && !address.eq(remote)? => {
                Err(PyValueError::new_err(format!(
                    "Invalid address: must be None or {}",
                    remote.str()?
                )))
            }
            _ => Ok(Some(remote)),
        }
    }

    /// Sends a checked datagram: at once if nothing waits, else when the socket has room.
    pub(super) fn send_checked(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        address: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let destination = this.destination(py, address);
        let sent = if let Some(bytes) = buffer::as_bytes(data) {
            let shared = || Ok(Chunk::Shared(SharedBytes::new(bytes)));
            this.send_or_enqueue(bytes.as_bytes(), destination, shared)
        } else {
            let send =
                |bytes: &[u8]| this.send_or_enqueue(bytes, destination, || Chunk::copy(bytes));
            match ffi::with_bytes(data, send) {
                Ok(sent) => sent,
                Err(error) => return Self::no_buffer(slf, error),
            }
        };
        match sent {
            Sent::Done => Ok(()),
            Sent::Queued { starts, change } => Self::enqueued(slf, starts, change),
            Sent::ByPython(address) => Self::send_by_python(slf, data, address),
            Sent::Lost(count) => warn_about_lost_write(py, count),
            // What asyncio's transport raises, which has no socket any more.
            Sent::Closed => {
                Err(PyAttributeError::new_err("the transport has no socket: it is closed"))
            }
            Sent::Refused(error) => Self::error_received(slf, os_error(py, &error)),
            Sent::Broken(error) => Self::broken(slf, os_error(py, &error)),
        }
    }

    fn destination(&self, py: Python<'_>, address: Option<&Bound<'_, PyAny>>) -> Destination {
        if self.is_connected {
            return Destination::Connected;
        }
        let Some(address) = address else {
            return Destination::Other(py.None());
        };
        if let Some((sender, object)) = &self.state.lock().last_sender
            && object.is(address)
            && matches!(sender, Address::Inet(_) | Address::Inet6(_))
        {
            return Destination::Numeric(sender.clone());
        }
        match addresses::from_python(self.family, address) {
            Some(address) => Destination::Numeric(address),
            None => Destination::Other(address.clone().unbind()),
        }
    }

    /// Sends a datagram if nothing waits before it, and queues what `chunk` makes of it if the socket is
    /// full. All of it happens under one lock, so no other datagram comes in between. `chunk` must not
    /// run Python code.
    fn send_or_enqueue(
        &self,
        bytes: &[u8],
        destination: Destination,
        chunk: impl FnOnce() -> io::Result<Chunk>,
    ) -> Sent {
        let mut state = self.state.lock();
        if self.remote.is_some()
            && let Some(count) = state.life.note_write()
        {
            return Sent::Lost(count);
        }
        if state.objects.is_none() {
            return Sent::Closed;
        }
        if !state.has_queued() {
            let address = match destination {
                Destination::Other(address) => return Sent::ByPython(address),
                Destination::Connected => None,
                Destination::Numeric(ref address) => Some(address),
            };
            match state.send(bytes, address) {
                Ok(true) => return Sent::Done,
                Ok(false) => (),
                Err(error) => return Sent::Refused(error),
            }
        }
        match chunk() {
            Ok(data) => {
                let (starts, change) = state.enqueue(Queued { data, destination });
                Sent::Queued { starts, change }
            }
            Err(error) => Sent::Broken(error),
        }
    }

    /// Lets the socket object send to an address that may have to be resolved.
    fn send_by_python(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        address: Py<PyAny>,
    ) -> PyResult<()> {
        match Self::call_sendto(slf, data, &address) {
            Called::Done => Ok(()),
            Called::NoRoom => {
                let data = Chunk::Shared(buffer::snapshot(data)?);
                let queued = Queued { data, destination: Destination::Other(address) };
                let (starts, change) = slf.get().state.lock().enqueue(queued);
                Self::enqueued(slf, starts, change)
            }
            Called::Refused(error) => Self::error_received(slf, error),
            Called::Broken(error) => Self::broken(slf, error),
        }
    }

    fn call_sendto(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>, address: &Py<PyAny>) -> Called {
        let py = slf.py();
        let sock = {
            let state = slf.get().state.lock();
            state.objects.as_ref().map(|objects| objects.sock.clone_ref(py))
        };
        let Some(sock) = sock else {
            return Called::Done;
        };
        match sock.call_method1(py, intern!(py, "sendto"), (data, address)) {
            Ok(_) => Called::Done,
            Err(error)
                if error.is_instance_of::<PyBlockingIOError>(py)
                    || error.is_instance_of::<PyInterruptedError>(py) =>
            {
                Called::NoRoom
            }
            Err(error) if error.is_instance_of::<PyOSError>(py) => Called::Refused(error),
            Err(error) => Called::Broken(error),
        }
    }

    /// Deals with the exception of an object whose bytes cannot be had, as asyncio, which gives the object
    /// to the socket.
    #[cold]
    fn no_buffer(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let (lost, is_waiting) = {
            let mut state = slf.get().state.lock();
            let lost = slf.get().remote.as_ref().and_then(|_| state.life.note_write());
            (lost, state.has_queued())
        };
        match lost {
            Some(count) => warn_about_lost_write(slf.py(), count),
            // asyncio copies what has to wait.
            None if is_waiting => Err(error),
            None => Self::broken(slf, error),
        }
    }

    fn broken(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let error = interrupt::reportable(slf.py(), error)?;
        Self::fatal_error(slf, error, "Fatal write error on datagram transport")
    }

    /// Does what is to be done after a datagram was queued.
    fn enqueued(slf: &Bound<'_, Self>, starts: bool, change: FlowChange) -> PyResult<()> {
        if starts {
            Self::renew_write_context(slf);
            Self::await_room(slf)?;
        }
        Self::apply_flow_change(slf, change)
    }

    /// Makes a copy of the current context that of the writing callbacks. Without memory for one they
    /// keep the context they have, so that what is queued is sent.
    fn renew_write_context(slf: &Bound<'_, Self>) {
        let py = slf.py();
        match ffi::copy_context(py) {
            Ok(context) => {
                let replaced = match &mut slf.get().state.lock().objects {
                    Some(objects) => objects.write_context.replace(context),
                    None => Some(context),
                };
                drop(replaced);
            }
            Err(error) => error.write_unraisable(py, Some(slf)),
        }
    }

    /// Waits for room in the socket, or no longer.
    fn await_room(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let io = this.place.home.io()?;
        let armed = {
            let _entered = io.driver.enter();
            let mut state = this.state.lock();
            let is_full = !state.queue.is_empty();
            match &mut state.socket {
                None => Ok(false),
                Some(socket) if is_full => socket.await_room(),
                Some(socket) => socket.rest(),
            }
        };
        Self::update_interest(slf);
        match armed {
            Ok(false) => Ok(()),
            Ok(true) => {
                this.place.expect_event(Some(this.place.event(Direction::Read)));
                Ok(())
            }
            Err(error) => {
                let error = os_error(py, &error);
                Self::fatal_error(slf, error, "Fatal write error on datagram transport")
            }
        }
    }

    /// The socket has room again, or has failed.
    pub(crate) fn on_writable(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let context = {
            let state = slf.get().state.lock();
            let objects = state.objects.as_ref().filter(|_| state.is_writing());
            objects.map(|objects| {
                objects.write_context.as_ref().unwrap_or(&objects.read_path.context).clone_ref(py)
            })
        };
        let Some(context) = context else {
            return Self::await_room(slf).or_else(|error| {
                Self::callback_failed(slf, event_loop, "_sendto_ready", None, error)
            });
        };
        let context = context.bind(py);
        ffi::in_context(context, || Self::flush(slf)).or_else(|error| {
            Self::callback_failed(slf, event_loop, "_sendto_ready", Some(context), error)
        })
    }

    /// Sends what is queued, and does what waits for the queue to be empty.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        loop {
            let step = this.state.lock().next_step();
            match step {
                Step::Over => break,
                Step::Done(sent) => drop(sent),
                Step::Refused(refused, error) => {
                    drop(refused);
                    return Self::refused(slf, os_error(py, &error));
                }
                Step::ByPython(data, address) => {
                    let called = match data.object(py) {
                        Ok(data) => Self::call_sendto(slf, data.as_any(), &address),
                        Err(error) => Called::Broken(error),
                    };
                    let is_full = matches!(called, Called::NoRoom);
                    let queued = Queued { data, destination: Destination::Other(address) };
                    let dropped = this.state.lock().sent_by_python(queued, is_full);
                    drop(dropped);
                    match called {
                        Called::Done => (),
                        Called::NoRoom => break,
                        Called::Refused(error) => return Self::refused(slf, error),
                        Called::Broken(error) => return Self::broken(slf, error),
                    }
                }
            }
        }
        let change = {
            let mut state = this.state.lock();
            let buffered = state.queued;
            state.flow.shrunk(buffered)
        };
        let awaited = Self::await_room(slf);
        let told = awaited.finally(py, Self::apply_flow_change(slf, change));
        // resume_writing() may have queued more.
        let ended = if this.with_queue(Lifecycle::drained) {
            Self::connection_lost(slf, None)
        } else {
            Ok(())
        };
        told.finally(py, ended)
    }

    /// Tells of a queued datagram that was refused. The others have their turn in another event, as in
    /// asyncio.
    fn refused(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let place = &slf.get().place;
        Self::update_interest(slf);
        place.expect_event(Some(place.event(Direction::Write)));
        Self::error_received(slf, error)
    }
}

impl DatagramState {
    /// True if a datagram has to wait for others.
    fn has_queued(&self) -> bool {
        !self.queue.is_empty() || self.is_sending_by_python
    }

    /// Sends a datagram to `address`, or to where the socket is connected. Returns false if there is no
    /// room for it.
    fn send(&self, bytes: &[u8], address: Option<&Address>) -> io::Result<bool> {
        match &self.socket {
            Some(socket) => socket.send(bytes, address),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Queues a datagram; returns whether nothing was queued before.
    fn enqueue(&mut self, queued: Queued) -> (bool, FlowChange) {
        let starts = self.queue.is_empty();
        self.queued += weight(&queued);
        self.queue.push_back(queued);
        (starts, self.flow.grown(self.queued))
    }

    /// Sends the oldest datagram, if there is room for it.
    fn next_step(&mut self) -> Step {
        let Some(front) = self.queue.front() else {
            return Step::Over;
        };
        let sent = match &front.destination {
            Destination::Connected => self.send(front.data.as_ref(), None),
            Destination::Numeric(address) => self.send(front.data.as_ref(), Some(address)),
            Destination::Other(_) => Ok(true),
        };
        if matches!(sent, Ok(false)) {
            return Step::Over;
        }
        let Some(front) = self.queue.pop_front() else {
            return Step::Over;
        };
        self.queued -= weight(&front);
        match (sent, front) {
            (Err(error), front) => Step::Refused(front, error),
            (Ok(_), Queued { data, destination: Destination::Other(address) }) => {
                self.is_sending_by_python = true;
                Step::ByPython(data, address)
            }
            (Ok(_), front) => Step::Done(front),
        }
    }

    /// The socket object was asked to send a datagram. If that is to be tried again, it is the oldest
    /// one of the queue again. Returns what is to be dropped.
    #[must_use]
    fn sent_by_python(&mut self, queued: Queued, is_full: bool) -> Option<Queued> {
        self.is_sending_by_python = false;
        if !is_full || self.life.is_lost() {
            return Some(queued);
        }
        self.queued += weight(&queued);
        self.queue.push_front(queued);
        None
    }
}

/// How many bytes a queued datagram counts for.
fn weight(queued: &Queued) -> usize {
    let header = if cfg!(Py_3_13) { HEADER_SIZE } else { 0 };
    queued.data.as_ref().len() + header
}
