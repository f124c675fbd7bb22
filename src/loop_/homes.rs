//! Homes: which shard of a loop a callback, a task or a transport belongs to.
//!
//! The home travels in the `contextvars` context: a private variable names the shard. Tasks, done
//! callbacks, timers and transports all carry a context, so whatever a task starts, and whatever
//! wakes it, finds its home there. A context that names no shard of the loop in question is given
//! one when the loop first sees it: the shard of the calling thread, or shard 0 for a thread that
//! is none. From then on it has that home for life.
//!
//! A loop of one shard looks at none of this.

use crate::loop_::owner::LoopOfShard;
use crate::py::{ffi, imports};
use pyo3::exceptions::{PyKeyError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyContext;

/// The homes that a loop of several shards hands out.
pub(crate) struct Homes {
    /// A context variable of this loop alone. Its value is the index of a shard: a small integer, which
    /// refers to nothing, because contexts outlive loops, and which no thread counts references to.
    variable: Py<PyAny>,
    by_index: Box<[Py<PyAny>]>,
    /// For each shard a context that names it and has no other variable. Nobody enters these, so any
    /// thread may copy them.
    contexts: Box<[Py<PyContext>]>,
}

impl Homes {
    pub(crate) fn new(py: Python<'_>, count: u16) -> PyResult<Self> {
        let variable = imports::CONTEXT_VARIABLE.get(py)?.call1(("rloop home",))?.unbind();
        let by_index = (0..count)
            .map(|index| Ok(index.into_pyobject(py)?.into_any().unbind()))
            .collect::<PyResult<_>>()?;
        let mut homes = Self { variable, by_index, contexts: Box::default() };
        homes.contexts = (0..count)
            .map(|index| {
                let context = ffi::new_context(py)?;
                homes.set(&context, index)?;
                Ok(context.unbind())
            })
            .collect::<PyResult<_>>()?;
        Ok(homes)
    }

    /// What a context that names shard `index` holds.
    pub(crate) fn name(&self, py: Python<'_>, index: u16) -> Py<PyAny> {
        self.by_index[usize::from(index)].clone_ref(py)
    }

    /// A new context that names shard `index` and has no other variable.
    pub(crate) fn context(&self, py: Python<'_>, index: u16) -> PyResult<Py<PyContext>> {
        ffi::copy_of_context(self.contexts[usize::from(index)].bind(py))
    }

    /// The home that the current context names. The shard of this thread, `here`, is the likely one.
    pub(crate) fn of_current_context(
        &self,
        py: Python<'_>,
        here: Option<&LoopOfShard>,
    ) -> PyResult<Option<u16>> {
        let value = ffi::context_variable(self.variable.bind(py))?;
        Ok(value.and_then(|value| index(&value, here)))
    }

    /// The home that `context` names. The shard of this thread, `here`, is the likely one.
    pub(crate) fn of(
        &self,
        context: &Bound<'_, PyContext>,
        here: Option<&LoopOfShard>,
    ) -> PyResult<Option<u16>> {
        // An item instead of `get()`: 280 instructions less, and a context has none only once.
        match context.get_item(&self.variable) {
            Ok(value) => Ok(index(&value, here)),
            Err(error) if error.is_instance_of::<PyKeyError>(context.py()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the current context name shard `index`.
    pub(crate) fn set_current(&self, py: Python<'_>, index: u16) -> PyResult<()> {
        self.put(py, index).map(|_| ())
    }

    fn put<'py>(&self, py: Python<'py>, index: u16) -> PyResult<Bound<'py, PyAny>> {
        let home = self.by_index[usize::from(index)].bind(py);
        ffi::set_context_variable(self.variable.bind(py), home)
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
                if self.of(context, None)?.is_none() {
                    // Another thread runs in it; what that starts has that thread's home.
                    self.variable.bind(py).call_method1(intern!(py, "reset"), (token,))?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The index that `value` says. That of `here` is compared first, which is a third of the cost.
fn index(value: &Bound<'_, PyAny>, here: Option<&LoopOfShard>) -> Option<u16> {
    match here {
        Some(here) if here.is_named_by(value) => Some(here.index),
        _ => value.extract().ok(),
    }
}
