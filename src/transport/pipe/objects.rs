//! The Python objects of an open pipe transport.

use crate::loop_::event_loop::EventLoop;
use crate::py::error::OrOsError;
use crate::py::ffi;
use crate::runtime::pipe::{self, Kind};
use crate::transport::core::{Place, SocketHold};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict};
use std::os::fd::RawFd;

/// They are dropped together once the transport is closed.
pub(super) struct Objects {
    pub(super) event_loop: Py<EventLoop>,
    pub(super) pipe: Py<PyAny>,
    /// If the pipe is a socket.
    pub(super) hold: SocketHold,
    pub(super) protocol: Py<PyAny>,
    /// The context of the callbacks: a copy made when the transport began, or when its reading or
    /// writing last restarted.
    pub(super) context: Py<PyContext>,
}

/// What a new transport consists of.
pub(super) struct Beginning {
    pub(super) objects: Objects,
    pub(super) extra: Py<PyDict>,
    pub(super) place: Place,
    pub(super) kind: Kind,
}

impl Beginning {
    /// Takes over `pipe`, and makes it non-blocking.
    ///
    /// # Errors
    /// `ValueError` with the text `refusal` if it is no pipe, and `OSError`.
    pub(super) fn new(
        event_loop: &Bound<'_, EventLoop>,
        pipe: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        extra: Option<&Bound<'_, PyDict>>,
        refusal: &'static str,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        let fd: RawFd = pipe.call_method0(intern!(py, "fileno"))?.extract()?;
        let kind = Kind::of(fd).or_os_error(py)?;
        let kind = kind.ok_or_else(|| PyValueError::new_err(refusal))?;
        pipe::set_nonblocking(fd).or_os_error(py)?;
        let extra = match extra {
            Some(extra) => extra.copy()?,
            None => PyDict::new(py),
        };
        extra.set_item(intern!(py, "pipe"), pipe)?;
        let home = event_loop.get().shard(event_loop.get().home_here(py)?).clone();
        let objects = Objects {
            event_loop: event_loop.clone().unbind(),
            pipe: pipe.clone().unbind(),
            protocol: protocol.clone().unbind(),
            context: ffi::copy_context(py)?,
            hold: SocketHold::new(pipe)?,
        };
        Ok(Self { objects, extra: extra.unbind(), place: Place::new(fd, home), kind })
    }
}

impl Objects {
    /// True if somebody else has closed the file.
    pub(super) fn is_closed_elsewhere(&self, py: Python<'_>) -> PyResult<bool> {
        match self.pipe.bind(py).getattr_opt(intern!(py, "closed"))? {
            Some(closed) => closed.is_truthy(),
            // A socket, whose descriptor the transport holds.
            None => Ok(false),
        }
    }

    /// Leaves the file open.
    pub(super) fn let_go(self, py: Python<'_>) -> PyResult<()> {
        self.hold.release(self.pipe.bind(py))
    }

    /// Closes the file.
    pub(super) fn close(self, py: Python<'_>) -> PyResult<()> {
        self.hold.close(self.pipe.bind(py))
    }

    pub(super) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.pipe)?;
        visit.call(&self.protocol)?;
        visit.call(&self.context)
    }
}
