//! The end of a pipe that is read.

use super::objects::Objects;
use crate::loop_::event_loop::EventLoop;
use crate::py::error::{OrOsError, os_error};
use crate::py::ffi;
use crate::py::interrupt::Interrupt;
use crate::runtime::pipe::{Kind, ReadEnd};
use crate::runtime::registration::{Direction, Event};
use crate::runtime::stream::Read;
use crate::shard::Shard;
use crate::transport::core::{
    Call, Endpoint, Forwarding, Place, Polled, Transport, with_read_buffer,
};
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyContext, PyDict, PyTuple};
use rloop_core::forwarded::Forwarded;
use rloop_core::lifecycle::Lifecycle;
use rloop_core::sync::{Mutex, put};
use std::io;
use std::sync::Arc;

/// A call on a transport that was made on another thread than its own.
pub(crate) enum ReadRemote {
    Pause,
    Resume,
    Close,
}

/// What a read transport remembers. One lock guards it.
pub(super) struct ReadState {
    /// `None` once `connection_lost()` was called.
    pub(super) objects: Option<Objects>,
    /// `None` before the transport reads and after it was closed.
    pub(super) end: Option<ReadEnd>,
    pub(super) extra: Py<PyDict>,
    pub(super) life: Lifecycle,
}

/// A transport that reads from a pipe.
#[pyclass(frozen, subclass, weakref, dict, module = "rloop._rloop")]
pub(crate) struct ReadPipeTransport {
    pub(super) state: Mutex<ReadState>,
    pub(super) place: Place,
    pub(super) forwarded: Forwarded<ReadRemote>,
    pub(super) kind: Kind,
}

/// What a read event led to.
enum Outcome<'py> {
    Nothing,
    /// Bytes; `more` is the next event, if the driver will not deliver it.
    Data {
        data: Bound<'py, PyBytes>,
        more: Option<Event>,
    },
    /// The writers were gone, and are not any more.
    HangUpIsOver,
    End,
    Failed(io::Error),
    /// There was no memory for the bytes.
    Lost(PyErr),
}

impl Endpoint for ReadPipeTransport {
    fn with_ends<R>(&self, operation: impl FnOnce(&Py<EventLoop>, &Py<PyAny>) -> R) -> Option<R> {
        let state = self.state.lock();
        state.objects.as_ref().map(|objects| operation(&objects.event_loop, &objects.protocol))
    }
}

impl Forwarding for ReadPipeTransport {
    type Call = ReadRemote;

    fn forwarded(&self) -> &Forwarded<ReadRemote> {
        &self.forwarded
    }

    fn home_shard(&self) -> Option<&Arc<Shard>> {
        Some(&self.place.home)
    }

    fn make(slf: &Bound<'_, Self>, call: ReadRemote) -> PyResult<()> {
        match call {
            ReadRemote::Pause => Self::pause_here(slf),
            ReadRemote::Resume => Self::resume_here(slf),
            ReadRemote::Close => Self::force_close(slf, None),
        }
    }

    fn stops_reading(call: &ReadRemote) -> Option<bool> {
        match call {
            ReadRemote::Pause | ReadRemote::Close => Some(true),
            ReadRemote::Resume => Some(false),
        }
    }

    fn errand(slf: &Bound<'_, Self>, number: u64) -> Call {
        Call::ReadPipe(slf.clone().unbind(), number)
    }

    fn note_forwarded(&self, call: &ReadRemote) {
        if matches!(call, ReadRemote::Close) {
            self.place.note_close();
        }
    }
}

impl ReadPipeTransport {
    /// The context of the callbacks; `None` once the transport is closed.
    pub(crate) fn context(&self, py: Python<'_>) -> Option<Py<PyContext>> {
        Some(self.state.lock().objects.as_ref()?.context.clone_ref(py))
    }

    /// Called once `connection_made()` has run.
    pub(crate) fn start_reading(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        Self::add_reader(slf)
            .or_else(|error| Self::callback_failed(slf, event_loop, "_add_reader", None, error))
    }

    /// Starts to hand read events to the protocol.
    pub(super) fn add_reader(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if !this.state.lock().life.is_reading() {
            return Ok(());
        }
        if let Some(event_loop) = this.event_loop(py) {
            // In place of another's reader, as in asyncio.
            event_loop.call_method1(intern!(py, "_remove_reader"), (this.place.fd,))?;
        }
        let io = this.place.home.io()?;
        let registered = {
            let _entered = io.driver.enter();
            let mut state = this.state.lock();
            match &state.end {
                Some(end) => Ok(end.arm_read()),
                None => ReadEnd::register(this.place.fd, this.place.generation, this.kind)
                    .map(|end| state.end.insert(end).arm_read()),
            }
        };
        let event = registered.or_os_error(py)?;
        this.state.lock().life.activate_reader();
        Self::update_interest(slf);
        this.place.expect_event(event);
        Ok(())
    }

