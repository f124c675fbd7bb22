//! Protocol methods that are called per packet.

use crate::py::imports;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

/// A protocol method that is called per packet, looked up once.
///
/// A bound method is taken apart: the call then passes the receiver as the first argument, instead
/// of going through a method object that does the same (about 50 instructions).
pub(crate) enum PacketMethod {
    Bound { function: Py<PyAny>, receiver: Py<PyAny> },
    Callable(Py<PyAny>),
}

impl PacketMethod {
    pub(crate) fn new(callable: Bound<'_, PyAny>) -> PyResult<Self> {
        let py = callable.py();
        if callable.get_type().is(imports::METHOD.get(py)?) {
            return Ok(Self::Bound {
                function: callable.getattr(intern!(py, "__func__"))?.unbind(),
                receiver: callable.getattr(intern!(py, "__self__"))?.unbind(),
            });
        }
        Ok(Self::Callable(callable.unbind()))
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Bound { function, receiver } => {
                Self::Bound { function: function.clone_ref(py), receiver: receiver.clone_ref(py) }
            }
            Self::Callable(callable) => Self::Callable(callable.clone_ref(py)),
        }
    }

    #[inline]
    pub(crate) fn call<'py>(&self, argument: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = argument.py();
        match self {
            Self::Bound { function, receiver } => {
                function.bind(py).call1((receiver.bind(py), argument))
            }
            Self::Callable(callable) => callable.bind(py).call1((argument,)),
        }
    }

    /// Calls the method with a number of bytes.
    #[inline]
    pub(crate) fn call_with_count<'py>(
        &self,
        py: Python<'py>,
        count: isize,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.call(count.into_pyobject(py)?.as_any())
    }

    /// Calls the method with two arguments.
    pub(crate) fn call_with<'py>(
        &self,
        first: &Bound<'py, PyAny>,
        second: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = first.py();
        match self {
            Self::Bound { function, receiver } => {
                function.bind(py).call1((receiver.bind(py), first, second))
            }
            Self::Callable(callable) => callable.bind(py).call1((first, second)),
        }
    }

    pub(crate) fn visit(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Bound { function, receiver } => {
                visit.call(function)?;
                visit.call(receiver)
            }
            Self::Callable(callable) => visit.call(callable),
        }
    }
}
