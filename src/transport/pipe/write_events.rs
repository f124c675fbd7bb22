//! What an end that is written is told by the kernel, and its end.

use super::write::WritePipeTransport;
use crate::loop_::event_loop::EventLoop;
use crate::py::error::{Finally, os_error};
use crate::py::ffi;
use crate::py::interrupt::Interrupt;
use crate::runtime::pipe::WriteEnd;
use crate::runtime::stream;
use crate::transport::core::{Endpoint, Polled, Queueing, Transport};
use pyo3::exceptions::PyBrokenPipeError;
use pyo3::prelude::*;
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

/// What an event of the pipe tells.
enum Seen {
    Room,
    /// The reader is gone.
    End,
    /// The reader was gone, and is not any more.
    Nothing,
}

impl WritePipeTransport {
    /// The pipe has room, or its reader is gone, or seemed to be.
    pub(crate) fn on_event(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let this = slf.get();
        let (context, outcome) = {
            let mut state = this.state.lock();
            let state = &mut *state;
            let (Some(objects), Some(end)) = (&state.objects, &state.end) else {
                return Ok(());
            };
            if state.life.is_lost() {
                return Ok(());
            }
            let outcome = end.arm().and_then(|quiet| {
                Ok(if quiet {
                    Seen::Room
                } else if end.is_abandoned()? {
                    Seen::End
                } else {
                    Seen::Nothing
                })
            });
            (objects.context.clone_ref(py), outcome)
        };
        let context = context.bind(py);
        ffi::in_context(context, || match outcome {
            Ok(Seen::Room) => Self::flush(slf),
            Ok(Seen::End) => Self::abandoned(slf),
            Ok(Seen::Nothing) => {
                Self::renew(slf)?;
                Self::flush(slf)
            }
            // A pipe that cannot be polled cannot be waited for.
            Err(error) => Self::write_failed(slf, os_error(py, &error)),
        })
        .or_else(|error| {
            Self::callback_failed(slf, event_loop, "_write_ready", Some(context), error)
        })
    }

    fn renew(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let io = this.place.home.io()?;
        let renewed = {
            let _entered = io.driver.enter();
            this.state.lock().end.as_mut().map_or(Ok(()), WriteEnd::renew)
        };
        match renewed {
            Ok(()) => Ok(()),
            Err(error) => Self::write_failed(slf, os_error(slf.py(), &error)),
        }
    }

    /// The reader is gone.
    fn abandoned(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        Self::log(slf, "info", "%r was closed by peer")?;
        let is_queued = !slf.get().state.lock().queue.is_empty();
        let error = is_queued.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
        Self::force_close(slf, error)
    }

    /// Sends what is queued, and does what waits for the queue to be empty.
    fn flush(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut used = Vec::new();
        let (flushed, change) = {
            let mut state = slf.get().state.lock();
            let state = &mut *state;
            if state.queue.is_empty() {
                return Ok(());
            }
            let flushed = match &state.end {
                Some(end) => stream::flush(&mut state.queue, end, &mut used).map(|_| ()),
                None => Ok(()),
            };
            (flushed, state.flow.shrunk(state.queue.len()))
        };
        drop(used);
        if let Err(error) = flushed {
            return Self::write_failed(slf, os_error(py, &error));
        }
        let awaited = Self::await_room(slf);
        let told = awaited.finally(py, Self::apply_flow_change(slf, change));
        // resume_writing() may have queued more.
        let ended = if slf.get().with_queue(Lifecycle::drained) {
            Self::connection_lost(slf, None)
        } else {
            Ok(())
        };
        told.finally(py, ended)
    }

    pub(super) fn write_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        {
            let mut state = slf.get().state.lock();
            state.lost_writes = state.lost_writes.saturating_add(1);
        }
        Self::fatal_error(slf, error, "Fatal write error on pipe transport")
    }
}

impl Polled for WritePipeTransport {
    fn with_lifecycle<R>(&self, operation: impl FnOnce(&mut Lifecycle) -> R) -> R {
        operation(&mut self.state.lock().life)
    }

    fn update_interest(slf: &Bound<'_, Self>) {
        let (wanted, queued) = {
            let state = slf.get().state.lock();
            let registered = state.end.as_ref().is_some_and(WriteEnd::is_registered);
            (registered && !state.life.is_lost(), registered && !state.queue.is_empty())
        };
        let transport = || Transport::WritePipe(slf.clone().unbind());
        slf.get().place.update_interest(wanted, queued, transport);
    }

    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let unsent = slf.get().state.lock().queue.take();
        drop(unsent);
        Self::await_room(slf)
    }

    /// Closes the pipe and drops every reference. Only the first call does something.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (objects, end, unsent) = {
            let mut state = slf.get().state.lock();
            state.life.end();
            (state.objects.take(), state.end.take(), state.queue.take())
        };
        drop(unsent);
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

impl Queueing for WritePipeTransport {
    fn with_queue<R>(&self, operation: impl FnOnce(&mut Lifecycle, bool) -> R) -> R {
        let mut state = self.state.lock();
        let is_empty = state.queue.is_empty();
        operation(&mut state.life, is_empty)
    }

    fn review_flow(&self) -> FlowChange {
        let mut state = self.state.lock();
        let buffered = state.queue.len();
        state.flow.grown(buffered)
    }
}
