//! From a read event to the protocol: `data_received()`, or `get_buffer()` and `buffer_updated()`.

use super::state::{ReadPath, Receiver};
use super::transport::StreamTransport;
use crate::driving::registration::{Direction, Event};
use crate::driving::stream::Read;
use crate::python::error::{OrOsError, os_error};
use crate::python::ffi;
use crate::python::tls::TlsProtocol;
use crate::python::transports::{Endpoint, Polled, Queueing, with_read_buffer};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyContext};
use std::sync::Arc;

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
    /// The TLS protocol has taken the bytes, or failed to.
    Decrypted {
        taken: PyResult<()>,
        more: Option<Event>,
        path: Arc<ReadPath>,
    },
    /// A buffered protocol has to be asked where to receive.
    Wanted(Arc<ReadPath>),
    End(Arc<ReadPath>),
    Failed(std::io::Error),
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
    ///
    /// # Errors
    /// `SystemExit` and `KeyboardInterrupt` of the protocol.
    pub(crate) fn on_readable(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let received = with_read_buffer(|buffer| {
            let state = slf.get().state.lock();
            let Some(objects) = state.objects.as_ref().filter(|_| state.life.is_reader_active())
            else {
                return Received::Nothing;
            };
            let path = objects.read_path.clone();
            if matches!(path.receiver, Receiver::Buffered { .. }) {
                return Received::Wanted(path);
            }
            let (len, more) = match state.read(buffer) {
                Ok(Read::Received(len)) => (len, None),
                Ok(Read::ReceivedMore(len)) => (len, Some(slf.get().place.event(Direction::Read))),
                Ok(Read::NotReady) => return Received::Nothing,
                Ok(Read::End) => return Received::End(path),
                Err(error) => return Received::Failed(error),
            };
            drop(state);
            if let Receiver::Tls(protocol) = &path.receiver
                && let Some(taken) = protocol.get().decrypt(py, &buffer[..len])
            {
                return Received::Decrypted { taken, more, path };
            }
            Received::Data { data: PyBytes::new(py, &buffer[..len]), more, path }
        });
        match received {
            Received::Nothing => Ok(()),
            Received::Data { data, more, path } => {
                slf.get().place.expect_event(more);
                if data.as_bytes().is_empty() {
                    return Ok(());
                }
                let context = path.context.bind(py);
                let (called, method) = match &path.receiver {
                    Receiver::Streaming { data_received } => (
                        ffi::in_context(context, || data_received.call(data.as_any()).map(|_| ())),
                        "data_received",
                    ),
                    Receiver::Tls(protocol) => (
                        ffi::in_context(context, || TlsProtocol::receive(protocol.bind(py), &data)),
                        "buffer_updated",
                    ),
                    Receiver::Buffered { .. } => return Ok(()),
                };
                match called {
                    Ok(()) => Ok(()),
                    Err(error) => Self::protocol_failed(slf, error, method),
                }
            }
            Received::Decrypted { taken, more, path } => {
                slf.get().place.expect_event(more);
                let Receiver::Tls(protocol) = &path.receiver else {
                    return Ok(());
                };
                let called = taken.and_then(|()| {
                    ffi::in_context(path.context.bind(py), || TlsProtocol::go_on(protocol.bind(py)))
                });
                match called {
                    Ok(()) => Ok(()),
                    Err(error) => Self::protocol_failed(slf, error, "buffer_updated"),
                }
            }
            Received::Wanted(path) => Self::receive_into(slf, &path),
            Received::End(path) => Self::on_end(slf, path.context.bind(py)),
            Received::Failed(error) => {
                Self::fatal_error(slf, os_error(py, &error), "Fatal read error on socket transport")
            }
        }
    }

    pub(super) fn receive_into(slf: &Bound<'_, Self>, path: &ReadPath) -> PyResult<()> {
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
        let target = match called {
            Ok(target) => target,
            Err(error) => return Self::protocol_failed(slf, error, "get_buffer"),
        };
        let read = ffi::with_writable_bytes(&target, |bytes| slf.get().state.lock().read(bytes));
        let (len, more) = match read.and_then(|read| read.or_os_error(slf.py())) {
            Ok(Read::NotReady) => return Ok(()),
            Ok(Read::End) => return Self::on_end(slf, context),
            Ok(Read::Received(len)) => (len, None),
            Ok(Read::ReceivedMore(len)) => (len, Some(slf.get().place.event(Direction::Read))),
            Err(error) => {
                return Self::fatal_error(slf, error, "Fatal read error on socket transport");
            }
        };
        slf.get().place.expect_event(more);
        if len == 0 {
            return Ok(());
        }
        let called = ffi::in_context(context, || buffer_updated.call1((len,)));
        match called {
            Ok(_) => Ok(()),
            Err(error) => Self::protocol_failed(slf, error, "buffer_updated"),
        }
    }

    /// The peer has shut down its side.
    pub(super) fn on_end(slf: &Bound<'_, Self>, context: &Bound<'_, PyContext>) -> PyResult<()> {
        let py = slf.py();
        Self::log(slf, "debug", "%r received EOF")?;
        let Some(protocol) = slf.get().protocol(py) else {
            return Ok(());
        };
        let called = ffi::in_context(context, || {
            protocol.bind(py).call_method0(intern!(py, "eof_received"))?.is_truthy()
        });
        match called {
            Err(error) => Self::protocol_failed(slf, error, "eof_received"),
            // The protocol may go on to write, but there is nothing more to read.
            Ok(true) => {
                slf.get().state.lock().life.deactivate_reader();
                Self::update_interest(slf);
                Ok(())
            }
            Ok(false) => Self::close_here(slf),
        }
    }

    pub(super) fn resume_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let context = ffi::copy_context(slf.py())?;
        let (old_context, event) = {
            let mut state = slf.get().state.lock();
            if !state.life.resume() {
                return Ok(());
            }
            let old = state.objects.as_mut().map(|objects| {
                let receiver = objects.read_path.receiver.clone_ref(slf.py());
                std::mem::replace(&mut objects.read_path, Arc::new(ReadPath { receiver, context }))
            });
            (old, state.activate_reader())
        };
        drop(old_context);
        Self::update_interest(slf);
        slf.get().place.expect_event(event);
        Self::log(slf, "debug", "%r resumes reading")
    }
}
