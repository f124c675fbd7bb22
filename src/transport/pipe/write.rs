//! The end of a pipe that is written.
//!
//! A pipe or a socket is watched for the end of its reader from the start. A device is waited for only
//! while something is queued, through the loop's `add_writer()`: its descriptor may be the one that a
//! read transport has registered, and it may be one that cannot be waited for.

use super::objects::Objects;
use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::Chunk;
use crate::py::error::{OrOsError, os_error};
use crate::py::ffi::SharedBytes;
use crate::py::interrupt::{self, Interrupt};
use crate::py::{buffer, ffi, imports};
use crate::runtime::pipe::{Kind, WriteEnd};
use crate::runtime::registration::Direction;
use crate::runtime::stream::Sink;
use crate::shard::Shard;
use crate::transport::core::{Call, Endpoint, Forwarding, Place, Polled, Queueing};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyContext, PyDict, PyMemoryView};
use rloop_core::flow::{FlowChange, FlowControl};
use rloop_core::forwarded::Forwarded;
use rloop_core::lifecycle::Lifecycle;
use rloop_core::sync::Mutex;
use rloop_core::write_queue::WriteQueue;
use std::io;
use std::sync::Arc;

/// A call on a transport that was made on another thread than its own.
pub(crate) enum WriteRemote {
    Write(SharedBytes),
    WriteEof,
    /// The water marks (low, high).
    SetLimits(u128, u128),
    Abort,
}

/// What a write transport remembers. One lock guards it.
pub(super) struct WriteState {
    /// `None` once `connection_lost()` was called.
    pub(super) objects: Option<Objects>,
    /// `None` once the transport was closed.
    pub(super) end: Option<WriteEnd>,
    pub(super) extra: Py<PyDict>,
    pub(super) queue: WriteQueue<Chunk>,
    pub(super) flow: FlowControl,
    pub(super) life: Lifecycle,
    /// Failed writes, and those after the end.
    pub(super) lost_writes: u32,
}

impl WriteState {
    /// Counts a write that is lost, because the pipe is closing or a write has failed. Returns how many
    /// were lost before.
    fn note_lost_write(&mut self) -> Option<u32> {
        if self.lost_writes == 0 && !self.life.is_closing() {
            return None;
        }
        let count = self.lost_writes;
        self.lost_writes = count.saturating_add(1);
        Some(count)
    }
}

/// What a write leaves to do after the lock was let go of.
#[must_use]
pub(super) enum Written {
    /// Nothing: the kernel has taken it.
    Everything,
    /// Bytes were queued; `starts` tells that nothing was queued before.
    Queued {
        starts: bool,
        change: FlowChange,
    },
    /// The pipe is closing, or a write has failed; so many writes came after that.
    Lost(u32),
    Failed(io::Error),
}

/// A transport that writes to a pipe.
#[pyclass(frozen, subclass, weakref, dict, module = "rloop._rloop")]
pub(crate) struct WritePipeTransport {
    pub(super) state: Mutex<WriteState>,
    pub(super) place: Place,
    pub(super) forwarded: Forwarded<WriteRemote>,
    pub(super) kind: Kind,
}

impl Endpoint for WritePipeTransport {
    fn with_ends<R>(&self, operation: impl FnOnce(&Py<EventLoop>, &Py<PyAny>) -> R) -> Option<R> {
        let state = self.state.lock();
        state.objects.as_ref().map(|objects| operation(&objects.event_loop, &objects.protocol))
    }
}

impl Forwarding for WritePipeTransport {
    type Call = WriteRemote;

    fn forwarded(&self) -> &Forwarded<WriteRemote> {
        &self.forwarded
    }

    fn home_shard(&self) -> Option<&Arc<Shard>> {
        Some(&self.place.home)
    }

