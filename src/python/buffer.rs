//! What `write()` accepts: bytes-like objects, snapshotted when they have to wait.

use crate::python::ffi;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

/// Checks that `data` is what `write()` takes.
///
/// # Errors
/// `TypeError`, worded as the running Python version words it.
pub(crate) fn check(data: &Bound<'_, PyAny>) -> PyResult<()> {
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        return Ok(());
    }
    let expected = if data.py().version_info() >= (3, 13) {
        "a bytes, bytearray, or memoryview object"
    } else {
        "a bytes-like object"
    };
    let found = data.get_type().name()?;
    Err(PyTypeError::new_err(format!("data argument must be {expected}, not '{found}'")))
}

/// The bytes of `data` as they are now. A `bytes` object is shared, anything else copied.
pub(crate) fn snapshot(data: &Bound<'_, PyAny>) -> PyResult<PyBackedBytes> {
    if let Ok(bytes) = data.cast::<PyBytes>() {
        return Ok(bytes.clone().into());
    }
    let copy = ffi::with_bytes(data, |bytes| PyBytes::new(data.py(), bytes))?;
    Ok(copy.into())
}
