//! Homes: which shard of a loop a callback, a task or a transport belongs to.
//!
//! The home travels in the `contextvars` context: a private variable names the shard. Tasks, done
//! callbacks, timers and transports all carry a context, so whatever a task starts, and whatever
//! wakes it, finds its home there. A context that names no shard of the loop in question is given
//! one when the loop first sees it: the shard of the calling thread, or shard 0 for a thread that
//! is none. From then on it has that home for life.
//!
//! A loop of one shard looks at none of this.

use crate::python::{ffi, imports};
use pyo3::exceptions::{PyKeyError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyContext;

/// What the context variable holds. It refers to nothing, because contexts outlive loops.
#[pyclass(frozen, module = "rloop._rloop")]
pub(crate) struct Home {
    loop_number: u64,
    index: u16,
}

fn variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let variable = VARIABLE.get_or_try_init(py, || {
        PyResult::Ok(imports::CONTEXT_VARIABLE.get(py)?.call1(("rloop home",))?.unbind())
    })?;
    Ok(variable.bind(py))
}

/// The homes that a loop of several shards hands out.
pub(crate) struct Homes {
    loop_number: u64,
    by_index: Box<[Py<Home>]>,
}

impl Homes {
    pub(crate) fn new(py: Python<'_>, loop_number: u64, count: u16) -> PyResult<Self> {
        let by_index = (0..count)
            .map(|index| Py::new(py, Home { loop_number, index }))
            .collect::<PyResult<_>>()?;
        Ok(Self { loop_number, by_index })
    }

    fn index(&self, value: &Bound<'_, PyAny>) -> Option<u16> {
        let home = value.cast::<Home>().ok()?.get();
        (home.loop_number == self.loop_number).then_some(home.index)
    }

    /// The home that the current context names.
    pub(crate) fn of_current_context(&self, py: Python<'_>) -> PyResult<Option<u16>> {
        Ok(ffi::context_variable(variable(py)?)?.and_then(|value| self.index(&value)))
    }

    /// The home that `context` names.
    pub(crate) fn of(&self, context: &Bound<'_, PyContext>) -> PyResult<Option<u16>> {
        // An item instead of `get()`: 280 instructions less, and a context has none only once.
        match context.get_item(variable(context.py())?) {
            Ok(value) => Ok(self.index(&value)),
            Err(error) if error.is_instance_of::<PyKeyError>(context.py()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the current context name shard `index`.
    pub(crate) fn set_current(&self, py: Python<'_>, index: u16) -> PyResult<()> {
        self.put(py, index).map(|_| ())
    }

    fn put<'py>(&self, py: Python<'py>, index: u16) -> PyResult<Bound<'py, PyAny>> {
        let home = &self.by_index[usize::from(index)];
        variable(py)?.call_method1(intern!(py, "set"), (home,))
    }

    /// Makes `context` name shard `index`.
    pub(crate) fn set(&self, context: &Bound<'_, PyContext>, index: u16) -> PyResult<()> {
        let py = context.py();
        let set = || self.put(py, index);
        match ffi::in_context(context, set) {
            Ok(_) => Ok(()),
            // The context is entered. If it is the current one, it is changed from inside.
            Err(error) if error.is_instance_of::<PyRuntimeError>(py) => {
                let token = set()?;
                if self.of(context)?.is_none() {
                    // Another thread runs in it; what that starts has that thread's home.
                    variable(py)?.call_method1(intern!(py, "reset"), (token,))?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
