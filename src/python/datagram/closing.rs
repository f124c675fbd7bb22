//! The end of a transport: failures, `close()`, `abort()`, and `connection_lost()`.

use super::transport::DatagramTransport;
use crate::python::transports::{Endpoint, release_socket};
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;

impl DatagramTransport {
    /// Ends the transport because of `error`; reports it unless it is the network's.
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

    pub(super) fn close_here(slf: &Bound<'_, Self>) -> PyResult<()> {
        let nothing_queued = slf.get().state.lock().close();
        Self::update_interest(slf);
        if nothing_queued { Self::schedule_connection_lost(slf, None) } else { Ok(()) }
    }

    /// Tells the protocol that the transport is closed, and lets go of everything.
    pub(super) fn connection_lost(
        slf: &Bound<'_, Self>,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let called = Self::tell_connection_lost(slf, error);
        let released = Self::release(slf);
        called.and(released)
    }

    /// Closes the socket and drops every reference. Only the first call does something.
    pub(super) fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (objects, socket, unsent, undelivered, last_sender) = {
            let mut state = slf.get().state.lock();
            state.reader_active = false;
            state.queued = 0;
            (
                state.objects.take(),
                state.socket.take(),
                std::mem::take(&mut state.queue),
                std::mem::take(&mut state.received),
                state.last_sender.take(),
            )
        };
        drop((unsent, undelivered, last_sender));
        let Some(objects) = objects else {
            return Ok(());
        };
        slf.get().place.leave();
        // In this order: the registration must not outlive the descriptor.
        drop(socket);
        Self::update_interest(slf);
        let sock = objects.sock.bind(py);
        sock.call_method0(intern!(py, "close"))?;
        release_socket(sock)
    }
}
