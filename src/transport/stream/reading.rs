//! From a read event to the protocol: `data_received()`, or `get_buffer()` and `buffer_updated()`.

use super::state::{ReadPath, Receiver};
use super::transport::StreamTransport;
use crate::loop_::event_loop::EventLoop;
use crate::py::buffer::TARGET_OF_RECV_INTO;
use crate::py::error::{OrOsError, os_error};
use crate::py::ffi;
use crate::py::interrupt::Interrupt;
use crate::runtime::registration::{Direction, Event};
use crate::runtime::stream::Read;
use crate::transport::core::{Endpoint, Polled, with_read_buffer};
use crate::transport::tls::TlsProtocol;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyInt};
use std::sync::Arc;

/// What a read event led to.
enum Received<'py> {
    /// Bytes for `data_received`; the event is the next one, if the driver will not deliver it.
    Data(Bound<'py, PyBytes>, Option<Event>),
    /// The TLS protocol has taken the bytes, or failed to.
    Decrypted(PyResult<()>, Option<Event>),
    End,
    Failed(std::io::Error),
    /// There was no memory for the bytes.
    Lost(PyErr),
}

/// What `get_buffer()` is told of how much is to come: nothing.
fn no_size_hint(py: Python<'_>) -> &Bound<'_, PyInt> {
    static NONE: PyOnceLock<Py<PyInt>> = PyOnceLock::new();
    NONE.get_or_init(py, || PyInt::new(py, -1).unbind()).bind(py)
}

impl StreamTransport {
    /// Called once `connection_made()` has run.
    pub(crate) fn start_reading(slf: &Bound<'_, Self>) {
        let mut state = slf.get().state.lock();
        if state.life.is_reading() {
            let event = state.activate_reader();
            drop(state);
            Self::update_interest(slf);
            slf.get().place.expect_event(event);
        }
    }

    /// The socket has something to read, or may have.
    pub(crate) fn on_readable(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let state = slf.get().state.lock();
        let Some(objects) = state.objects.as_ref().filter(|_| state.life.is_reader_active()) else {
            return Ok(());
        };
        let path = objects.read_path.clone();
        if matches!(path.receiver, Receiver::Buffered { .. }) {
            drop(state);
            return Self::run_in(slf, event_loop, path.context.bind(py), "_read_ready", || {
                Self::receive_into(slf, &path).inspect_err(|_| Self::expect_again(slf))
            });
        }
        let received = with_read_buffer(|buffer| {
            let (len, more) = match state.read(buffer) {
                Ok(Read::Received(len)) => (len, None),
                Ok(Read::ReceivedMore(len)) => (len, Some(slf.get().place.event(Direction::Read))),
                Ok(Read::NotReady) => return None,
                Ok(Read::End) => return Some(Received::End),
                Err(error) => return Some(Received::Failed(error)),
            };
            drop(state);
            if let Receiver::Tls(protocol) = &path.receiver
                && let Some(taken) = protocol.get().decrypt(py, &buffer[..len])
            {
                return Some(Received::Decrypted(taken, more));
            }
            Some(match ffi::new_bytes(py, &buffer[..len]) {
                Ok(data) => Received::Data(data, more),
                Err(error) => Received::Lost(error),
            })
        });
        // Not the calls alone: who is told later of what ends here is told in this context, too.
        let Some(received) = received else {
            return Ok(());
        };
        Self::run_in(slf, event_loop, path.context.bind(py), "_read_ready", || {
            Self::pass_on(slf, received, &path).inspect_err(|_| Self::expect_again(slf))
        })
    }

    /// Has another event follow one whose handling an exception ended, as a level-triggered selector
    /// would: the end of the stream, for one, has not reached the protocol if `eof_received()` was
    /// interrupted.
    #[cold]
    fn expect_again(slf: &Bound<'_, Self>) {
        let this = slf.get();
        let is_active = this.state.lock().life.is_reader_active();
        this.place.expect_event(is_active.then(|| this.place.event(Direction::Read)));
    }

    /// Passes on what was received; the context is that of `path`.
    fn pass_on(
        slf: &Bound<'_, Self>,
        received: Received<'_>,
        path: &Arc<ReadPath>,
    ) -> PyResult<()> {
        let py = slf.py();
        match received {
            Received::Data(data, more) => {
                if data.as_bytes().is_empty() {
                    slf.get().place.expect_event(more);
                    return Ok(());
                }
                let (called, method) = match &path.receiver {
                    Receiver::Streaming { protocol, data_received } => {
                        let protocol = protocol.bind(py);
                        let called = match data_received.function(protocol) {
                            Some(function) => function.call1((protocol, data)),
                            None => Self::look_up(slf, path, || {
                                protocol.call_method1(intern!(py, "data_received"), (data,))
                            }),
                        };
                        (called.map(|_| ()), "data_received")
                    }
                    Receiver::Tls(protocol) => {
                        (TlsProtocol::receive(protocol.bind(py), &data), "buffer_updated")
                    }
                    Receiver::Buffered { .. } => return Ok(()),
                };
                // As in asyncio, what the protocol has scheduled comes before what is received next:
                // a task answers a request before the peer's end closes a connection over TLS.
                slf.get().place.expect_event(more);
                called.or_else(|error| Self::protocol_failed(slf, error, method))
            }
            Received::Decrypted(taken, more) => {
                let Receiver::Tls(protocol) = &path.receiver else {
                    return Ok(());
                };
                let taken = taken.and_then(|()| TlsProtocol::go_on(protocol.bind(py)));
                slf.get().place.expect_event(more);
                taken.or_else(|error| Self::protocol_failed(slf, error, "buffer_updated"))
            }
            Received::End => Self::on_end(slf),
            Received::Failed(error) => {
                Self::fatal_error(slf, os_error(py, &error), "Fatal read error on socket transport")
            }
            Received::Lost(error) => {
                Self::fatal_error(slf, error, "Fatal read error on socket transport")
            }
        }
    }

    /// Calls a method by its name, and keeps what was found for the next event.
    #[cold]
    fn look_up<R>(slf: &Bound<'_, Self>, path: &Arc<ReadPath>, call: impl FnOnce() -> R) -> R {
        let py = slf.py();
        let called = call();
        let Some(receiver) = path.receiver.found_again(py) else {
            return called;
        };
        let renewed = Arc::new(ReadPath { receiver, context: path.context.clone_ref(py) });
        let replaced = {
            let mut state = slf.get().state.lock();
            match &mut state.objects {
                Some(objects) if Arc::ptr_eq(&objects.read_path, path) => {
                    std::mem::replace(&mut objects.read_path, renewed)
                }
                _ => renewed,
            }
        };
        drop(replaced);
        called
    }

    fn receive_into(slf: &Bound<'_, Self>, path: &Arc<ReadPath>) -> PyResult<()> {
        let py = slf.py();
        let Receiver::Buffered { protocol, get_buffer, buffer_updated } = &path.receiver else {
            return Ok(());
        };
        let protocol = protocol.bind(py);
        let target = match get_buffer.function(protocol) {
            Some(function) => function.call1((protocol, no_size_hint(py))),
            None => protocol.call_method1(intern!(py, "get_buffer"), (no_size_hint(py),)),
        };
        let target = match target.and_then(Self::checked_buffer) {
            Ok(target) => target,
            Err(error) => return Self::protocol_failed(slf, error, "get_buffer"),
        };
        let read = ffi::with_writable_bytes(&target, TARGET_OF_RECV_INTO, |bytes| {
            slf.get().state.lock().read(bytes)
        });
        let (len, more) = match read.and_then(|read| read.or_os_error(py)) {
            Ok(Read::NotReady) => return Ok(()),
            Ok(Read::End) => return Self::on_end(slf),
            Ok(Read::Received(len)) => (len, None),
            Ok(Read::ReceivedMore(len)) => (len, Some(slf.get().place.event(Direction::Read))),
            Err(error) => {
                return Self::fatal_error(slf, error, "Fatal read error on socket transport");
            }
        };
        if len == 0 {
            slf.get().place.expect_event(more);
            return Ok(());
        }
        let called = match buffer_updated.function(protocol) {
            Some(function) => function.call1((protocol, len)),
            None => Self::look_up(slf, path, || {
                protocol.call_method1(intern!(py, "buffer_updated"), (len,))
            }),
        };
        slf.get().place.expect_event(more);
        match called {
            Ok(_) => Ok(()),
            Err(error) => Self::protocol_failed(slf, error, "buffer_updated"),
        }
    }

    /// What the protocol answered to `get_buffer()`, unless there is no room in it.
    fn checked_buffer(target: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
        if target.len()? == 0 {
            return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
        }
        Ok(target)
    }

    /// The peer has shut down its side.
    fn on_end(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        Self::log(slf, "debug", "%r received EOF")?;
        let Some(protocol) = slf.get().protocol(py) else {
            return Ok(());
        };
        let answer = protocol
            .bind(py)
            .call_method0(intern!(py, "eof_received"))
            .and_then(|answer| answer.is_truthy());
        match answer {
            Err(error) => Self::protocol_failed(slf, error, "eof_received"),
            // The protocol may go on to write, but there is nothing more to read.
            Ok(true) => {
                slf.get().state.lock().life.deactivate_reader();
                Self::update_interest(slf);
                Ok(())
            }
            // As an attribute: a program may have put another in its place.
            Ok(false) => slf.call_method0(intern!(py, "close")).map(drop),
        }
    }

    pub(super) fn resume_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let context = slf.get().callback_context(slf.py())?;
        let (old_context, event) = {
            let mut state = slf.get().state.lock();
            if !state.life.resume() {
                return Ok(());
            }
            (state.set_read_context(slf.py(), context), state.activate_reader())
        };
        drop(old_context);
        Self::update_interest(slf);
        slf.get().place.expect_event(event);
        Self::log(slf, "debug", "%r resumes reading")
    }
}
