//! The Python fence: C-API calls that PyO3 does not wrap.
//!
//! Everything else in this crate goes through PyO3's safe API.
#![allow(unsafe_code, reason = "this module is one of the two fences")]

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyTuple};

/// A copy of the current context, as `contextvars.copy_context()`.
pub(crate) fn copy_context(py: Python<'_>) -> PyResult<Py<PyContext>> {
    // SAFETY: `py` proves that the thread is attached.
    let pointer = unsafe { ffi::PyContext_CopyCurrent() };
    // SAFETY: the call returns a new reference, or null with an exception set.
    let context = unsafe { Bound::from_owned_ptr_or_err(py, pointer) }?;
    Ok(context.cast_into::<PyContext>()?.unbind())
}

/// Runs `operation` inside `context`, as `Context.run` does.
///
/// # Errors
/// `RuntimeError` if the context is entered already; else what `operation` returns.
pub(crate) fn in_context<'py, R>(
    context: &Bound<'py, PyContext>,
    operation: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    let py = context.py();
    // SAFETY: `context` is a context object, and the thread is attached.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let _exit = ExitContext(context);
    operation()
}

/// Leaves the context, on unwinding as well.
struct ExitContext<'a, 'py>(&'a Bound<'py, PyContext>);

impl Drop for ExitContext<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: `in_context` entered this context on this thread, and it is attached again or
        // still whenever a `Bound` is alive.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } != 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(self.0));
        }
    }
}

/// Calls `callback(*arguments)` inside `context`.
pub(crate) fn call_in_context<'py>(
    context: &Bound<'py, PyContext>,
    callback: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    in_context(context, || callback.call1(arguments))
}

/// Runs `operation` on the bytes of a bytes-like object, without copying them.
///
/// Another thread may change a mutable object meanwhile; as with `socket.send`, which releases the
/// GIL over the same memory, the bytes are then unspecified. They go to the kernel or into a copy,
/// and nothing is decided from their values.
///
/// # Errors
/// What the buffer protocol raises, and `BufferError` if the memory is not contiguous.
pub(crate) fn with_bytes<R>(object: &Bound<'_, PyAny>, operation: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    let buffer = PyUntypedBuffer::get(object)?;
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("memoryview: underlying buffer is not C-contiguous"));
    }
    if buffer.len_bytes() == 0 {
        return Ok(operation(&[]));
    }
    // SAFETY: the buffer is contiguous, so `len_bytes` bytes at `buf_ptr` are readable while
    // `buffer` keeps the export; see above for concurrent changes.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) };
    Ok(operation(bytes))
}

/// Runs `operation` on the writable bytes of a buffer that a protocol handed out.
///
/// # Errors
/// What the buffer protocol raises, and `TypeError` if the memory is read-only or not contiguous.
pub(crate) fn with_writable_bytes<R>(
    object: &Bound<'_, PyAny>,
    operation: impl FnOnce(&mut [u8]) -> R,
) -> PyResult<R> {
    let buffer = PyUntypedBuffer::get(object)?;
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(PyTypeError::new_err(format!(
            "get_buffer() must return a read-write contiguous bytes-like object, not {}",
            object.get_type().name()?
        )));
    }
    if buffer.len_bytes() == 0 {
        return Ok(operation(&mut []));
    }
    // SAFETY: the buffer is contiguous and writable, so `len_bytes` bytes at `buf_ptr` may be
    // written while `buffer` keeps the export. The protocol gave them away until buffer_updated().
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) };
    Ok(operation(bytes))
}
