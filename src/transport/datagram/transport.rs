//! The transport object: what it is made of, where it lives, and how calls get there.

use super::state::DatagramState;
use crate::loop_::event_loop::EventLoop;
use crate::py::ffi::SharedBytes;
use crate::py::interrupt::Interrupt;
use crate::runtime::datagram::Family;
use crate::runtime::registration::Direction;
use crate::transport::core::{Call, Endpoint, Place, Polled, Queueing};
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::sync::Mutex;

/// A call on a transport that was made on another thread than its own.
pub(crate) enum Remote {
    SendTo(SharedBytes, Option<Py<PyAny>>),
    ReviewFlow,
    PauseReading,
    ResumeReading,
    Close,
    Abort(Option<Py<PyAny>>),
}

/// A datagram transport.
#[pyclass(frozen, subclass, weakref, dict, module = "rloop._rloop")]
pub(crate) struct DatagramTransport {
    pub(super) state: Mutex<DatagramState>,
    pub(super) place: Place,
    pub(super) family: Family,
    /// The address that datagrams without one go to, if it was given.
    pub(super) remote: Option<Py<PyAny>>,
    /// The socket is connected: all datagrams go there.
    pub(super) is_connected: bool,
}

impl Endpoint for DatagramTransport {
    fn with_ends<R>(&self, operation: impl FnOnce(&Py<EventLoop>, &Py<PyAny>) -> R) -> Option<R> {
        let state = self.state.lock();
        state.objects.as_ref().map(|objects| operation(&objects.event_loop, &objects.protocol))
    }
}

impl DatagramTransport {
    /// The context of the callbacks of that direction; `None` once the transport is closed.
    pub(crate) fn context_of(&self, py: Python<'_>, direction: Direction) -> Option<Py<PyContext>> {
        let state = self.state.lock();
        let objects = state.objects.as_ref()?;
        let writing = objects.write_context.as_ref().filter(|_| direction == Direction::Write);
        Some(writing.unwrap_or(&objects.read_path.context).clone_ref(py))
    }

    /// Forwards `call` if this is not the thread it has to run on; true if it did.
    pub(super) fn forward(
        slf: &Bound<'_, Self>,
        call: impl FnOnce() -> PyResult<Remote>,
    ) -> PyResult<bool> {
        slf.get().place.forward(|| Ok(Call::Datagram(slf.clone().unbind(), call()?)))
    }

    /// Runs a forwarded call.
    pub(crate) fn run_remote(
        slf: &Bound<'_, Self>,
        event_loop: &Bound<'_, EventLoop>,
        call: Remote,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let called = match call {
            Remote::SendTo(data, address) => {
                let address = address.as_ref().map(|address| address.bind(py));
                Self::send_checked(slf, data.object(py), address)
            }
            Remote::ReviewFlow => Self::review_flow_here(slf),
            Remote::PauseReading => Self::pause_here(slf),
            Remote::ResumeReading => Self::resume_here(slf),
            Remote::Close => Self::close_here(slf),
            Remote::Abort(error) => Self::force_close(slf, error),
        };
        Self::settle_remote(slf, event_loop, called)
    }
}
