//! What happens when a Python class derives from a native one, as every loop and transport does.
//!
//! The interpreter specializes a call of a native method only if the class of the receiver is the
//! very one that the method was added to, which that of a subclass's instance never is. A call costs
//! 170 instructions more then, and the interpreter tries to specialize it again now and then. So a
//! subclass gets the methods that it inherits as its own. What it defines itself stays as it is.

use crate::python::ffi;
use pyo3::PyTypeInfo;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping, PyString, PySuper, PyType};

/// `__init_subclass__()` of the native class `T`.
///
/// # Errors
/// What the next class in the method resolution order raises.
pub(crate) fn init<T: PyTypeInfo>(
    class: &Bound<'_, PyType>,
    arguments: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let native = class.py().get_type::<T>();
    PySuper::new(&native, class)?.call_method("__init_subclass__", (), arguments)?;
    let namespace = native.getattr(intern!(class.py(), "__dict__"))?;
    for name in namespace.cast::<PyMapping>()?.keys()? {
        ffi::own_method(class, name.cast::<PyString>()?)?;
    }
    Ok(())
}
