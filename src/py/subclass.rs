//! Native methods of the classes that this package derives from native ones.
//!
//! The interpreter specializes a call of a native method only if the class of the receiver is the
//! very one that the method was added to, which that of a subclass's instance never is. A call costs
//! 170 instructions more then, and the interpreter tries to specialize it again now and then. So the
//! classes whose instances a program gets, `TokioLoop` and the transports, have the methods that they
//! inherit from native classes as their own.
//!
//! Classes of the program that derive from them do not: a copy there would hide what a class between it and
//! `TokioLoop` defines, and what a test puts on `TokioLoop` later.

use crate::py::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyMapping, PyString, PyType};

/// The module whose classes are native.
const MODULE: &str = "rloop._rloop";

/// Gives a class the methods that it inherits from classes of this module as its own, and returns it.
/// What it or another base overrides stays as it is.
#[pyfunction(name = "_own_native_methods")]
pub(crate) fn own_native_methods(class: Bound<'_, PyType>) -> PyResult<Bound<'_, PyType>> {
    let py = class.py();
    for base in class.mro().iter().skip(1) {
        if !base.getattr(intern!(py, "__module__"))?.eq(MODULE)? {
            continue;
        }
        let namespace = base.getattr(intern!(py, "__dict__"))?;
        for name in namespace.cast::<PyMapping>()?.keys()? {
            ffi::own_method(&class, name.cast::<PyString>()?)?;
        }
    }
    Ok(class)
}
