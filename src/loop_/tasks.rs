//! Futures and tasks of the loop. They are CPython's own; only the call that makes one is native,
//! because a program makes one per request or per wait.

use crate::loop_::event_loop::EventLoop;
use crate::py::imports;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// `loop.create_future()`
pub(crate) fn create_future<'py>(slf: &Bound<'py, EventLoop>) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "loop"), slf)?;
    imports::FUTURES.get(py)?.getattr(intern!(py, "Future"))?.call((), Some(&keywords))
}

/// `loop.create_task(coro, **keywords)`
///
/// What a task factory, debug mode or an unknown argument asks for is left to the standard library's
/// method.
pub(crate) fn create_task<'py>(
    slf: &Bound<'py, EventLoop>,
    coro: &Bound<'py, PyAny>,
    keywords: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    slf.get().check_closed()?;
    let is_plain = !slf.get().is_debug()
        && has_known_names(keywords)?
        && slf.as_any().getattr(intern!(py, "_task_factory"))?.is_none();
    if !is_plain {
        return imports::CREATE_TASK.get(py)?.call((slf, coro), keywords);
    }
    let keywords = match keywords {
        Some(keywords) => keywords.clone(),
        None => PyDict::new(py),
    };
    keywords.set_item(intern!(py, "loop"), slf)?;
    imports::TASKS.get(py)?.getattr(intern!(py, "Task"))?.call((coro,), Some(&keywords))
}

/// True if these are arguments of the standard library's method. (Those of `Task` were more before
/// Python 3.14.)
fn has_known_names(keywords: Option<&Bound<'_, PyDict>>) -> PyResult<bool> {
    let Some(keywords) = keywords else {
        return Ok(true);
    };
    let py = keywords.py();
    let mut known = usize::from(keywords.contains(intern!(py, "name"))?)
        + usize::from(keywords.contains(intern!(py, "context"))?);
    if known < keywords.len() && cfg!(Py_3_14) {
        known += usize::from(keywords.contains(intern!(py, "eager_start"))?);
    }
    Ok(known == keywords.len())
}
