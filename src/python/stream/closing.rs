//! The end of a connection: failures, `close()`, `abort()`, and `connection_lost()`.

use super::transport::StreamTransport;
use crate::python::transports::{Endpoint, release_socket};
use pyo3::exceptions::{PyConnectionError, PyOSError};
use pyo3::intern;
use pyo3::prelude::*;

impl StreamTransport {
    /// Ends the connection because of `error`; reports it unless it is the network's.
    pub(super) fn fatal_error(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        let exception = error.clone_ref(py).into_value(py).into_any();
        let is_expected = error.is_instance_of::<PyOSError>(py);
        Self::tell_of_failure(slf, error, message, is_expected)?;
        Self::force_close(slf, Some(exception))
    }

    pub(super) fn force_close(slf: &Bound<'_, Self>, error: Option<Py<PyAny>>) -> PyResult<()> {
        let unsent = slf.get().state.lock().force_close();
        if unsent.is_none() {
            return Ok(());
        }
        drop(unsent);
        Self::update_interest(slf);
        Self::schedule_connection_lost(slf, error)
    }

    /// Tells the protocol that the connection is gone, and lets go of everything.
    pub(super) fn connection_lost(
        slf: &Bound<'_, Self>,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
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
    pub(super) fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (objects, socket, unsent, waiter) = {
            let mut state = this.state.lock();
            state.reader_active = false;
            (
                state.objects.take(),
                state.socket.take(),
                state.queue.take(),
                state.empty_waiter.take(),
            )
        };
        drop(unsent);
        let Some(objects) = objects else {
            return Ok(());
        };
        this.place.leave();
        // In this order: the registration must not outlive the descriptor.
        drop(socket);
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

    pub(super) fn close_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let nothing_queued = slf.get().state.lock().close();
        Self::update_interest(slf);
        if nothing_queued { Self::schedule_connection_lost(slf, None) } else { Ok(()) }
    }
}