    fn make(slf: &Bound<'_, Self>, call: WriteRemote) -> PyResult<()> {
        match call {
            WriteRemote::Write(data) => {
                let written = slf.get().write_checked(data.as_ref(), |sent| {
                    Ok((Chunk::Shared(data.clone_ref(slf.py())), sent))
                });
                Self::finish_write(slf, written)
            }
            WriteRemote::WriteEof => Self::close_here(slf),
            WriteRemote::SetLimits(low, high) => {
                slf.get().state.lock().flow.set_limits(low, high);
                Self::review_flow_here(slf)
            }
            WriteRemote::Abort => Self::force_close(slf, None),
        }
    }

    /// It receives nothing.
    fn stops_reading(_: &WriteRemote) -> Option<bool> {
        None
    }

    fn errand(slf: &Bound<'_, Self>, number: u64) -> Call {
        Call::WritePipe(slf.clone().unbind(), number)
    }

    fn note_forwarded(&self, call: &WriteRemote) {
        if matches!(call, WriteRemote::WriteEof | WriteRemote::Abort) {
            self.place.note_close();
        }
    }
}

impl WritePipeTransport {
    /// The context of the callbacks; `None` once the transport is closed.
    pub(crate) fn context(&self, py: Python<'_>) -> Option<Py<PyContext>> {
        Some(self.state.lock().objects.as_ref()?.context.clone_ref(py))
    }

    /// Called once `connection_made()` has run.
    pub(crate) fn start_watching(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        if slf.get().kind == Kind::Device {
            return Ok(());
        }
        Self::add_reader(slf)
            .or_else(|error| Self::callback_failed(slf, event_loop, "_add_reader", None, error))
    }

    /// Starts to watch for the end of the reader.
    pub(super) fn add_reader(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.state.lock().life.is_closing() {
            return Ok(());
        }
        if let Some(event_loop) = this.event_loop(py) {
            // In place of another's reader, as in asyncio.
            event_loop.call_method1(intern!(py, "_remove_reader"), (this.place.fd,))?;
        }
        Self::register(slf)?;
        Self::update_interest(slf);
        Ok(())
    }

    /// Registers the pipe, if it is not.
    fn register(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let io = this.place.home.io()?;
        let registered = {
            let _entered = io.driver.enter();
            let mut state = this.state.lock();
            state.end.as_mut().map_or(Ok(()), |end| end.register(this.place.generation))
        };
        registered.or_os_error(slf.py())
    }

    /// Waits for room, or no longer, as the queue demands.
    pub(super) fn await_room(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let is_full = !this.state.lock().queue.is_empty();
        if this.kind != Kind::Device {
            if is_full {
                Self::register(slf)?;
            }
            Self::update_interest(slf);
            return Self::rearm(slf);
        }
        let Some(event_loop) = this.event_loop(py) else {
            return Ok(());
        };
        if is_full {
            let ready = slf.as_any().getattr(intern!(py, "_write_ready"))?;
            event_loop.call_method1(intern!(py, "_add_writer"), (this.place.fd, ready))?;
        } else {
            event_loop.call_method1(intern!(py, "_remove_writer"), (this.place.fd,))?;
        }
        Ok(())
    }

    /// Sends checked bytes at once if nothing waits before them, and queues what the pipe does not take:
    /// that is what `rest` makes of the number of bytes that are gone, a chunk and its offset. `rest`
    /// must not run Python code. [`WritePipeTransport::finish_write`] has to follow.
    pub(super) fn write_checked(
        &self,
        bytes: &[u8],
        rest: impl FnOnce(usize) -> io::Result<(Chunk, usize)>,
    ) -> Written {
        let mut state = self.state.lock();
        if bytes.is_empty() {
            return Written::Everything;
        }
        if let Some(count) = state.note_lost_write() {
            return Written::Lost(count);
        }
        let sent = match &state.end {
            Some(end) if state.queue.is_empty() => end.write(bytes),
            _ => Ok(0),
        };
        let rest = match sent {
            Ok(sent) if sent == bytes.len() => return Written::Everything,
            Ok(sent) => rest(sent),
            Err(error) => Err(error),
        };
        match rest {
            Ok((chunk, offset)) => {
                let starts = state.queue.is_empty();
                let empty = state.queue.push(chunk, offset);
                debug_assert!(empty.is_none());
                let buffered = state.queue.len();
                Written::Queued { starts, change: state.flow.grown(buffered) }
            }
            Err(error) => Written::Failed(error),
        }
    }

