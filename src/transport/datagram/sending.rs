//! From `sendto()` to the socket: at once if nothing waits, else through the queue; and flow control.

use super::addresses;
use super::state::{DatagramState, Destination, Objects, Queued};
use super::transport::{DatagramTransport, Remote};
use crate::loop_::event_loop::EventLoop;
use crate::py::error::{Finally, os_error};
use crate::py::interrupt::{self, Interrupt};
use crate::py::{buffer, ffi};
use crate::runtime::datagram::Address;
use crate::runtime::registration::Direction;
use crate::transport::core::{Endpoint, Polled, Queueing, warn_about_lost_write};
use pyo3::exceptions::{
    PyAttributeError, PyBlockingIOError, PyInterruptedError, PyOSError, PyTypeError, PyValueError,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use rloop_core::lifecycle::Lifecycle;
use std::io;

/// What a queued datagram counts for beside its bytes, from Python 3.13 on.
const HEADER_SIZE: usize = 8;

/// How an attempt to send went.
enum Sent {
    Done,
    /// The socket is full.
    NoRoom,
    /// `error_received()` is to be called.
    Refused(PyErr),
    /// The transport cannot go on.
    Broken(PyErr),
}

impl Sent {
    /// The outcome of a call of the socket object.
    fn by_python(py: Python<'_>, sent: PyResult<Py<PyAny>>) -> Self {
        match sent {
            Ok(_) => Self::Done,
            Err(error)
                if error.is_instance_of::<PyBlockingIOError>(py)
                    || error.is_instance_of::<PyInterruptedError>(py) =>
            {
                Self::NoRoom
            }
            Err(error) if error.is_instance_of::<PyOSError>(py) => Self::Refused(error),
            Err(error) => Self::Broken(error),
        }
    }
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
        let this = slf.get();
        let destination = {
            let mut state = this.state.lock();
            if this.remote.is_some()
                && let Some(count) = state.life.note_write()
            {
                drop(state);
                return warn_about_lost_write(slf.py(), count);
            }
            if state.objects.is_none() {
                // What asyncio's transport raises, which has no socket any more.
                return Err(PyAttributeError::new_err("the transport has no socket: it is closed"));
            }
            let destination = this.destination(&state, slf.py(), address);
            if !state.queue.is_empty() {
                drop(state);
                return Self::enqueue(slf, data, destination);
            }
            destination
        };
        match Self::attempt(slf, data, &destination) {
            Sent::Done => Ok(()),
            Sent::NoRoom => Self::enqueue(slf, data, destination),
            Sent::Refused(error) => Self::error_received(slf, error),
            Sent::Broken(error) => Self::broken(slf, error),
        }
    }

    fn destination(
        &self,
        state: &DatagramState,
        py: Python<'_>,
        address: Option<&Bound<'_, PyAny>>,
    ) -> Destination {
        if self.is_connected {
            return Destination::Connected;
        }
        let Some(address) = address else {
            return Destination::Other(py.None());
        };
        if let Some((sender, object)) = &state.last_sender
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

    /// Tries the socket.
    fn attempt(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>, destination: &Destination) -> Sent {
        let py = slf.py();
        let address = match destination {
            Destination::Connected => None,
            Destination::Numeric(address) => Some(address),
            Destination::Other(address) => return Self::attempt_by_python(slf, data, address),
        };
        let send = |bytes: &[u8]| match slf.get().state.lock().socket.as_ref() {
            Some(socket) => socket.send(bytes, address),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        let sent = match data.cast::<PyBytes>() {
            Ok(bytes) => Ok(send(bytes.as_bytes())),
            Err(_) => ffi::with_bytes(data, send),
        };
        match sent {
            Ok(Ok(true)) => Sent::Done,
            Ok(Ok(false)) => Sent::NoRoom,
            Ok(Err(error)) => Sent::Refused(os_error(py, &error)),
            Err(error) => Sent::Broken(error),
        }
    }

    /// Lets the socket object send to an address that may have to be resolved.
    fn attempt_by_python(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        address: &Py<PyAny>,
    ) -> Sent {
        let py = slf.py();
        let sock = {
            let state = slf.get().state.lock();
            state.objects.as_ref().map(|objects| objects.sock.clone_ref(py))
        };
        match sock {
            Some(sock) => {
                Sent::by_python(py, sock.call_method1(py, intern!(py, "sendto"), (data, address)))
            }
            None => Sent::Done,
        }
    }

    fn broken(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let error = interrupt::reportable(slf.py(), error)?;
        Self::fatal_error(slf, error, "Fatal write error on datagram transport")
    }

    fn enqueue(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        destination: Destination,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let queued = Queued { data: buffer::snapshot(data)?, destination };
        let context = ffi::copy_context(py)?;
        let (change, starts, old_context) = {
            let mut state = this.state.lock();
            let starts = state.queue.is_empty();
            state.queued += weight(&queued);
            state.queue.push_back(queued);
            let old_context = match &mut state.objects {
                Some(objects) if starts => objects.write_context.replace(context),
                _ => Some(context),
            };
            let buffered = state.queued;
            (state.flow.grown(buffered), starts, old_context)
        };
        drop(old_context);
        if starts {
            Self::await_room(slf)?;
        }
        Self::apply_flow_change(slf, change)
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
            match &state.objects {
                Some(Objects { write_context: Some(context), .. }) if state.is_writing() => {
                    Some(context.clone_ref(py))
                }
                _ => None,
            }
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
            let front = {
                let mut state = this.state.lock();
                let front = state.queue.pop_front();
                if let Some(front) = &front {
                    state.queued -= weight(front);
                }
                front
            };
            let Some(front) = front else {
                break;
            };
            let data = (&front.data).into_pyobject(py)?;
            match Self::attempt(slf, &data, &front.destination) {
                Sent::Done => (),
                Sent::NoRoom => {
                    let mut state = this.state.lock();
                    state.queued += weight(&front);
                    state.queue.push_front(front);
                    break;
                }
                Sent::Refused(error) => {
                    // The others have their turn in another event, as in asyncio.
                    Self::update_interest(slf);
                    this.place.expect_event(Some(this.place.event(Direction::Write)));
                    return Self::error_received(slf, error);
                }
                Sent::Broken(error) => return Self::broken(slf, error),
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
}

/// How many bytes a queued datagram counts for.
fn weight(queued: &Queued) -> usize {
    let header = if cfg!(Py_3_13) { HEADER_SIZE } else { 0 };
    queued.data.len() + header
}