    /// The pipe has something to read, or may have.
    pub(crate) fn on_readable(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let context = {
            let state = slf.get().state.lock();
            match &state.objects {
                Some(objects) if state.life.is_reader_active() => objects.context.clone_ref(py),
                _ => return Ok(()),
            }
        };
        let context = context.bind(py);
        let outcome = Self::read(slf);
        ffi::in_context(context, || Self::pass_on(slf, outcome)).or_else(|error| {
            Self::callback_failed(slf, event_loop, "_read_ready", Some(context), error)
        })
    }

    /// Passes on what was read; the context is that of the transport.
    fn pass_on(slf: &Bound<'_, Self>, outcome: Outcome<'_>) -> PyResult<()> {
        match outcome {
            Outcome::Nothing => Ok(()),
            Outcome::Data { data, more } => {
                let called = Self::call_protocol(slf, data);
                slf.get().place.expect_event(more);
                called
            }
            Outcome::HangUpIsOver => Self::renew(slf),
            Outcome::End => Self::on_end(slf),
            Outcome::Failed(error) => Self::read_failed(slf, os_error(slf.py(), &error)),
            Outcome::Lost(error) => Self::read_failed(slf, error),
        }
    }

    /// An error alone was reported, which reading finds out.
    pub(crate) fn on_failure(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        Self::renew(slf)
            .or_else(|error| Self::callback_failed(slf, event_loop, "_read_ready", None, error))?;
        Self::on_readable(slf, event_loop)
    }

    fn read<'py>(slf: &Bound<'py, Self>) -> Outcome<'py> {
        let py = slf.py();
        with_read_buffer(|buffer| {
            let state = slf.get().state.lock();
            let Some(end) = &state.end else {
                return Outcome::Nothing;
            };
            let (length, more) = match end.read(buffer) {
                Ok(Read::Received(length)) => (length, None),
                Ok(Read::ReceivedMore(0)) => return Outcome::HangUpIsOver,
                Ok(Read::ReceivedMore(length)) => {
                    (length, Some(slf.get().place.event(Direction::Read)))
                }
                Ok(Read::NotReady) => return Outcome::Nothing,
                Ok(Read::End) => return Outcome::End,
                Err(error) => return Outcome::Failed(error),
            };
            drop(state);
            match ffi::new_bytes(py, &buffer[..length]) {
                Ok(data) => Outcome::Data { data, more },
                Err(error) => Outcome::Lost(error),
            }
        })
    }

    fn call_protocol(slf: &Bound<'_, Self>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        let py = slf.py();
        if let Some(protocol) = slf.get().protocol(py) {
            protocol.bind(py).call_method1(intern!(py, "data_received"), (data,))?;
        }
        Ok(())
    }

    fn renew(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let io = this.place.home.io()?;
        let renewed = {
            let _entered = io.driver.enter();
            this.state.lock().end.as_mut().map_or(Ok(()), ReadEnd::renew)
        };
        match renewed {
            Ok(()) => Ok(()),
            Err(error) => Self::read_failed(slf, os_error(slf.py(), &error)),
        }
    }

    /// Every writer is gone.
    fn on_end(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        Self::log(slf, "info", "%r was closed by peer")?;
        let (Some(event_loop), Some(protocol)) = (slf.get().event_loop(py), slf.get().protocol(py))
        else {
            return Ok(());
        };
        let eof_received = protocol.getattr(py, intern!(py, "eof_received"))?;
        EventLoop::schedule(&event_loop, eof_received, PyTuple::empty(py).unbind(), None)?;
        Self::force_close(slf, None)
    }

    fn read_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        let exception = error.clone_ref(py).into_value(py).into_any();
        // A terminal ends like that.
        let is_end = error.is_instance_of::<PyOSError>(py)
            && exception.bind(py).getattr(intern!(py, "errno"))?.eq(libc::EIO)?;
        Self::tell_of_failure(slf, error, "Fatal read error on pipe transport", is_end)?;
        Self::force_close(slf, Some(exception))
    }

    pub(super) fn resume_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let context = ffi::copy_context(slf.py())?;
        let replaced = {
            let mut state = slf.get().state.lock();
            if !state.life.resume() {
                return Ok(());
            }
            put(state.objects.as_mut().map(|objects| &mut objects.context), context)
        };
        drop(replaced);
        Self::add_reader(slf)?;
        Self::log(slf, "debug", "%r resumes reading")
    }
}

impl Polled for ReadPipeTransport {
    fn with_lifecycle<R>(&self, operation: impl FnOnce(&mut Lifecycle) -> R) -> R {
        operation(&mut self.state.lock().life)
    }

    fn update_interest(slf: &Bound<'_, Self>) {
        let wanted = slf.get().state.lock().life.is_reader_active();
        let transport = || Transport::ReadPipe(slf.clone().unbind());
        slf.get().place.update_interest(wanted, false, transport);
    }

    /// Closes the pipe and drops every reference. Only the first call does something.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (objects, end) = {
            let mut state = slf.get().state.lock();
            state.life.deactivate_reader();
            (state.objects.take(), state.end.take())
        };
        let Some(objects) = objects else {
            return Ok(());
        };
        slf.get().place.leave();
        if let Some(end) = end
            && objects.is_closed_elsewhere(py)?
        {
            end.forget();
        }
        Self::update_interest(slf);
        objects.close(py)
    }
}
