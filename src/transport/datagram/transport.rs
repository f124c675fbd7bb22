//! The transport object: what it is made of, where it lives, and how calls get there.

use super::state::DatagramState;
use crate::loop_::event_loop::EventLoop;
use crate::py::ffi::SharedBytes;
use crate::runtime::datagram::Family;
use crate::runtime::registration::Direction;
use crate::shard::Shard;
use crate::transport::core::{Call, Endpoint, Forwarding, Place, Polled, Queueing};
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::forwarded::Forwarded;
use rloop_core::sync::Mutex;
use std::sync::Arc;

/// A call on a transport that was made on another thread than its own.
pub(crate) enum Remote {
    SendTo(SharedBytes, Option<Py<PyAny>>),
    /// The water marks (low, high).
    SetLimits(u128, u128),
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
    pub(super) forwarded: Forwarded<Remote>,
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

impl Forwarding for DatagramTransport {
    type Call = Remote;

    fn forwarded(&self) -> &Forwarded<Remote> {
        &self.forwarded
    }

    fn home_shard(&self) -> Option<&Arc<Shard>> {
        Some(&self.place.home)
    }

    fn make(slf: &Bound<'_, Self>, call: Remote) -> PyResult<()> {
        let py = slf.py();
        match call {
            Remote::SendTo(data, address) => {
                let address = address.as_ref().map(|address| address.bind(py));
                Self::send_checked(slf, data.object(py), address)
            }
            Remote::SetLimits(low, high) => {
                slf.get().state.lock().flow.set_limits(low, high);
                Self::review_flow_here(slf)
            }
            Remote::PauseReading => Self::pause_here(slf),
            Remote::ResumeReading => Self::resume_here(slf),
            Remote::Close => Self::close_here(slf),
            Remote::Abort(error) => Self::force_close(slf, error),
        }
    }

    fn stops_reading(call: &Remote) -> Option<bool> {
        match call {
            Remote::PauseReading | Remote::Close | Remote::Abort(_) => Some(true),
            Remote::ResumeReading => Some(false),
            _ => None,
        }
    }

    fn errand(slf: &Bound<'_, Self>, number: u64) -> Call {
        Call::Datagram(slf.clone().unbind(), number)
    }

    fn note_forwarded(&self, call: &Remote) {
        if matches!(call, Remote::Close | Remote::Abort(_)) {
            self.place.note_close();
        }
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
}
