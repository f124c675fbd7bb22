//! The end of a transport, and what it has in common with that of other transports.

use super::transport::DatagramTransport;
use crate::transport::core::{Polled, Queueing, Transport};
use pyo3::prelude::*;
use rloop_core::flow::FlowChange;
use rloop_core::lifecycle::Lifecycle;

impl Polled for DatagramTransport {
    fn with_lifecycle<R>(&self, operation: impl FnOnce(&mut Lifecycle) -> R) -> R {
        operation(&mut self.state.lock().life)
    }

    fn update_interest(slf: &Bound<'_, Self>) {
        let (wanted, writing) = {
            let state = slf.get().state.lock();
            (state.is_interested(), state.is_writing())
        };
        let transport = || Transport::Datagram(slf.clone().unbind());
        slf.get().place.update_interest(wanted, writing, transport);
    }

    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let unsent = slf.get().state.lock().take_queue();
        drop(unsent);
        Self::update_interest(slf);
        Ok(())
    }

    /// Closes the socket and drops every reference. Only the first call does something.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (objects, socket, unsent, undelivered, last_sender) = {
            let mut state = slf.get().state.lock();
            state.life.deactivate_reader();
            (
                state.objects.take(),
                state.socket.take(),
                state.take_queue(),
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
        objects.hold.close(objects.sock.bind(py))
    }
}

impl Queueing for DatagramTransport {
    fn with_queue<R>(&self, operation: impl FnOnce(&mut Lifecycle, bool) -> R) -> R {
        let mut state = self.state.lock();
        let is_empty = state.queue.is_empty();
        operation(&mut state.life, is_empty)
    }

    fn review_flow(&self) -> FlowChange {
        let mut state = self.state.lock();
        let buffered = state.queued;
        state.flow.grown(buffered)
    }
}
