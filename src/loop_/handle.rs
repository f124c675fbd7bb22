//! `Handle` and `TimerHandle`: a callback that is scheduled.
//!
//! They are not subclasses of asyncio's classes, whose slots would make each handle 48 bytes larger
//! and cost a Python-level constructor; `__class__` makes `isinstance()` true all the same. A handle
//! belongs to the loop's shard `home` for life. Any thread may cancel it; a callback that has not
//! started by then never starts.

use crate::loop_::event_loop::EventLoop;
use crate::loop_::owner::Owner;
use crate::py::interrupt::{self, Interrupt};
use crate::py::{ffi, imports};
use pyo3::basic::CompareOp;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyList, PyTuple, PyType};
use rloop_core::sync::{Monitor, Mutex};
use rloop_core::timers::Cancelled;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// What a handle calls, until it is cancelled.
struct Call {
    callback: Py<PyAny>,
    arguments: Py<PyTuple>,
}

/// What a cancelled handle of a loop in debug mode is shown as.
type SavedRepr = Option<String>;

/// A callback wrapper object returned by `loop.call_soon()` and `loop.call_soon_threadsafe()`.
///
/// Any thread may call its methods.
#[pyclass(frozen, subclass, weakref, module = "rloop._rloop")]
pub(crate) struct Handle {
    call: Mutex<(Option<Call>, SavedRepr)>,
    cancelled: AtomicBool,
    context: Py<PyContext>,
    owner: Owner,
    /// Where the handle was made; only in debug mode.
    source_traceback: Option<Py<PyList>>,
    /// Only for `call_soon_threadsafe()`.
    running: Option<Box<RunGuard>>,
    home: u16,
}

/// How often a wait for a callback of another thread handles signals. A signal does not end the wait.
const TIME_BETWEEN_SIGNAL_CHECKS: Duration = Duration::from_millis(50);

/// Which thread runs the callback, so that others can wait for it.
struct RunGuard(Monitor<Option<ThreadId>>);

impl RunGuard {
    fn new() -> Self {
        Self(Monitor::new(None))
    }

    /// Waits until no other thread runs the callback. Detaches meanwhile.
    ///
    /// # Errors
    /// What a signal handler raised.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        let current = std::thread::current().id();
        let is_over = |thread: Option<ThreadId>| thread.is_none_or(|thread| thread == current);
        if self.0.read(|thread| is_over(*thread)) {
            return Ok(());
        }
        loop {
            let deadline = Instant::now() + TIME_BETWEEN_SIGNAL_CHECKS;
            let waited =
                py.detach(|| self.0.wait_until(deadline, |thread| is_over(*thread).then_some(())));
            if waited.is_some() {
                return Ok(());
            }
            py.check_signals()?;
        }
    }

    fn begin(&self) -> Running<'_> {
        self.0.change(|thread| *thread = Some(std::thread::current().id()));
        Running(self)
    }
}

/// The callback runs.
struct Running<'a>(&'a RunGuard);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.change(|thread| *thread = None);
    }
}

