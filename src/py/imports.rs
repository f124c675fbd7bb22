//! The Python objects that Rust looks up by name. No other file imports by string.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// A module, or what stands under a dotted name in it, looked up once.
pub(crate) struct Import {
    module: &'static str,
    name: &'static str,
    value: PyOnceLock<Py<PyAny>>,
}

impl Import {
    const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name, value: PyOnceLock::new() }
    }

    const fn module(module: &'static str) -> Self {
        Self::new(module, "")
    }

    /// The object. The first call imports the module.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        let value = self.value.get_or_try_init(py, || {
            let module = py.import(self.module)?.into_any();
            // No name at all is the module itself.
            let mut names = self.name.split_terminator('.');
            PyResult::Ok(names.try_fold(module, |owner, name| owner.getattr(name))?.unbind())
        })?;
        Ok(value.bind(py))
    }

    /// The object as a class.
    pub(crate) fn class<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyType>> {
        Ok(self.get(py)?.cast::<PyType>()?)
    }
}

pub(crate) static HANDLE: Import = Import::new("asyncio", "Handle");
pub(crate) static THREAD_SAFE_HANDLE: Import = Import::new("asyncio.events", "_ThreadSafeHandle");
pub(crate) static TIMER_HANDLE: Import = Import::new("asyncio", "TimerHandle");
/// The class that asyncio itself asks for before it falls back to `sendfile()` by reading.
pub(crate) static TRANSPORT: Import = Import::new("asyncio.transports", "_FlowControlMixin");
pub(crate) static BUFFERED_PROTOCOL: Import = Import::new("asyncio", "BufferedProtocol");
/// Modules whose classes `asyncio` looks up at each call, so that others can be put in their place.
pub(crate) static FUTURES: Import = Import::module("asyncio.futures");
pub(crate) static TASKS: Import = Import::module("asyncio.tasks");
pub(crate) static CREATE_TASK: Import = Import::new("asyncio", "BaseEventLoop.create_task");
pub(crate) static EXTRACT_STACK: Import = Import::new("asyncio.format_helpers", "extract_stack");
pub(crate) static FORMAT_CALLBACK_SOURCE: Import =
    Import::new("asyncio.format_helpers", "_format_callback_source");
pub(crate) static FORMAT_HANDLE: Import = Import::new("asyncio.base_events", "_format_handle");
pub(crate) static SET_RESULT_UNLESS_CANCELLED: Import =
    Import::new("asyncio.futures", "_set_result_unless_cancelled");
pub(crate) static SELECTOR_SOCKET_TRANSPORT: Import =
    Import::new("asyncio.selector_events", "_SelectorSocketTransport");
pub(crate) static CHECK_SSL_SOCKET: Import =
    Import::new("asyncio.base_events", "_check_ssl_socket");
pub(crate) static SELECTOR_DATAGRAM_TRANSPORT: Import =
    Import::new("asyncio.selector_events", "_SelectorDatagramTransport");
pub(crate) static READ_PIPE_TRANSPORT: Import =
    Import::new("asyncio.unix_events", "_UnixReadPipeTransport");
pub(crate) static WRITE_PIPE_TRANSPORT: Import =
    Import::new("asyncio.unix_events", "_UnixWritePipeTransport");
pub(crate) static INET_NTOP: Import = Import::new("socket", "inet_ntop");
/// The classes that the native TLS protocol and transport stand in for.
pub(crate) static SSL_PROTOCOL: Import = Import::new("asyncio.sslproto", "SSLProtocol");
pub(crate) static SSL_TRANSPORT: Import = Import::new("asyncio.sslproto", "_SSLProtocolTransport");
pub(crate) static CANCELLED_ERROR: Import = Import::new("asyncio", "CancelledError");
pub(crate) static SSL_OBJECT: Import = Import::new("ssl", "SSLObject");
pub(crate) static SSL_ERROR: Import = Import::new("ssl", "SSLError");
pub(crate) static SSL_CERTIFICATE_ERROR: Import = Import::new("ssl", "CertificateError");
pub(crate) static SSL_SYSCALL_ERROR: Import = Import::new("ssl", "SSLSyscallError");
pub(crate) static SSL_WANT_READ_ERROR: Import = Import::new("ssl", "SSLWantReadError");
pub(crate) static SSL_EOF_ERROR: Import = Import::new("ssl", "SSLEOFError");
pub(crate) static SSL_ZERO_RETURN_ERROR: Import = Import::new("ssl", "SSLZeroReturnError");
pub(crate) static CLOCK_INFO: Import = Import::new("time", "get_clock_info");
pub(crate) static CONTEXT_VARIABLE: Import = Import::new("contextvars", "ContextVar");
pub(crate) static SOCKET: Import = Import::new("socket", "socket");
pub(crate) static GET_FRAME: Import = Import::new("sys", "_getframe");
pub(crate) static CHECK_WAITING: Import = Import::new("rloop._misuse", "check_waiting");
pub(crate) static CHECK_WAKING: Import = Import::new("rloop._misuse", "check_waking");

/// asyncio's logger, as `asyncio.base_events` has it now: tests put another in its place.
pub(crate) fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("asyncio.base_events")?.getattr("logger")
}
