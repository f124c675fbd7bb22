//! `Interrupt`: the exceptions that leave an iteration of the loop.
//!
//! Only `KeyboardInterrupt` and `SystemExit` do, as in asyncio. Any other exception that user code or the
//! kernel raises during an iteration is reported to the exception handler, and the loop goes on. The
//! types enforce this: every entry point that an iteration calls returns `Result<_, Interrupt>`, an
//! `Interrupt` is made in this module alone, and [`contain`] disposes of every other exception.

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;

/// A `KeyboardInterrupt` or a `SystemExit`.
#[derive(Debug)]
pub(crate) struct Interrupt(PyErr);

impl From<Interrupt> for PyErr {
    fn from(interrupt: Interrupt) -> Self {
        interrupt.0
    }
}

/// Gives back an exception that is to be reported.
///
/// # Errors
/// The exception as an [`Interrupt`], if it is one.
pub(crate) fn reportable(py: Python<'_>, error: PyErr) -> Result<PyErr, Interrupt> {
    if error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py) {
        Err(Interrupt(error))
    } else {
        Ok(error)
    }
}

/// Reports an exception unless it is an [`Interrupt`].
///
/// `report` calls code of the program and may raise itself, which asyncio lets out of `run_forever()`.
/// Here both exceptions go to `sys.unraisablehook` in that case.
///
/// # Errors
/// An interrupt: `error` itself, or one that `report` raises, with `error` as its context.
#[cold]
pub(crate) fn contain(
    py: Python<'_>,
    error: PyErr,
    report: impl FnOnce(PyErr) -> PyResult<()>,
) -> Result<(), Interrupt> {
    let error = reportable(py, error)?;
    let Err(failed) = report(error.clone_ref(py)) else {
        return Ok(());
    };
    match reportable(py, failed) {
        Ok(failed) => {
            error.write_unraisable(py, None);
            failed.write_unraisable(py, None);
            Ok(())
        }
        Err(interrupt) => {
            interrupt.0.set_context(py, Some(error));
            Err(interrupt)
        }
    }
}
