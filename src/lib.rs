//! The extension module `rloop._rloop`: the native half of `TokioLoop`.
//!
//! Imports point one way: `rloop_core` (pure logic) ← [`runtime`] (tokio, sockets) ← [`shard`] (one
//! iteration) ← [`transport`] and [`sock`] ← [`loop_`]. Unsafe code stands in `runtime::sys` and `py::ffi`
//! only.

mod loop_;
mod py;
mod runtime;
mod shard;
mod sock;
mod transport;

use pyo3::prelude::*;

/// The native half of `rloop.TokioLoop`.
#[pymodule(gil_used = false)]
mod _rloop {
    #[pymodule_export]
    use crate::loop_::event_loop::EventLoop;
    #[pymodule_export]
    use crate::loop_::handle::{Handle, ThreadSafeHandle, TimerHandle};
    use crate::py::ffi;
    use crate::py::ffi::instance;
    #[pymodule_export]
    use crate::py::subclass::own_native_methods;
    use crate::runtime::process;
    use crate::shard::exit;
    #[pymodule_export]
    use crate::shard::worker::Worker;
    #[pymodule_export]
    use crate::transport::datagram::DatagramTransport;
    #[pymodule_export]
    use crate::transport::pipe::{ReadPipeTransport, WritePipeTransport};
    #[pymodule_export]
    use crate::transport::stream::StreamTransport;
    #[pymodule_export]
    use crate::transport::tls::rustls::{RustlsObject, RustlsSetup};
    #[pymodule_export]
    use crate::transport::tls::{TlsProtocol, TlsTransport};
    use crate::transport::{stream, tls};
    use pyo3::prelude::*;
    use pyo3::types::{PyDict, PyType};

    /// Distribution and version; `rloop/_installation.py` refuses a module with another one.
    #[pymodule_export]
    const BUILD: &str = concat!("tokioloop ", env!("CARGO_PKG_VERSION"));

    /// Called in the child of a `fork()`.
    #[pyfunction]
    fn _after_fork_in_child() {
        process::after_fork_in_child();
    }

    /// Whether methods of protocols are kept between events, for the tests: the layout of instances is known.
    #[pyfunction]
    fn _keeps_methods(py: Python<'_>) -> PyResult<bool> {
        instance::layout_is_known(py)
    }

    /// Called by `atexit`.
    #[pyfunction]
    fn _park_running_loops(py: Python<'_>) {
        exit::park_all(py);
    }

    /// Makes a dict an instance of another class with the layout of dict.
    #[pyfunction]
    fn _set_dict_class(mapping: &Bound<'_, PyDict>, cls: &Bound<'_, PyType>) -> PyResult<()> {
        ffi::set_dict_class(mapping, cls)
    }

    #[pymodule_init]
    fn finish_classes(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        // Each callback makes an instance of one of these.
        ffi::make_immortal::<Handle>(py);
        ffi::make_immortal::<ThreadSafeHandle>(py);
        ffi::make_immortal::<TimerHandle>(py);
        ffi::add_one_argument_method::<stream::Write>(py)?;
        ffi::add_one_argument_method::<tls::Write>(py)
    }
}
