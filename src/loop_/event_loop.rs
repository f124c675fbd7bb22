//! `EventLoop`: the native methods of the loop, in the order of asyncio's documentation.
//!
//! `rloop.TokioLoop` puts this class in front of `asyncio.SelectorEventLoop`. What runs per callback
//! or per descriptor is overridden here; everything else is the standard library's own code, which
//! finds the attributes it keeps on a loop (`_closed`, `_debug`, `_stopping`) as descriptors of this
//! class, so that both sides see one value.

use crate::loop_::handle::{Handle, RunBy, ThreadSafeHandle, TimerHandle, When};
use crate::loop_::homes::Homes;
use crate::loop_::overrides::Overrides;
use crate::loop_::owner::Owner;
use crate::loop_::tasks;
use crate::loop_::watches::{Waiter, Watches};
use crate::py::error::OrOsError;
use crate::py::ffi;
use crate::py::imports;
use crate::py::initialized::Initialized;
use crate::py::interrupt::{self, Interrupt};
use crate::runtime::clock;
use crate::runtime::sys;
use crate::shard::crew::Crew;
use crate::shard::worker::Worker;
use crate::shard::{Reading, Role, Shard, Work, driven_index, own_loop};
use crate::sock::{self, FilePart, Target};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyFloat, PyInt, PyTuple};
use rloop_core::placement::Load;
use rloop_core::watches::Side;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The counts of one shard, see `EventLoop._statistics`.
type ShardStatistics = (u64, u64, u64, u64, usize, Option<(f64, f64, f64)>, bool);

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// The native part of `rloop.TokioLoop`.
///
/// Thread rules are asyncio's: only `call_soon_threadsafe()` is meant for other threads. A call
/// from another thread is not undefined, though: it is forwarded to the loop's thread.
#[pyclass(frozen, subclass, module = "rloop._rloop")]
pub(crate) struct EventLoop {
    initialized: Initialized,
    /// Tells the loops of a process apart. Not zero.
    number: u64,
    /// Shard 0: the thread that runs the loop.
    main: Arc<Shard>,
    /// What a loop of several shards has besides; set before the loop first runs, or never.
    crew: OnceLock<Crew>,
    watches: Watches,
    debug: AtomicBool,
    closed: AtomicBool,
    stopping: AtomicBool,
    /// The run is on the main thread.
    on_main_thread: AtomicBool,
    pub(crate) overrides: Overrides,
    /// The transports of the standard library's loop, by descriptor, once they were asked for.
    transports: OnceLock<Py<PyAny>>,
}