impl Handle {
    /// Makes a handle. Without a `context` it takes a copy of the current one.
    pub(crate) fn new(
        event_loop: &Bound<'_, EventLoop>,
        callback: Py<PyAny>,
        arguments: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Self> {
        let py = event_loop.py();
        let (context, home, owner) = EventLoop::home_for(event_loop, context)?;
        let source_traceback = if event_loop.get().is_debug() {
            let frame = imports::GET_FRAME.get(py)?.call1((0,))?;
            Some(imports::EXTRACT_STACK.get(py)?.call1((frame,))?.cast_into::<PyList>()?.unbind())
        } else {
            None
        };
        Ok(Self {
            call: Mutex::new((Some(Call { callback, arguments }), None)),
            cancelled: AtomicBool::new(false),
            context,
            owner,
            source_traceback,
            running: None,
            home,
        })
    }

    /// Makes a handle for `call_soon_threadsafe()`.
    pub(crate) fn new_thread_safe<'py>(
        event_loop: &Bound<'py, EventLoop>,
        callback: Py<PyAny>,
        arguments: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Bound<'py, ThreadSafeHandle>> {
        let mut handle = Self::new(event_loop, callback, arguments, context)?;
        handle.running = Some(Box::new(RunGuard::new()));
        Bound::new(event_loop.py(), PyClassInitializer::from(handle).add_subclass(ThreadSafeHandle))
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// The index of the shard this handle runs on.
    pub(crate) fn home(&self) -> u16 {
        self.home
    }

    fn call(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> {
        let call = self.call.lock();
        call.0.as_ref().map(|call| (call.callback.clone_ref(py), call.arguments.clone_ref(py)))
    }

    /// Runs the callback in its context, unless it was cancelled. Reports what it raises.
    pub(crate) fn run(slf: &Bound<'_, Self>) -> Result<(), Interrupt> {
        let py = slf.py();
        let this = slf.get();
        // Taken before the flag is read: whoever cancels from another thread either sees the callback
        // run, and waits, or is seen here.
        let _running = this.running.as_deref().map(RunGuard::begin);
        if this.is_cancelled() {
            return Ok(());
        }
        let Some((callback, arguments)) = this.call(py) else {
            return Ok(());
        };
        let (callback, arguments) = (callback.into_bound(py), arguments.into_bound(py));
        let context = this.context.bind(py);
        let called = match &this.owner {
            // The context names the shard of `own`, and so do those that share its variables.
            Owner::Shard(own) => {
                ffi::call_in_context_of(own.bind(py), context, &callback, &arguments)
            }
            Owner::Loop(_) => ffi::call_in_context(context, &callback, &arguments),
        };
        match called {
            Ok(_) => Ok(()),
            Err(error) => interrupt::contain(py, error, |error| {
                Self::report(slf, &callback, &arguments, error)
            }),
        }
    }

    /// Tells the exception handler that the callback raised `error`.
    pub(crate) fn report(
        slf: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        arguments: &Bound<'_, PyTuple>,
        error: PyErr,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let event_loop = this.owner.event_loop().bind(py);
        let source = format_callback_source(event_loop, callback, arguments)?;
        let report = PyDict::new(py);
        report.set_item("message", format!("Exception in callback {source}"))?;
        report.set_item("exception", error)?;
        report.set_item("handle", slf)?;
        if let Some(traceback) = &this.source_traceback {
            report.set_item("source_traceback", traceback)?;
        }
        event_loop.call_method1("call_exception_handler", (report,))?;
        Ok(())
    }

    fn repr_parts(slf: &Bound<'_, Self>, when: Option<f64>) -> PyResult<String> {
        let py = slf.py();
        let this = slf.get();
        let mut parts = vec![slf.get_type().name()?.to_string()];
        if this.is_cancelled() {
            parts.push("cancelled".into());
        }
        if let Some(when) = when {
            parts.push(format!("when={}", when.into_pyobject(py)?.repr()?));
        }
        if let Some((callback, arguments)) = this.call(py) {
            let event_loop = this.owner.event_loop().bind(py);
            parts.push(format_callback_source(event_loop, callback.bind(py), arguments.bind(py))?);
        }
        if let Some(traceback) = &this.source_traceback
            && let Some(frame) = traceback.bind(py).iter().next_back()
        {
            parts.push(format!("created at {}:{}", frame.get_item(0)?, frame.get_item(1)?));
        }
        Ok(format!("<{}>", parts.join(" ")))
    }

    /// Cancels the call; true for the call that did.
    fn cancel_with(slf: &Bound<'_, Self>, when: Option<f64>) -> PyResult<bool> {
        let this = slf.get();
        // Pairs with the load in `run`: from here on the callback does not start.
        if this.cancelled.swap(true, Ordering::AcqRel) {
            return Ok(false);
        }
        // Debug mode keeps what the handle was, for the slow-callback warning.
        let saved = if this.owner.event_loop().get().is_debug() {
            Some(Self::repr_parts(slf, when)?)
        } else {
            None
        };
        let dropped = {
            let mut call = this.call.lock();
            call.1 = saved;
            call.0.take()
        };
        drop(dropped);
        Ok(true)
    }

    fn saved_repr(&self) -> Option<String> {
        self.call.lock().1.clone()
    }
}

/// A handle in the timer heap.
pub(crate) struct Scheduled(pub(crate) Py<Handle>);

impl Cancelled for Scheduled {
    fn is_cancelled(&self) -> bool {
        self.0.get().is_cancelled()
    }
}

fn format_callback_source(
    event_loop: &Bound<'_, EventLoop>,
    callback: &Bound<'_, PyAny>,
    arguments: &Bound<'_, PyTuple>,
) -> PyResult<String> {
    let py = event_loop.py();
    let keywords = PyDict::new(py);
    if cfg!(Py_3_13) {
        keywords.set_item("debug", event_loop.get().is_debug())?;
    }
    imports::FORMAT_CALLBACK_SOURCE.get(py)?.call((callback, arguments), Some(&keywords))?.extract()
}

#[pymethods]
impl Handle {
    /// `asyncio.Handle`, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::HANDLE.class(py)?.clone())
    }

    /// Cancels the callback. Has no effect if it was cancelled before or has run.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::cancel_with(slf, None).map(|_| ())
    }

