//! How failures of the system become Python exceptions.

use crate::py::{ffi, interrupt};
use pyo3::exceptions::{PyInterruptedError, PyMemoryError, PyOSError};
use pyo3::prelude::*;
use std::io;

/// The exception that Python's own modules raise for `error`: `OSError`, or its subclass for the
/// errno, with the errno and the system's message. Called without a lock.
pub(crate) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        // Python's own function would run the signal handlers, and return what they raise.
        Some(libc::EINTR) => PyInterruptedError::new_err((libc::EINTR, "Interrupted system call")),
        Some(errno) => ffi::os_error(py, errno),
        None if error.kind() == io::ErrorKind::OutOfMemory => PyMemoryError::new_err(()),
        None => PyOSError::new_err(error.to_string()),
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

/// Two steps of which the second is taken even if the first fails.
pub(crate) trait Finally {
    /// The outcome of both steps.
    ///
    /// # Errors
    /// The failure of the second step, with that of the first as its context, as after a `finally`
    /// clause. An interrupt of the first step stays an interrupt.
    fn finally(self, py: Python<'_>, second: PyResult<()>) -> PyResult<()>;
}

impl Finally for PyResult<()> {
    #[inline]
    fn finally(self, py: Python<'_>, second: PyResult<()>) -> PyResult<()> {
        match (self, second) {
            (Ok(()), outcome) | (outcome, Ok(())) => outcome,
            (Err(first), Err(second)) => Err(chained(py, first, second)),
        }
    }
}

/// The failure of two steps, see [`Finally`].
#[cold]
pub(crate) fn chained(py: Python<'_>, first: PyErr, second: PyErr) -> PyErr {
    match interrupt::reportable(py, first) {
        Ok(first) => {
            second.set_context(py, Some(first));
            second
        }
        Err(interrupt) => {
            second.write_unraisable(py, None);
            interrupt.into()
        }
    }
}
