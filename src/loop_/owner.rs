//! What a handle refers to its loop by.
//!
//! Without the GIL, the thread that made an object counts references to it in a plain integer; every
//! other thread needs an atomic operation, on one cache line for all of them. Each callback refers to
//! its loop, so two shards that schedule all the time would wait for that line most of the time. A
//! handle that a shard of several makes for itself therefore refers to a `LoopOfShard`, which that
//! shard's thread made when its run began, and only that refers to the loop.

use crate::loop_::event_loop::EventLoop;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

/// The loop, for the handles that one thread makes during one run of a shard.
#[pyclass(frozen, module = "rloop._rloop")]
pub(crate) struct LoopOfShard {
    event_loop: Py<EventLoop>,
    /// The index of the shard, as contexts name it.
    name: Py<PyAny>,
    /// The index of the shard.
    pub(crate) index: u16,
}

impl LoopOfShard {
    /// Makes one that belongs to this thread; `None` if all threads of the loop are this one.
    pub(crate) fn create(
        event_loop: &Bound<'_, EventLoop>,
        index: u16,
    ) -> PyResult<Option<Py<Self>>> {
        let py = event_loop.py();
        let Some(crew) = event_loop.get().crew() else {
            return Ok(None);
        };
        let name = crew.homes.name(py, index);
        Py::new(py, Self { event_loop: event_loop.clone().unbind(), name, index }).map(Some)
    }

    /// True if `value`, found in a context, names this shard. May be false for an equal integer.
    pub(crate) fn is_named_by(&self, value: &Bound<'_, PyAny>) -> bool {
        self.name.is(value)
    }
}

#[pymethods]
impl LoopOfShard {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

/// A strong reference to a loop.
pub(crate) enum Owner {
    Loop(Py<EventLoop>),
    Shard(Py<LoopOfShard>),
}

impl Owner {
    /// The cheapest reference for something whose home is shard `home`, made on the shard of `here`.
    pub(crate) fn new(
        event_loop: &Bound<'_, EventLoop>,
        here: Option<Py<LoopOfShard>>,
        home: u16,
    ) -> Self {
        match here {
            Some(here) if here.get().index == home => Self::Shard(here),
            _ => Self::Loop(event_loop.clone().unbind()),
        }
    }

    pub(crate) fn event_loop(&self) -> &Py<EventLoop> {
        match self {
            Self::Loop(event_loop) => event_loop,
            Self::Shard(own) => &own.get().event_loop,
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Loop(event_loop) => visit.call(event_loop),
            Self::Shard(own) => visit.call(own),
        }
    }
}