    /// True if the callback was cancelled.
    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }

    /// The `contextvars.Context` the callback runs in.
    fn get_context(&self, py: Python<'_>) -> Py<PyContext> {
        self.context.clone_ref(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        match slf.get().saved_repr() {
            Some(saved) => Ok(saved),
            None => Self::repr_parts(slf, None),
        }
    }

    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(Self::run(slf)?)
    }

    #[getter]
    fn _cancelled(&self) -> bool {
        self.is_cancelled()
    }

    #[getter]
    fn _callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.call(py).map(|(callback, _)| callback)
    }

    #[getter]
    fn _args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        self.call(py).map(|(_, arguments)| arguments)
    }

    #[getter]
    fn _context(&self, py: Python<'_>) -> Py<PyContext> {
        self.context.clone_ref(py)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<EventLoop> {
        self.owner.event_loop().clone_ref(py)
    }

    #[getter]
    fn _source_traceback(&self, py: Python<'_>) -> Option<Py<PyList>> {
        self.source_traceback.as_ref().map(|traceback| traceback.clone_ref(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A locked handle is in use by a thread, hence no garbage.
        if let Some(call) = self.call.try_lock()
            && let Some(call) = &call.0
        {
            visit.call(&call.callback)?;
            visit.call(&call.arguments)?;
        }
        visit.call(&self.context)?;
        self.owner.visit(&visit)?;
        visit.call(&self.source_traceback)
    }

    fn __clear__(&self) {
        let call = self.call.lock().0.take();
        drop(call);
    }
}

/// A callback wrapper object returned by `loop.call_soon_threadsafe()`.
///
/// On another thread, `cancel()` and `cancelled()` wait while the callback runs, as asyncio's do from
/// Python 3.14 on: when they return, it is certain whether it ran.
#[pyclass(frozen, extends = Handle, weakref, module = "rloop._rloop")]
pub(crate) struct ThreadSafeHandle;

#[pymethods]
impl ThreadSafeHandle {
    /// The class of asyncio's handles for other threads, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        if cfg!(Py_3_14) {
            Ok(imports::THREAD_SAFE_HANDLE.class(py)?.clone())
        } else {
            Ok(imports::HANDLE.class(py)?.clone())
        }
    }

    /// Cancels the callback. Has no effect if it was cancelled before or has run.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        let handle = slf.as_super();
        if let Some(running) = &handle.get().running {
            running.wait(slf.py())?;
        }
        Handle::cancel_with(handle, None).map(|_| ())
    }

    /// True if the callback was cancelled.
    fn cancelled(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let handle = slf.as_super();
        if let Some(running) = &handle.get().running {
            running.wait(slf.py())?;
        }
        Ok(handle.get().is_cancelled())
    }
}

/// A callback wrapper object returned by `loop.call_later()` and `loop.call_at()`.
#[pyclass(frozen, extends = Handle, weakref, module = "rloop._rloop")]
pub(crate) struct TimerHandle {
    /// Seconds on the loop's clock.
    when: f64,
}

impl TimerHandle {
    pub(crate) fn create(py: Python<'_>, when: f64, handle: Handle) -> PyResult<Bound<'_, Self>> {
        Bound::new(py, PyClassInitializer::from(handle).add_subclass(Self { when }))
    }

    /// asyncio's equality: the same deadline, call and state.
    fn equals(slf: &Bound<'_, Self>, other: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let (left, right) = (slf.as_super().get(), other.as_super().get());
        let parts = |handle: &Handle| match handle.call(py) {
            Some((callback, arguments)) => (callback, arguments.into_any()),
            None => (py.None(), py.None()),
        };
        let ((left_callback, left_arguments), (right_callback, right_arguments)) =
            (parts(left), parts(right));
        #[expect(clippy::float_cmp, reason = "asyncio compares the deadlines exactly")]
        let same_deadline = slf.get().when == other.get().when;
        Ok(same_deadline
            && left.is_cancelled() == right.is_cancelled()
            && left_callback.bind(py).eq(right_callback)?
            && left_arguments.bind(py).eq(right_arguments)?)
    }
}

#[pymethods]
impl TimerHandle {
    /// `asyncio.TimerHandle`, for `isinstance()`.
    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(imports::TIMER_HANDLE.class(py)?.clone())
    }

    /// Cancels the callback. Has no effect if it was cancelled before or has run.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        let handle = slf.as_super();
        if Handle::cancel_with(handle, Some(slf.get().when))? {
            let handle = handle.get();
            handle.owner.event_loop().get().timer_cancelled(handle.home());
        }
        Ok(())
    }

    /// When the callback is due, in seconds on the loop's clock.
    fn when(&self) -> f64 {
        self.when
    }

    #[getter]
    fn _when(&self) -> f64 {
        self.when
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        match slf.as_super().get().saved_repr() {
            Some(saved) => Ok(saved),
            None => Handle::repr_parts(slf.as_super(), Some(slf.get().when)),
        }
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        slf.get().when.into_pyobject(slf.py())?.hash()
    }

    fn __richcmp__(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, PyAny>,
        operator: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let (left, right) = (slf.get().when, other.get().when);
        let result = match operator {
            CompareOp::Lt => left < right,
            CompareOp::Gt => left > right,
            CompareOp::Le => left < right || Self::equals(slf, other)?,
            CompareOp::Ge => left > right || Self::equals(slf, other)?,
            CompareOp::Eq => Self::equals(slf, other)?,
            CompareOp::Ne => !Self::equals(slf, other)?,
        };
        Ok(result.into_pyobject(py)?.to_owned().into_any().unbind())
    }
}