impl EventLoop {
    /// The weak references to transports by descriptor, behind the mapping that the standard library
    /// keeps, which has the dead ones as well.
    pub(crate) fn transports<'py>(&self, slf: &Bound<'py, Self>) -> PyResult<&Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(transports) = self.transports.get() {
            return Ok(transports.bind(py));
        }
        let transports = slf.getattr(intern!(py, "_transports"))?.getattr(intern!(py, "data"))?;
        Ok(self.transports.get_or_init(|| transports.unbind()).bind(py))
    }

    pub(crate) fn is_debug(&self) -> bool {
        self.debug.load(Ordering::Relaxed)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// True if signals are handled on the thread that runs the loop.
    pub(crate) fn runs_on_main_thread(&self) -> bool {
        self.on_main_thread.load(Ordering::Relaxed)
    }

    pub(crate) fn crew(&self) -> Option<&Crew> {
        self.crew.get()
    }

    /// The shard of the calling thread, if the use of primitives is to be checked there.
    fn shard_to_check(&self) -> Option<u16> {
        if self.is_debug() && self.crew().is_some() { driven_index(self.number) } else { None }
    }

    /// The shard that a handle or transport belongs to.
    pub(crate) fn shard(&self, home: u16) -> &Arc<Shard> {
        match self.crew() {
            Some(crew) if home > 0 => &crew.others()[usize::from(home) - 1],
            _ => &self.main,
        }
    }

    /// The shard that runs what is scheduled without a home.
    pub(crate) fn main_shard(&self) -> &Arc<Shard> {
        &self.main
    }

    /// Chooses the home of something new. `count` makes it part of the load there.
    fn place(&self, count: impl FnOnce(&Load)) -> u16 {
        let Some(crew) = self.crew() else {
            count(&self.main.load);
            return 0;
        };
        crew.place(&self.main, count).index()
    }

    fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        std::iter::once(&self.main).chain(self.crew().into_iter().flat_map(Crew::others))
    }

    /// Finds the home of a callback that is to run in `context`, or else in a copy of the current
    /// one, and what it refers to the loop by. The context names that home afterwards.
    pub(crate) fn home_for(
        slf: &Bound<'_, Self>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<(Py<PyContext>, u16, Owner)> {
        let py = slf.py();
        let Some(crew) = slf.get().crew() else {
            let context = context.map_or_else(|| ffi::copy_context(py), Ok)?;
            return Ok((context, 0, Owner::new(slf, None, 0)));
        };
        let is_given = context.is_some();
        let context = context.map_or_else(|| ffi::copy_context(py), Ok)?;
        let own = own_loop(py, slf.get().number, Some(context.bind(py)));
        let here = own.as_ref().map(|(own, _)| own.get());
        let named = match &own {
            Some((own, true)) => Some(own.get().index),
            _ if is_given => crew.homes.of(context.bind(py), here)?,
            _ => crew.homes.of_current_context(py, here)?,
        };
        let home = if let Some(home) = named {
            home
        } else {
            let home = here.map_or(0, |here| here.index);
            crew.homes.set(context.bind(py), home)?;
            home
        };
        Ok((context, home, Owner::new(slf, own.map(|(own, _)| own), home)))
    }

    /// The home of what the calling code makes: that of the current context, or else the shard of the
    /// calling thread, or shard 0.
    pub(crate) fn home_here(&self, py: Python<'_>) -> PyResult<u16> {
        match self.crew() {
            None => Ok(0),
            Some(crew) => {
                let own = own_loop(py, self.number, None);
                let here = own.as_ref().map(|(own, _)| own.get());
                let named = crew.homes.of_current_context(py, here)?;
                Ok(named.or(here.map(|here| here.index)).unwrap_or(0))
            }
        }
    }

    pub(crate) fn timer_cancelled(&self, home: u16) {
        self.shard(home).timer_cancelled();
    }

    /// # Errors
    /// `RuntimeError` if the loop is closed.
    pub(crate) fn check_closed(&self) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        Ok(())
    }

    /// What asyncio checks in debug mode before it schedules a callback.
    fn check_call(
        slf: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        method: &str,
        any_thread: bool,
    ) -> PyResult<()> {
        if slf.get().is_debug() {
            if !any_thread {
                slf.call_method0("_check_thread")?;
            }
            slf.call_method1("_check_callback", (callback, method))?;
        }
        Ok(())
    }

    /// Calls `call_soon(callback, *arguments)`, for native code that stands in for the standard
    /// library's.
    pub(crate) fn schedule(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        arguments: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<()> {
        if !Overrides::of(slf).has_call_soon() {
            return Self::schedule_here(slf, callback, arguments, context).map(|_| ());
        }
        let py = slf.py();
        let all = std::iter::once(callback.into_bound(py)).chain(arguments.bind(py).iter());
        let all = PyTuple::new(py, all.collect::<Vec<_>>())?;
        let keywords = PyDict::new(py);
        if let Some(context) = context {
            keywords.set_item(intern!(py, "context"), context)?;
        }
        slf.call_method(intern!(py, "call_soon"), all, Some(&keywords))?;
        Ok(())
    }

    /// Schedules `callback(*arguments)` for the next iteration.
    fn schedule_here(
        slf: &Bound<'_, Self>,
        callback: Py<PyAny>,
        arguments: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<Handle>> {
        let handle = Py::new(slf.py(), Handle::new(slf, callback, arguments, context)?)?;
        let home = slf.get().shard(handle.get().home());
        home.push(Work::Run(handle.clone_ref(slf.py())));
        Ok(handle)
    }

    /// Schedules the callback that tells the creator of a transport that it is there. It runs in
    /// `context`, or in a copy of the current one.
    pub(crate) fn schedule_waiter(
        slf: &Bound<'_, Self>,
        waiter: Option<Py<PyAny>>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if let Some(waiter) = waiter {
            let callback = imports::SET_RESULT_UNLESS_CANCELLED.get(py)?.clone().unbind();
            let arguments = PyTuple::new(py, [waiter, py.None()])?.unbind();
            Self::schedule(slf, callback, arguments, context)?;
        }
        Ok(())
    }

    fn schedule_at(
        slf: &Bound<'_, Self>,
        when: When,
        callback: Py<PyAny>,
        arguments: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<TimerHandle>> {
        let handle = Handle::new(slf, callback, arguments, context)?;
        let deadline = when.seconds;
        handle.set_scheduled(true);
        let timer = TimerHandle::create(slf.py(), when, handle)?;
        let work = Work::Schedule(deadline, timer.as_super().clone().unbind());
        slf.get().shard(timer.as_super().get().home()).push(work);
        Ok(timer.unbind())
    }

    /// The time on the loop's clock, which may be the program's.
    ///
    /// # Errors
    /// What the program's clock raises.
    pub(crate) fn now(slf: &Bound<'_, Self>) -> PyResult<f64> {
        if Overrides::of(slf).has_clock() {
            slf.call_method0(intern!(slf.py(), "time"))?.extract()
        } else {
            Ok(clock::now())
        }
    }

    /// The time at which an iteration ends for timers, by the program's clock: those before are due.
    /// `None` if the clock is the loop's own, by which those are due that are not later than the time.
    ///
    /// # Errors
    /// What the program's clock raises.
    pub(crate) fn end_time(slf: &Bound<'_, Self>) -> PyResult<Option<f64>> {
        if !Overrides::of(slf).has_clock() {
            return Ok(None);
        }
        let now = Self::now(slf)?;
        let resolution: f64 = slf.getattr(intern!(slf.py(), "_clock_resolution"))?.extract()?;
        // As from CPython 3.15 on: a clock may show so much that its resolution is lost.
        Ok(Some((now + resolution).max(now.next_up())))
    }

    /// `call_later()` by the `time()` and `call_at()` of the program.
    #[cold]
    fn call_later_through(
        slf: &Bound<'_, Self>,
        delay: &Bound<'_, PyAny>,
        callback: Bound<'_, PyAny>,
        arguments: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let when = slf.call_method0(intern!(py, "time"))?.add(delay)?;
        let all = [when, callback].into_iter().chain(arguments.bind(py).iter());
        let all = PyTuple::new(py, all.collect::<Vec<_>>())?;
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "context"), context)?;
        Ok(slf.call_method(intern!(py, "call_at"), all, Some(&keywords))?.unbind())
    }

    /// Runs a handle; in debug mode, times it.
    pub(crate) fn run_handle(
        &self,
        slf: &Bound<'_, Self>,
        handle: &Bound<'_, Handle>,
        way: RunBy,
    ) -> Result<(), Interrupt> {
        if !self.is_debug() && way == RunBy::Native {
            return Handle::run(handle);
        }
        let ran = if self.is_debug() {
            Self::run_timed(slf, handle, way)
        } else {
            Handle::run_by(handle, way)
        };
        ran.or_else(|error| {
            Self::contain(slf, error, "A handle failed to run", Some(handle.as_any()))
        })
    }

    fn run_timed(slf: &Bound<'_, Self>, handle: &Bound<'_, Handle>, way: RunBy) -> PyResult<()> {
        if handle.get().is_cancelled() {
            return Ok(());
        }
        let shard = slf.get().shard(handle.get().home());
        let started = Self::now(slf)?;
        drop(shard.set_current_handle(Some(handle.clone().unbind())));
        let result = Handle::run_by(handle, way);
        drop(shard.set_current_handle(None));
        let elapsed = Self::now(slf)? - started;
        result?;
        if elapsed >= slf.getattr("slow_callback_duration")?.extract::<f64>()? {
            let shown = imports::FORMAT_HANDLE.get(slf.py())?.call1((handle,))?;
            let logger = imports::logger(slf.py())?;
            logger.call_method1("warning", ("Executing %s took %.3f seconds", shown, elapsed))?;
        }
        Ok(())
    }

    /// Runs a handle of the standard library's, which reports what its callback raises.
    pub(crate) fn run_foreign_handle(
        slf: &Bound<'_, Self>,
        handle: &Bound<'_, PyAny>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        let ran = || -> PyResult<()> {
            if !handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
                handle.call_method0(intern!(py, "_run"))?;
            }
            Ok(())
        };
        ran().or_else(|error| Self::contain(slf, error, "A handle failed to run", Some(handle)))
    }

    /// Reports an exception that no callback's handle reports.
    #[cold]
    pub(crate) fn contain(
        slf: &Bound<'_, Self>,
        error: PyErr,
        message: &str,
        handle: Option<&Bound<'_, PyAny>>,
    ) -> Result<(), Interrupt> {
        let py = slf.py();
        interrupt::contain(py, error, |error| {
            let report = PyDict::new(py);
            report.set_item("message", message)?;
            report.set_item("exception", error)?;
            if let Some(handle) = handle {
                report.set_item("handle", handle)?;
            }
            slf.call_method1("call_exception_handler", (report,))?;
            Ok(())
        })
    }

    /// What `part` gives of all shards together.
    fn of_each_shard<T>(&self, part: impl Fn(&Shard) -> Option<Vec<T>>) -> PyResult<Vec<T>> {
        let mut all = Vec::new();
        for shard in self.shards() {
            all.extend(part(shard).ok_or_else(|| {
                PyRuntimeError::new_err(format!(
                    "shard {} is driven by another thread, so its queues cannot be read",
                    shard.index()
                ))
            })?);
        }
        Ok(all)
    }

    fn drop_everything(&self) {
        for shard in self.shards() {
            drop(shard.take_all());
        }
        drop(self.watches.clear());
    }

    /// # Errors
    /// `ValueError` if the loop has no such shard.
    fn checked_shard(&self, index: u16) -> PyResult<&Arc<Shard>> {
        self.shards().nth(index.into()).ok_or_else(|| {
            PyValueError::new_err(format!(
                "the loop has {} shard(s), so there is no shard {index}",
                self.shards().count()
            ))
        })
    }

    /// The crew, which only a loop of several shards has.
    fn several(&self) -> PyResult<&Crew> {
        self.crew().ok_or_else(|| PyRuntimeError::new_err("the loop has one shard"))
    }

    fn watch(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        side: Side,
        callback: Py<PyAny>,
        arguments: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<Handle>> {
        let this = slf.get();
        this.check_closed()?;
        let (py, object) = (slf.py(), fd);
        let fd = this.watched_number(object)?;
        let handle = Py::new(py, Handle::new(slf, callback, arguments, context)?)?;
        let waiter = Waiter::Callback(handle.clone_ref(py));
        let object = (!object.is_instance_of::<PyInt>()).then(|| object.clone().unbind());
        let replaced = this.set_waiter(fd, side, handle.get().home(), waiter, object)?;
        cancel(py, replaced.or_os_error(py)?)?;
        Ok(handle)
    }

    fn unwatch(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>, side: Side) -> PyResult<bool> {
        let this = slf.get();
        if this.closed.load(Ordering::Acquire) {
            return Ok(false);
        }
        let removed = this.watches.remove(this, this.watched_number(fd)?, side);
        cancel(slf.py(), removed.or_os_error(slf.py())?)
    }

    /// The number of an object that was or is to be watched. A closed one does not know its number any
    /// more, and is found by its identity, as in `selectors`.
    ///
    /// # Errors
    /// `ValueError`, worded as selectors words it.
    fn watched_number(&self, object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
        descriptor(object).or_else(|error| self.watches.number_of(object).ok_or(error))
    }

    /// Lets `waiter` wait for a descriptor on shard `home`, in place of the waiter it returns. `object` is
    /// what the program gave for the number, unless that was a number.
    pub(crate) fn set_waiter(
        &self,
        fd: RawFd,
        side: Side,
        home: u16,
        waiter: Waiter,
        object: Option<Py<PyAny>>,
    ) -> PyResult<io::Result<Option<Waiter>>> {
        // Refuses a closed loop.
        self.shard(home).io()?;
        Ok(self.watches.set(self, fd, side, home, waiter, object))
    }

    /// The registry of watched descriptors.
    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Forgets the callbacks of a descriptor that now belongs to a transport.
    pub(crate) fn evict(&self, py: Python<'_>, fd: RawFd) -> PyResult<()> {
        for side in [Side::Reader, Side::Writer] {
            cancel(py, self.watches.remove(self, fd, side).or_os_error(py)?)?;
        }
        Ok(())
    }
}

