//! The end of a connection, and what it has in common with that of other transports.

use super::transport::StreamTransport;
use crate::py::error::Finally;
use crate::transport::core::{Polled, Queueing, Transport};
use pyo3::exceptions::PyConnectionError;
use pyo3::intern;
use pyo3::prelude::*;
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

impl Polled for StreamTransport {
    fn with_lifecycle<R>(&self, operation: impl FnOnce(&mut Lifecycle) -> R) -> R {
        operation(&mut self.state.lock().life)
    }

    fn update_interest(slf: &Bound<'_, Self>) {
        let (wanted, queued) = {
            let state = slf.get().state.lock();
            (state.is_interested(), !state.queue.is_empty())
        };
        let transport = || Transport::Stream(slf.clone().unbind());
        slf.get().place.update_interest(wanted, queued, transport);
    }

    /// Closes the socket and drops every reference. Only the first call does something.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (objects, socket, unsent, waiter) = {
            let mut state = this.state.lock();
            state.life.deactivate_reader();
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
        let closed = objects.hold.close(objects.sock.bind(py));
        let detached = match &objects.server {
            Some(server) if cfg!(Py_3_13) => {
                server.call_method1(py, intern!(py, "_detach"), (slf,)).map(|_| ())
            }
            Some(server) => server.call_method0(py, intern!(py, "_detach")).map(|_| ()),
            None => Ok(()),
        };
        let told = waiter.map_or(Ok(()), |waiter| {
            let error = PyConnectionError::new_err("Connection is closed by peer");
            waiter.call_method1(py, intern!(py, "set_exception"), (error,)).map(drop)
        });
        closed.finally(py, detached).finally(py, told)
    }

    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let unsent = slf.get().state.lock().queue.take();
        drop(unsent);
        Self::update_interest(slf);
        Ok(())
    }
}

impl Queueing for StreamTransport {
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