    /// Does what a write leaves to do.
    pub(super) fn finish_write(slf: &Bound<'_, Self>, written: Written) -> PyResult<()> {
        let py = slf.py();
        let (starts, change) = match written {
            Written::Everything => return Ok(()),
            Written::Queued { starts, change } => (starts, change),
            Written::Lost(count) => return warn_about_lost_write(py, count),
            Written::Failed(error) => return Self::write_failed(slf, os_error(py, &error)),
        };
        if starts {
            Self::renew_context(slf);
        }
        if let Err(error) = Self::await_room(slf) {
            // As in asyncio, a device that cannot be waited for is the writer's problem.
            let unsent = slf.get().state.lock().queue.take();
            drop(unsent);
            return Err(error);
        }
        Self::apply_flow_change(slf, change)
    }

    /// Makes a copy of the current context that of the callbacks. Without memory for one they keep the
    /// context they have, so that what is queued is sent.
    fn renew_context(slf: &Bound<'_, Self>) {
        let py = slf.py();
        match ffi::copy_context(py) {
            Ok(context) => {
                let replaced = match &mut slf.get().state.lock().objects {
                    Some(objects) => std::mem::replace(&mut objects.context, context),
                    None => context,
                };
                drop(replaced);
            }
            Err(error) => error.write_unraisable(py, Some(slf)),
        }
    }

    /// Asks for the next events. A failure that tokio remembers is looked at in an event of its own.
    fn rearm(slf: &Bound<'_, Self>) -> PyResult<()> {
        let armed = slf.get().state.lock().end.as_ref().map_or(Ok(true), WriteEnd::arm);
        match armed {
            Ok(true) => Ok(()),
            Ok(false) => {
                let place = &slf.get().place;
                place.expect_event(Some(place.event(Direction::Read)));
                Ok(())
            }
            Err(error) => Self::write_failed(slf, os_error(slf.py(), &error)),
        }
    }

    /// Writes bytes-like data.
    pub(super) fn write_object(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let view =
            data.is_instance_of::<PyByteArray>().then(|| PyMemoryView::from(data)).transpose()?;
        let data = view.as_ref().map_or(data, |view| view.as_any());
        if buffer::is_false(data)? {
            return Ok(());
        }
        if Self::forward(slf, || buffer::snapshot(data).map(WriteRemote::Write))? {
            return Ok(());
        }
        let written = match buffer::as_bytes(data) {
            Some(bytes) => Ok(slf.get().write_checked(bytes.as_bytes(), |sent| {
                Ok((Chunk::Shared(SharedBytes::new(bytes)), sent))
            })),
            None => ffi::with_bytes(data, |bytes| {
                slf.get().write_checked(bytes, |sent| Ok((Chunk::copy(&bytes[sent..])?, 0)))
            }),
        };
        match written {
            Ok(written) => Self::finish_write(slf, written),
            Err(error) => Self::no_buffer(slf, error),
        }
    }

    /// Deals with the exception of an object whose bytes cannot be had, as asyncio, which gives the object
    /// to `os.write()`.
    #[cold]
    fn no_buffer(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let (lost, is_waiting) = {
            let mut state = slf.get().state.lock();
            (state.note_lost_write(), !state.queue.is_empty())
        };
        match lost {
            Some(count) => warn_about_lost_write(slf.py(), count),
            // asyncio copies it into its buffer at once.
            None if is_waiting => Err(error),
            None => Self::write_failed(slf, interrupt::reportable(slf.py(), error)?),
        }
    }
}

fn warn_about_lost_write(py: Python<'_>, count: u32) -> PyResult<()> {
    if count >= Lifecycle::LOG_THRESHOLD_FOR_CONNLOST_WRITES {
        let message = "pipe closed by peer or os.write(pipe, data) raised exception.";
        imports::logger(py)?.call_method1("warning", (message,))?;
    }
    Ok(())
}