/// Cancels what was taken out of the registry; true if there was something.
fn cancel(py: Python<'_>, waiter: Option<Waiter>) -> PyResult<bool> {
    let Some(waiter) = waiter else {
        return Ok(false);
    };
    waiter.cancel(py)?;
    Ok(true)
}

/// The number behind an integer or an object with `fileno()`, as `selectors` finds it.
///
/// # Errors
/// `ValueError`, worded as selectors words it.
pub(crate) fn descriptor(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let number = if let Ok(number) = object.extract::<i64>() {
        number
    } else {
        object
            .call_method0("fileno")
            .and_then(|number| number.extract::<i64>())
            .map_err(|_| PyValueError::new_err(format!("Invalid file object: {object:?}")))?
    };
    match RawFd::try_from(number) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(PyValueError::new_err(format!("Invalid file descriptor: {number}"))),
    }
}

/// Adds a delay to the time, with Python's own error if it is not a number.
fn deadline_after(now: f64, delay: &Bound<'_, PyAny>) -> PyResult<When> {
    if let Ok(delay) = delay.cast_exact::<PyFloat>() {
        return Ok(When::from(now + delay.value()));
    }
    When::new(PyFloat::new(delay.py(), now).add(delay)?)
}

#[pymethods]
impl EventLoop {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        // The arguments are the subclass's.
        let _ = kwargs;
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            initialized: Initialized::new(),
            number,
            main: Arc::new(Shard::new(number, 0).or_os_error(args.py())?),
            crew: OnceLock::new(),
            watches: Watches::default(),
            debug: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            on_main_thread: AtomicBool::new(false),
            overrides: Overrides::new(),
            transports: OnceLock::new(),
        })
    }

    /// Tells whether the next run is on the main thread, which handles signals.
    fn _set_runs_on_main_thread(&self, is_main_thread: bool) {
        self.on_main_thread.store(is_main_thread, Ordering::Relaxed);
    }

    /// Runs iterations until `stop()` takes effect. `run_forever()` of the standard library calls this
    /// where its own loop would take a single iteration.
    fn _run_once(slf: &Bound<'_, Self>) -> PyResult<()> {
        let main = slf.get().main_shard();
        match slf.get().crew() {
            None => main.run(slf, &Role::Main),
            Some(crew) => crew.run(slf, main),
        }
    }

    /// Takes a single iteration, in which it waits if it has to and `may_block` says so. May be called
    /// inside a callback.
    fn _take_iteration(slf: &Bound<'_, Self>, may_block: bool) -> PyResult<()> {
        slf.get().main_shard().step(slf, may_block)
    }

    /// Gives the loop, which has not run yet, `count` shards. Called once at most.
    fn _set_shards(&self, py: Python<'_>, count: u16) -> PyResult<()> {
        let homes = Homes::new(py, count)?;
        let crew = Crew::new(homes, self.number, count).or_os_error(py)?;
        self.main.start_timing();
        self.crew
            .set(crew)
            .map_err(|_| PyRuntimeError::new_err("the number of shards is set already"))
    }

    /// Makes the workers, whose threads are to call `Worker.next_run()`, for all shards but shard 0.
    fn _make_workers(&self) -> PyResult<Vec<Worker>> {
        let crew = self.several()?;
        let workers: Vec<_> = crew.others().iter().map(Worker::new).collect();
        crew.set_controls(workers.iter().map(|worker| worker.control.clone()).collect());
        Ok(workers)
    }

    /// Drives a shard on this thread, a worker's, until the run ends.
    fn _run_shard(slf: &Bound<'_, Self>, index: u16) -> PyResult<()> {
        slf.get().several()?.run_worker(slf, slf.get().checked_shard(index)?);
        Ok(())
    }

    /// Ends the run with the error that has ended the calling worker's part of it.
    fn _worker_failed(slf: &Bound<'_, Self>, error: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().several()?.fail(slf, PyErr::from_value(error));
        Ok(())
    }

    /// The index of the shard that the calling thread drives, if it is one of this loop.
    fn _current_shard(&self) -> Option<u16> {
        driven_index(self.number)
    }

    /// True while another thread than the calling one drives a shard.
    fn _is_driven_elsewhere(&self, index: u16) -> PyResult<bool> {
        Ok(self.checked_shard(index)?.is_elsewhere())
    }

    /// How many shards the loop has.
    fn _shard_count(&self) -> usize {
        self.shards().count()
    }

    /// Chooses a home for something new and counts it there until `_unplace()`.
    fn _place(&self) -> u16 {
        self.place(Load::begin)
    }

    /// Counts something on a shard until `_unplace()`.
    fn _place_on(&self, index: u16) -> PyResult<()> {
        self.checked_shard(index)?.load.begin();
        Ok(())
    }

    /// Ends what `_place()` began.
    fn _unplace(&self, index: u16) -> PyResult<()> {
        self.checked_shard(index)?.load.end();
        Ok(())
    }

    /// Chooses a home for an accepted connection and counts it there until it was open and is
    /// closed, or until `_give_up_connection()`.
    fn _place_connection(&self, fd: RawFd) -> u16 {
        self.place(|load| load.expect(fd))
    }

    /// Ends what `_place_connection()` began, if the connection never opened.
    fn _give_up_connection(&self, index: u16, fd: RawFd) -> PyResult<()> {
        self.checked_shard(index)?.load.give_up(fd);
        Ok(())
    }

    /// The home that a context names, if it is one of this loop.
    fn _home_of(&self, context: &Bound<'_, PyContext>) -> PyResult<Option<u16>> {
        self.crew().map_or(Ok(None), |crew| crew.homes.of(context, None))
    }

    /// What the shards have counted, one tuple each: callbacks, parks, pushes, ready-queue depth,
    /// connections, (driven, busy, slowest) in seconds or `None`, and whether it is in an iteration.
    fn _statistics(&self) -> Vec<ShardStatistics> {
        self.shards()
            .map(|shard| {
                let read = shard.statistics();
                let times = read.times.map(|times| (times.driven, times.busy, times.slowest));
                let Reading { callbacks, parks, pushes, depth, connections, in_turn, .. } = read;
                (callbacks, parks, pushes, depth, connections, times, in_turn)
            })
            .collect()
    }

    /// The home of what the calling code makes.
    fn _home_here(&self, py: Python<'_>) -> PyResult<u16> {
        self.home_here(py)
    }

    /// Makes the current context name a home. Does nothing in a loop of one shard.
    fn _set_current_home(&self, py: Python<'_>, index: u16) -> PyResult<()> {
        self.checked_shard(index)?;
        self.crew().map_or(Ok(()), |crew| crew.homes.set_current(py, index))
    }

    /// Makes a context name a home. Does nothing in a loop of one shard.
    fn _set_home(&self, context: &Bound<'_, PyContext>, index: u16) -> PyResult<()> {
        self.checked_shard(index)?;
        self.crew().map_or(Ok(()), |crew| crew.homes.set(context, index))
    }

    /// A new context that names a shard and has no other variable.
    fn _home_context(&self, py: Python<'_>, index: u16) -> PyResult<Py<PyContext>> {
        self.checked_shard(index)?;
        let context = || Ok(ffi::new_context(py)?.unbind());
        self.crew().map_or_else(context, |crew| crew.homes.context(py, index))
    }

    /// Makes the loop stop once the callbacks that are ready now have run.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.main_shard().notify();
    }

    /// The time of the loop's clock, in seconds: that of `time.monotonic()`.
    fn time(&self) -> f64 {
        clock::now()
    }

    /// Schedules `callback(*args)` for the next iteration. See `asyncio.loop.call_soon`.
    #[pyo3(signature = (callback, *args, context = None))]
    fn call_soon(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        args: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<Handle>> {
        slf.get().check_closed()?;
        Self::check_call(slf, &callback, "call_soon", false)?;
        let handle = Self::schedule_here(slf, callback.unbind(), args, context)?;
        // Afterwards: a task whose wake-up is refused would never end.
        if let Some(shard) = slf.get().shard_to_check() {
            let home = handle.get().home();
            if home != shard {
                imports::CHECK_WAKING.get(slf.py())?.call1((home, shard))?;
            }
        }
        Ok(handle)
    }

    /// Like `call_soon()`, from any thread. See `asyncio.loop.call_soon_threadsafe`.
    #[pyo3(signature = (callback, *args, context = None))]
    fn call_soon_threadsafe(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        args: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<ThreadSafeHandle>> {
        let hand_over = || {
            slf.get().check_closed()?;
            Self::check_call(slf, &callback, "call_soon_threadsafe", true)?;
            let handle = Handle::new_thread_safe(slf, callback.unbind(), args, context)?;
            let work = Work::Run(handle.as_super().clone().unbind());
            // Like any thread that calls this, a step may block until it has run.
            slf.get().shard(handle.as_super().get().home()).push_at_once(work);
            Ok(handle.unbind())
        };
        if slf.get().is_debug() {
            // Python code runs in this, during which the interpreter may end.
            sys::hanging_at_exit(hand_over)
        } else {
            hand_over()
        }
    }

    /// Schedules `callback(*args)` in `delay` seconds. See `asyncio.loop.call_later`.
    #[pyo3(signature = (delay, callback, *args, context = None))]
    fn call_later(
        slf: &Bound<'_, Self>,
        delay: Bound<'_, PyAny>,
        callback: Bound<'_, PyAny>,
        args: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<PyAny>> {
        if delay.is_none() {
            return Err(PyTypeError::new_err("delay must not be None"));
        }
        if Overrides::of(slf).has_timers() {
            return Self::call_later_through(slf, &delay, callback, args, context);
        }
        let when = deadline_after(clock::now(), &delay)?;
        slf.get().check_closed()?;
        Self::check_call(slf, &callback, "call_at", false)?;
        Ok(Self::schedule_at(slf, when, callback.unbind(), args, context)?.into_any())
    }

    /// Schedules `callback(*args)` at `when`, in seconds on the loop's clock. See
    /// `asyncio.loop.call_at`.
    #[pyo3(signature = (when, callback, *args, context = None))]
    fn call_at(
        slf: &Bound<'_, Self>,
        when: Bound<'_, PyAny>,
        callback: Bound<'_, PyAny>,
        args: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<TimerHandle>> {
        if when.is_none() {
            return Err(PyTypeError::new_err("when cannot be None"));
        }
        slf.get().check_closed()?;
        Self::check_call(slf, &callback, "call_at", false)?;
        Self::schedule_at(slf, When::new(when)?, callback.unbind(), args, context)
    }

    /// A future of this loop.
    fn create_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(shard) = slf.get().shard_to_check() {
            imports::CHECK_WAITING.get(slf.py())?.call1((shard,))?;
        }
        tasks::create_future(slf)
    }

    /// Schedules the execution of a coroutine. See `asyncio.loop.create_task`.
    #[pyo3(signature = (coro, **kwargs))]
    fn create_task<'py>(
        slf: &Bound<'py, Self>,
        coro: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        tasks::create_task(slf, coro, kwargs)
    }

    /// Raises `RuntimeError` if the loop is closed, for the standard library's methods.
    #[pyo3(name = "_check_closed")]
    fn refuse_if_closed(&self) -> PyResult<()> {
        self.check_closed()
    }

    /// True while the loop runs. Every task that starts eagerly asks.
    fn is_running(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(!slf.as_any().getattr(intern!(slf.py(), "_thread_id"))?.is_none())
    }

    /// Whether the loop is in debug mode. Every future and task asks.
    fn get_debug(&self) -> bool {
        self.is_debug()
    }

    /// Queues a handle that the standard library made, such as a signal handler's.
    fn _add_callback(&self, handle: Py<PyAny>) {
        self.main_shard().push(Work::RunForeign(handle));
    }

    /// Wakes the loop up.
    fn _write_to_self(&self) {
        self.main_shard().notify();
    }

    /// Called by `asyncio.TimerHandle.cancel()`; the handles of this loop report themselves.
    fn _timer_handle_cancelled(&self, _handle: &Bound<'_, PyAny>) {}

    /// `context` is an argument of asyncio's method from CPython 3.15 on.
    #[pyo3(signature = (fd, callback, *args, context = None))]
    fn _add_reader(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: Py<PyAny>,
        args: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<Handle>> {
        Self::watch(slf, fd, Side::Reader, callback, args, context)
    }

    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(slf, fd, Side::Reader)
    }

    /// `context` is an argument of asyncio's method from CPython 3.15 on.
    #[pyo3(signature = (fd, callback, *args, context = None))]
    fn _add_writer(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: Py<PyAny>,
        args: Py<PyTuple>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<Py<Handle>> {
        Self::watch(slf, fd, Side::Writer, callback, args, context)
    }

    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(slf, fd, Side::Writer)
    }

    /// Begins `sock_recv()`. Like its kin below, returns the result, or a future for it.
    fn _begin_sock_recv<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        n: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Target::new(slf, sock)?.receive(n)
    }

    fn _begin_sock_recv_into<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buf: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Target::new(slf, sock)?.receive_into(buf)
    }

    fn _begin_sock_recvfrom<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        bufsize: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Target::new(slf, sock)?.call("recvfrom", (bufsize,), Side::Reader)
    }

    fn _begin_sock_recvfrom_into<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buf: &Bound<'py, PyAny>,
        nbytes: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let target = Target::new(slf, sock)?;
        if nbytes.is_truthy()? {
            target.call("recvfrom_into", (buf, nbytes), Side::Reader)
        } else {
            target.call("recvfrom_into", (buf, buf.len()?), Side::Reader)
        }
    }

    fn _begin_sock_sendall<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Target::new(slf, sock)?.send_all(data)
    }

    /// `count` is 0 for all of the file. The result is a pair, see `FilePart`.
    fn _begin_sock_sendfile<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        file: RawFd,
        offset: u64,
        count: u64,
        block: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let part = FilePart::new(file, offset, (count > 0).then_some(count), block);
        Target::new(slf, sock)?.send_file(part)
    }

    fn _begin_sock_sendto<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
        address: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Target::new(slf, sock)?.call("sendto", (data, address), Side::Writer)
    }

    fn _begin_sock_accept<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Target::new(slf, sock)?.accept()
    }

    /// Ends an operation whose future was cancelled.
    fn _forget_sock(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        future: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        sock::forget(slf, sock, future)
    }

    /// The watched descriptors as (fd, the object that was given for it, has a reader, has a writer).
    fn _watched_descriptors(&self, py: Python<'_>) -> Vec<(RawFd, Option<Py<PyAny>>, bool, bool)> {
        self.watches.descriptors(py)
    }

    /// The timers, the next one first, and those that were cancelled and are still kept among them.
    ///
    /// # Errors
    /// `RuntimeError` while other threads drive shards of the loop.
    fn _timers(&self, py: Python<'_>) -> PyResult<Vec<Py<Handle>>> {
        self.of_each_shard(|shard| shard.timers(py))
    }

    /// Drops the timers, except as `_clear_ready()`.
    fn _clear_timers(&self) {
        for shard in self.shards() {
            drop(shard.take_timers());
        }
    }

    /// The handles that are ready to run.
    ///
    /// # Errors
    /// Those of `_timers()`.
    fn _ready_handles(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.of_each_shard(|shard| shard.ready_handles(py))
    }

    /// Drops the handles that are ready to run. A shard that another thread drives keeps its own: one
    /// whose worker is stuck in a callback while the loop is closed.
    fn _clear_ready(&self) {
        for shard in self.shards() {
            drop(shard.take_ready_handles());
        }
    }

    /// Drops everything that is scheduled or watched. The loop is closed and stopped.
    fn _release(&self) {
        self.drop_everything();
    }

    /// Called when `vars(loop)` is handed out: the program may replace methods unseen from then on.
    fn _expose_attributes(&self) {
        self.overrides.attribute_changes("__dict__", true);
    }

    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        ffi::set_attribute(slf.as_any(), name, Some(value))?;
        let name = name.extract::<&str>()?;
        let is_usual = name == "_clock_resolution" && {
            let info = imports::CLOCK_INFO.get(slf.py())?.call1(("monotonic",))?;
            value.eq(info.getattr("resolution")?)?
        };
        slf.get().overrides.attribute_changes(name, !is_usual);
        Ok(())
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>) -> PyResult<()> {
        ffi::set_attribute(slf.as_any(), name, None)?;
        slf.get().overrides.attribute_changes(name.extract()?, false);
        Ok(())
    }

    #[getter(_stopping)]
    fn stopping_flag(&self) -> bool {
        self.is_stopping()
    }

    #[setter(_stopping)]
    fn set_stopping_flag(&self, stopping: bool) {
        self.stopping.store(stopping, Ordering::Release);
    }

    #[getter(_closed)]
    fn closed_flag(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    #[setter(_closed)]
    fn set_closed_flag(&self, closed: bool) {
        self.closed.store(closed, Ordering::Release);
    }

    /// In debug mode, the handle that runs on the calling thread's shard; for a thread that drives none,
    /// the handle that runs on shard 0.
    #[getter(_current_handle)]
    fn current_handle(&self, py: Python<'_>) -> Option<Py<Handle>> {
        self.shard(driven_index(self.number).unwrap_or(0)).current_handle(py)
    }

    /// The standard library sets it to `None` once.
    #[setter(_current_handle)]
    fn set_current_handle(&self, handle: Option<Py<Handle>>) {
        let shard = self.shard(driven_index(self.number).unwrap_or(0));
        drop(shard.set_current_handle(handle));
    }

    #[getter(_debug)]
    fn debug_flag(&self) -> bool {
        self.is_debug()
    }

    #[setter(_debug)]
    fn set_debug_flag(&self, debug: &Bound<'_, PyAny>) -> PyResult<()> {
        self.debug.store(debug.is_truthy()?, Ordering::Relaxed);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if !self.initialized.is_set() {
            return Ok(());
        }
        visit.call(self.transports.get())?;
        self.watches.visit(&visit)?;
        self.shards().try_for_each(|shard| shard.visit(&visit))
    }

    fn __clear__(&self) {
        self.drop_everything();
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        // The threads of a loop that nobody closed.
        for control in self.crew().into_iter().flat_map(Crew::controls) {
            control.end();
        }
    }
}
