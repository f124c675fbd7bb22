//! `Handle` and `TimerHandle`: a callback that is scheduled.
//!
//! They are not subclasses of asyncio's classes, whose slots would make each handle 48 bytes larger
//! and cost a Python-level constructor; `__class__` makes `isinstance()` true all the same. A handle
//! belongs to the loop's shard `home` for life. Any thread may cancel it; a callback that has not
//! started by then never starts.

use crate::loop_::event_loop::EventLoop;
use crate::loop_::owner::Owner;
use crate::py::ffi::instance;
use crate::py::interrupt::{self, Interrupt};
use crate::py::{ffi, imports};
use pyo3::basic::CompareOp;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyFloat, PyList, PyTuple, PyType};
use rloop_core::sync::{Monitor, Mutex};
use rloop_core::timers::Cancelled;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// It is among the timers of its shard.
    scheduled: AtomicBool,
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
            scheduled: AtomicBool::new(false),
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

    /// Notes whether the handle is among the timers of its shard.
    pub(crate) fn set_scheduled(&self, scheduled: bool) {
        self.scheduled.store(scheduled, Ordering::Relaxed);
    }

    /// The index of the shard this handle runs on.
    pub(crate) fn home(&self) -> u16 {
        self.home
    }

    fn call(&self, py: Python<'_>) -> Option<(Py<PyAny>, Py<PyTuple>)> {
        let call = self.call.lock();
        call.0.as_ref().map(|call| (call.callback.clone_ref(py), call.arguments.clone_ref(py)))
    }

    /// The context that the callback runs in.
    pub(crate) fn context(&self) -> &Py<PyContext> {
        &self.context
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

    /// Runs the callback the given way, unless it was cancelled.
    ///
    /// # Errors
    /// What the program's `_run()` raises.
    pub(crate) fn run_by(slf: &Bound<'_, Self>, way: RunBy) -> PyResult<()> {
        if way == RunBy::Native {
            return Ok(Self::run(slf)?);
        }
        let py = slf.py();
        let _running = slf.get().running.as_deref().map(RunGuard::begin);
        if slf.get().is_cancelled() {
            return Ok(());
        }
        let class = if slf.cast::<TimerHandle>().is_ok() {
            imports::TIMER_HANDLE.class(py)?
        } else {
            imports::HANDLE.class(py)?
        };
        class.call_method1(intern!(py, "_run"), (slf,))?;
        Ok(())
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

    fn repr_parts(slf: &Bound<'_, Self>, when: Option<&When>) -> PyResult<String> {
        let py = slf.py();
        let this = slf.get();
        let mut parts = vec![slf.get_type().name()?.to_string()];
        if this.is_cancelled() {
            parts.push("cancelled".into());
        }
        if let Some(when) = when {
            parts.push(format!("when={}", when.object(py)));
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
    fn cancel_with(slf: &Bound<'_, Self>, when: Option<&When>) -> PyResult<bool> {
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

    /// Replaces the call. One without a callback or without arguments is none.
    fn set_call(
        &self,
        py: Python<'_>,
        callback: Option<Py<PyAny>>,
        arguments: Option<Py<PyTuple>>,
    ) {
        let call = match (callback, arguments) {
            (None, None) => None,
            (callback, arguments) => Some(Call {
                callback: callback.unwrap_or_else(|| py.None()),
                arguments: arguments.unwrap_or_else(|| PyTuple::empty(py).unbind()),
            }),
        };
        let replaced = std::mem::replace(&mut self.call.lock().0, call);
        drop(replaced);
    }

    fn saved_repr(&self) -> Option<String> {
        self.call.lock().1.clone()
    }
}

/// Whose `_run()` runs handles. Monitors and debuggers put one of theirs on asyncio's classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunBy {
    /// This module's, which does what the standard library's does.
    Native,
    /// What stands on asyncio's class.
    Program,
}

impl RunBy {
    /// The way that holds now.
    #[inline]
    pub(crate) fn now(py: Python<'_>) -> Self {
        /// The version of the class, and in the lowest bit whether its method is the program's.
        static KNOWN: AtomicU64 = AtomicU64::new(0);
        // A change of its base changes this class, too.
        let Ok(class) = imports::TIMER_HANDLE.class(py) else {
            return Self::Native;
        };
        let version = instance::version_of_class(class);
        let known = KNOWN.load(Ordering::Relaxed);
        if version != 0 && known >> 1 == u64::from(version) {
            return if known & 1 == 0 { Self::Native } else { Self::Program };
        }
        let way = if Self::is_replaced(class) { Self::Program } else { Self::Native };
        KNOWN.store(u64::from(version) << 1 | u64::from(way == Self::Program), Ordering::Relaxed);
        way
    }

    /// True unless `_run` is a function of the module that defines the class's other methods.
    #[cold]
    fn is_replaced(class: &Bound<'_, PyType>) -> bool {
        let file = |name: &str| class.getattr(name)?.getattr("__code__")?.getattr("co_filename");
        let same = || file("_run")?.eq(file("cancelled")?);
        !same().unwrap_or(false)
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
        Self::run_by(slf, RunBy::now(slf.py()))
    }

    #[getter]
    fn _cancelled(&self) -> bool {
        self.is_cancelled()
    }

    #[getter]
    fn _callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.call(py).map(|(callback, _)| callback)
    }

    #[setter(_callback)]
    fn set_callback(&self, py: Python<'_>, callback: Option<Py<PyAny>>) {
        let arguments = self.call(py).map(|(_, arguments)| arguments);
        self.set_call(py, callback, arguments);
    }

    #[getter]
    fn _args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        self.call(py).map(|(_, arguments)| arguments)
    }

    #[setter(_args)]
    fn set_args(&self, py: Python<'_>, args: Option<Py<PyTuple>>) {
        let callback = self.call(py).map(|(callback, _)| callback);
        self.set_call(py, callback, args);
    }

    /// What the handle is shown as, once it was cancelled in debug mode.
    #[getter]
    fn _repr(&self) -> Option<String> {
        self.saved_repr()
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

/// A deadline.
pub(crate) struct When {
    /// Seconds on the loop's clock.
    pub(crate) seconds: f64,
    /// The number that the program gave, which `when()` returns.
    given: Option<Py<PyAny>>,
}

impl From<f64> for When {
    fn from(seconds: f64) -> Self {
        Self { seconds, given: None }
    }
}

impl When {
    /// # Errors
    /// `TypeError` if `given` is no number.
    pub(crate) fn new(given: Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { seconds: given.extract()?, given: Some(given.unbind()) })
    }

    fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match &self.given {
            Some(given) => given.bind(py).clone(),
            None => PyFloat::new(py, self.seconds).into_any(),
        }
    }

    /// Compares as Python compares the numbers.
    fn compare(&self, py: Python<'_>, other: &Self, operator: CompareOp) -> PyResult<bool> {
        if self.given.is_none() && other.given.is_none() {
            let order = self.seconds.partial_cmp(&other.seconds);
            return Ok(order.is_some_and(|order| operator.matches(order)));
        }
        self.object(py).rich_compare(other.object(py), operator)?.is_truthy()
    }
}

/// A callback wrapper object returned by `loop.call_later()` and `loop.call_at()`.
#[pyclass(frozen, extends = Handle, weakref, module = "rloop._rloop")]
pub(crate) struct TimerHandle {
    when: When,
}

impl TimerHandle {
    pub(crate) fn create(py: Python<'_>, when: When, handle: Handle) -> PyResult<Bound<'_, Self>> {
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
        Ok(slf.get().when.compare(py, &other.get().when, CompareOp::Eq)?
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

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.when.given)
    }

    /// Cancels the callback. Has no effect if it was cancelled before or has run.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        let handle = slf.as_super();
        if Handle::cancel_with(handle, Some(&slf.get().when))? {
            let handle = handle.get();
            handle.owner.event_loop().get().timer_cancelled(handle.home());
        }
        Ok(())
    }

    /// When the callback is due, in seconds on the loop's clock.
    fn when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.when.object(py)
    }

    /// True while the handle is among the loop's timers.
    #[getter]
    fn _scheduled(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().scheduled.load(Ordering::Relaxed)
    }

    #[getter]
    fn _when<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.when.object(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        match slf.as_super().get().saved_repr() {
            Some(saved) => Ok(saved),
            None => Handle::repr_parts(slf.as_super(), Some(&slf.get().when)),
        }
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        slf.get().when.object(slf.py()).hash()
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
        let compare = |operator| slf.get().when.compare(py, &other.get().when, operator);
        let result = match operator {
            CompareOp::Lt | CompareOp::Gt => compare(operator)?,
            CompareOp::Le => compare(CompareOp::Lt)? || Self::equals(slf, other)?,
            CompareOp::Ge => compare(CompareOp::Gt)? || Self::equals(slf, other)?,
            CompareOp::Eq => Self::equals(slf, other)?,
            CompareOp::Ne => !Self::equals(slf, other)?,
        };
        Ok(result.into_pyobject(py)?.to_owned().into_any().unbind())
    }
}
