//! Methods of the program's objects that are called for each event.
//!
//! asyncio looks such a method up for each call, and programs rely on it: a protocol goes on to its next
//! state by replacing its `data_received`, a test puts a mock in the place of a method of an instance or
//! of a class. A lookup is 280 instructions, which is a tenth of an echoed message. So the function
//! is kept, and each call checks that a lookup would still find it, see [`Unchanged`].

use crate::py::ffi::instance::{Unchanged, class_version, is_unbound_method};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyMappingProxy, PyString};

/// A method of one object, as it was found last.
pub(crate) struct Method {
    /// What to call with the object as the first argument, while a lookup would find the same.
    function: Option<(Py<PyAny>, Unchanged)>,
    /// The version of the object's class at that time.
    class_version: u32,
}

impl Method {
    /// A method that nobody has looked for.
    pub(crate) const fn unknown() -> Self {
        Self { function: None, class_version: 0 }
    }

    /// Looks for a method without running Python code. If it cannot be kept, each call looks it up.
    pub(crate) fn find(object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> Self {
        // Before anything is asked of the class: what changes it meanwhile changes the version.
        let class_version = class_version(object);
        let found = || {
            let Some(function) = function_of(object, name)? else {
                return Ok(None);
            };
            let unchanged = Unchanged::describe(object, name, class_version)?;
            PyResult::Ok(unchanged.map(|unchanged| (function.unbind(), unchanged)))
        };
        // A failure is one of memory or of a metaclass. The lookup of the call shows it, if it lasts.
        Self { function: found().unwrap_or(None), class_version }
    }

    /// The function to call, if a lookup would find it.
    #[inline]
    pub(crate) fn function<'a, 'py>(
        &'a self,
        object: &Bound<'py, PyAny>,
    ) -> Option<&'a Bound<'py, PyAny>> {
        match &self.function {
            Some((function, unchanged)) if unchanged.holds(object) => {
                Some(function.bind(object.py()))
            }
            _ => None,
        }
    }

    /// True if `function()` has found nothing, and [`Method::find`] may find something.
    #[cold]
    pub(crate) fn is_outdated(&self, object: &Bound<'_, PyAny>) -> bool {
        self.function.is_some() || self.class_version != class_version(object)
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        let function = self.function.as_ref();
        Self {
            function: function.map(|(function, unchanged)| (function.clone_ref(py), *unchanged)),
            class_version: self.class_version,
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.function.as_ref().map(|(function, _)| function))
    }
}

/// What the classes of an object have under a name, if calling it with the object first is calling the
/// method.
fn function_of<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    for class in object.get_type().mro() {
        let namespace = class.getattr(intern!(object.py(), "__dict__"))?;
        let namespace = namespace.cast_into::<PyMappingProxy>()?;
        if namespace.contains(name)? {
            let found = namespace.get_item(name)?;
            return Ok(is_unbound_method(&found).then_some(found));
        }
    }
    Ok(None)
}
