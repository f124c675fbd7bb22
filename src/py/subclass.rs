//! What happens when a Python class derives from a native one, as every loop and transport does.
//!
//! The interpreter specializes a call of a native method only if the class of the receiver is the
//! very one that the method was added to, which that of a subclass's instance never is. A call costs
//! 170 instructions more then, and the interpreter tries to specialize it again now and then. So a
//! subclass gets the methods that it inherits as its own. What it defines itself stays as it is.

use crate::py::ffi;
use pyo3::PyTypeInfo;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyMapping, PyString, PySuper, PyType};

/// Gives the native class `T` its `__init_subclass__()`, which passes the keywords on to the next
/// class in the method resolution order.
///
/// # Errors
/// What the interpreter raises.
pub(crate) fn prepare<T: PyTypeInfo>(py: Python<'_>) -> PyResult<()> {
    let name = c"__init_subclass__";
    let function = PyCFunction::new_closure(py, Some(name), None, |arguments, keywords| {
        let class = arguments.get_item(0)?;
        init::<T>(class.cast()?, keywords)
    })?;
    let method = PyModule::import(py, "builtins")?.getattr("classmethod")?.call1((function,))?;
    py.get_type::<T>().setattr("__init_subclass__", method)
}

fn init<T: PyTypeInfo>(
    class: &Bound<'_, PyType>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let native = class.py().get_type::<T>();
    PySuper::new(&native, class)?.call_method("__init_subclass__", (), keywords)?;
    let namespace = native.getattr(intern!(class.py(), "__dict__"))?;
    for name in namespace.cast::<PyMapping>()?.keys()? {
        ffi::own_method(class, name.cast::<PyString>()?)?;
    }
    Ok(())
}
