//! What a handle refers to its loop by.
//!
//! Without the GIL, the thread that made an object counts references to it in a plain integer; every
//! other thread needs an atomic operation, on one cache line for all of them. Each callback refers to
//! its loop, so two shards that schedule all the time would wait for that line most of the time. A
//! handle that a shard of several makes for itself therefore refers to a `LoopOfShard`, which that
//! shard's thread made when its run began, and only that refers to the loop.

use crate::python::event_loop::EventLoop;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

/// The loop, for the handles that one thread makes during one run of a shard.
#[pyclass(frozen, module = "rloop._rloop")]
pub(crate) struct LoopOfShard(Py<EventLoop>);

impl LoopOfShard {
    /// Makes one that belongs to this thread; `None` if all threads of the loop are this one.
    pub(crate) fn create(event_loop: &Bound<'_, EventLoop>) -> PyResult<Option<Py<Self>>> {
        if event_loop.get().crew().is_none() {
            return Ok(None);
        }
        Py::new(event_loop.py(), Self(event_loop.clone().unbind())).map(Some)
    }
}

#[pymethods]
impl LoopOfShard {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

/// A strong reference to a loop.
pub(crate) enum Owner {
    Loop(Py<EventLoop>),
    Shard(Py<LoopOfShard>),
}

impl Owner {
    /// The cheapest reference for something whose home is shard `home`.
    pub(crate) fn of(event_loop: &Bound<'_, EventLoop>, home: u16) -> Self {
        let own = event_loop.get().own_loop(event_loop.py(), home);
        own.map_or_else(|| Self::Loop(event_loop.clone().unbind()), Self::Shard)
    }

    pub(crate) fn event_loop(&self) -> &Py<EventLoop> {
        match self {
            Self::Loop(event_loop) => event_loop,
            Self::Shard(own) => &own.get().0,
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Loop(event_loop) => visit.call(event_loop),
            Self::Shard(own) => visit.call(own),
        }
    }
}
