//! How failures of the system become Python exceptions.

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use std::io;

/// The exception that Python's own modules raise for `error`: `OSError`, or its subclass for the
/// errno, with the errno and the system's message.
pub(crate) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let Some(errno) = error.raw_os_error() else {
        return PyOSError::new_err(error.to_string());
    };
    match py.import("os").and_then(|os| os.call_method1("strerror", (errno,))) {
        Ok(message) => PyOSError::new_err((errno, message.unbind())),
        Err(failed) => failed,
    }
}

/// Converts the error of a system call.
pub(crate) trait OrOsError<T> {
    /// # Errors
    /// [`os_error`] of the failure.
    fn or_os_error(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrOsError<T> for io::Result<T> {
    fn or_os_error(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| os_error(py, &error))
    }
}
