//! The argument of `write()`: bytes-like objects, snapshotted when they have to wait.

use crate::py::ffi::SharedBytes;
use crate::py::{ffi, imports};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use std::io;

/// What the socket method that receives into a buffer calls it in an error.
pub(crate) const TARGET_OF_RECV_INTO: &str = "recv_into() argument 1";

/// Checks that `data` is what `write()` takes.
///
/// # Errors
/// `TypeError`, worded as the running Python version words it.
pub(crate) fn check(data: &Bound<'_, PyAny>) -> PyResult<()> {
    // A class that has no subclasses is recognized without a call.
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyMemoryView>()
        || data.is_instance_of::<PyByteArray>()
    {
        return Ok(());
    }
    // asyncio's own check comes before anything else that its method does with the transport.
    let refused = imports::SELECTOR_SOCKET_TRANSPORT
        .class(data.py())?
        .call_method1(intern!(data.py(), "write"), (data.py().None(), data));
    match refused {
        Err(error) if error.is_instance_of::<PyTypeError>(data.py()) => Err(error),
        _ => Err(PyTypeError::new_err(format!(
            "data argument must be a bytes-like object, not '{}'",
            data.get_type().name()?
        ))),
    }
}

/// `data` as `bytes`, if those are the bytes that the buffer protocol gives. They do not change.
pub(crate) fn as_bytes<'a, 'py>(data: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyBytes>> {
    data.cast_exact().ok().or_else(|| data.cast().ok().filter(|bytes| ffi::exports_itself(bytes)))
}

/// Whether an object that is to be written is false, as asyncio asks. False for plain `bytes`, whose length
/// says it: the length and the buffer of others may be methods of the program.
pub(crate) fn is_false(data: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(!data.is_exact_instance_of::<PyBytes>() && !data.is_truthy()?)
}

/// The bytes of `data` as they are now. A `bytes` object is shared, anything else copied.
pub(crate) fn snapshot(data: &Bound<'_, PyAny>) -> PyResult<SharedBytes> {
    if let Some(bytes) = as_bytes(data) {
        return Ok(SharedBytes::new(bytes));
    }
    let copy = ffi::with_bytes(data, |bytes| ffi::new_bytes(data.py(), bytes))??;
    Ok(SharedBytes::new(&copy))
}

/// Bytes that wait to be sent. Made without running Python code, so under a transport's lock, too.
pub(crate) enum Chunk {
    Shared(SharedBytes),
    Copied(Box<[u8]>),
}

impl Chunk {
    /// A copy of `bytes`.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`].
    pub(crate) fn copy(bytes: &[u8]) -> io::Result<Self> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len())?;
        copy.extend_from_slice(bytes);
        Ok(Self::Copied(copy.into()))
    }

    /// The bytes as an object.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match self {
            Self::Shared(bytes) => Ok(bytes.object(py).clone()),
            Self::Copied(bytes) => ffi::new_bytes(py, bytes),
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes.as_ref(),
            Self::Copied(bytes) => bytes,
        }
    }
}
