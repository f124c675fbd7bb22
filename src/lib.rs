//! The extension module `rloop._rloop`: the native half of `TokioLoop`.
//!
//! Three rings, imports point inwards: `rloop_core` (pure logic) ← [`driving`] (tokio, sockets) ←
//! [`python`] (`PyO3`). Unsafe code stands in `sys` and `python::ffi` only.

mod driving;
mod python;
mod sys;

use pyo3::prelude::*;

/// The native half of `rloop.TokioLoop`.
#[pymodule(gil_used = false)]
mod _rloop {
    use crate::driving::process;
    #[pymodule_export]
    use crate::python::datagram::DatagramTransport;
    #[pymodule_export]
    use crate::python::event_loop::EventLoop;
    #[pymodule_export]
    use crate::python::handle::{Handle, ThreadSafeHandle, TimerHandle};
    #[pymodule_export]
    use crate::python::pipe::{ReadPipeTransport, WritePipeTransport};
    #[pymodule_export]
    use crate::python::rustls::{RustlsObject, RustlsSetup};
    #[pymodule_export]
    use crate::python::stream::StreamTransport;
    #[pymodule_export]
    use crate::python::tls::{TlsProtocol, TlsTransport};
    #[pymodule_export]
    use crate::python::worker::Worker;
    use crate::python::{exit, ffi, stream, subclass, tls};
    use pyo3::prelude::*;

    /// Called in the child of a `fork()`.
    #[pyfunction]
    fn _after_fork_in_child() {
        process::after_fork_in_child();
    }

    /// Called by `atexit`.
    #[pyfunction]
    fn _park_running_loops(py: Python<'_>) {
        exit::park_all(py);
    }

    #[pymodule_init]
    fn finish_classes(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        // Each callback makes an instance of one of these.
        ffi::make_immortal::<Handle>(py);
        ffi::make_immortal::<ThreadSafeHandle>(py);
        ffi::make_immortal::<TimerHandle>(py);
        ffi::add_one_argument_method::<stream::Write>(py)?;
        ffi::add_one_argument_method::<tls::Write>(py)?;
        subclass::prepare::<DatagramTransport>(py)?;
        subclass::prepare::<EventLoop>(py)?;
        subclass::prepare::<ReadPipeTransport>(py)?;
        subclass::prepare::<StreamTransport>(py)?;
        subclass::prepare::<TlsTransport>(py)?;
        subclass::prepare::<WritePipeTransport>(py)
    }
}
