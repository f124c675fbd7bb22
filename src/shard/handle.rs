//! The shard as any thread sees it: where work is queued, and who drives it.

use super::local::{Local, Work};
use super::statistics::{Counters, Reading};
use crate::loop_::event_loop::EventLoop;
use crate::loop_::handle::{Handle, Scheduled};
use crate::loop_::owner::LoopOfShard;
use crate::py::ffi;
use crate::py::interrupt::Interrupt;
use crate::runtime::driver::Driver;
use crate::runtime::poller::Poller;
use crate::runtime::process;
use crate::transport::core::Transport;
use crate::transport::tls::TlsProtocol;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::inbox::{Inbox, Wake};
use rloop_core::placement::{Candidate, Load};
use rloop_core::steps::Mail;
use rloop_core::sync::{Mutex, ThreadCell};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub(super) struct Running {
    pub(super) shard: u64,
    pub(super) local: Local,
    /// The shard again, for what other shards are sent.
    this: Arc<Shard>,
    /// The shards that hold wake-ups until the step that runs has ended.
    waiting: Vec<Arc<Shard>>,
    /// The loop, as the handles that are made here refer to it; `None` if it has one shard.
    pub(super) own_loop: Option<Py<LoopOfShard>>,
}

impl Running {
    fn is_awaited_by(&self, shard: &Arc<Shard>) -> bool {
        self.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, shard))
    }
}

thread_local! {
    /// The shard that this thread drives.
    static RUNNING: ThreadCell<Option<Running>> = const { ThreadCell::new(None) };
    /// Its id, or 0: a copy for the question that each call on a transport asks.
    static DRIVEN: Cell<u64> = const { Cell::new(0) };
}

/// Returns what this thread drove before.
fn set_running(running: Option<Running>) -> Option<Running> {
    ThreadCell::lend(&RUNNING, |current| std::mem::replace(current, running))
}

/// Tells the shards of a process apart: the number of the loop, which is not zero, above the index
/// of the shard.
fn shard_id(loop_number: u64, index: u16) -> u64 {
    loop_number << 16 | u64::from(index)
}

/// The index of the shard that this thread drives, if it is one of that loop's.
pub(crate) fn driven_index(loop_number: u64) -> Option<u16> {
    let driven = DRIVEN.get();
    #[expect(clippy::cast_possible_truncation, reason = "the low half of an id is the index")]
    (driven >> 16 == loop_number).then_some(driven as u16)
}

/// The loop as the shard that this thread drives refers to it, if it is one of several of that loop;
/// and whether `context` is known to name that shard.
pub(crate) fn own_loop(
    py: Python<'_>,
    loop_number: u64,
    context: Option<&Bound<'_, PyContext>>,
) -> Option<(Py<LoopOfShard>, bool)> {
    ThreadCell::lend(&RUNNING, |running| {
        let running = running.as_ref().filter(|running| running.shard >> 16 == loop_number)?;
        let own = running.own_loop.as_ref()?.clone_ref(py);
        let is_known = context
            .is_some_and(|context| ffi::shares_variables_with_call_of(own.bind(py), context));
        Some((own, is_known))
    })
}

/// One thread of a loop.
pub(crate) struct Shard {
    pub(super) id: u64,
    pub(super) inbox: Inbox<Mail<Work>>,
    /// Invariant: `None` while a thread drives the shard.
    pub(super) parked: Mutex<Option<Local>>,
    /// `None` once the loop is closed.
    pub(super) io: Mutex<Option<Arc<ShardIo>>>,
    pub(super) process: process::Stamp,
    /// The interpreter ends: no further iteration is taken.
    pub(super) retired: AtomicBool,
    /// The transports that live here, those that are to open here, and what was spawned.
    pub(crate) load: Load,
    /// How many timers other threads have cancelled since the last iteration.
    cancelled_elsewhere: AtomicUsize,
    /// Whether what is written now is sent later: something runs that this shard started. Like the
    /// next, of the driving thread alone, and here because each callback asks.
    pub(super) gathers: AtomicBool,
    /// False if nothing is unsent.
    has_unsent: AtomicBool,
    /// Another shard holds wake-ups until the step that runs has ended. Of the driving thread alone.
    is_awaited: AtomicBool,
    /// The handle that runs, in debug mode.
    current_handle: Mutex<Option<Py<Handle>>>,
    pub(super) counters: Counters,
}

/// The descriptors of a shard.
pub(crate) struct ShardIo {
    /// The descriptors of others that the kernel watches for this shard.
    pub(crate) poller: Poller,
    pub(crate) driver: Driver,
}

impl ShardIo {
    /// Only the first shard may run on the main thread, which has to be reminded of signals.
    fn new(is_first: bool) -> io::Result<Self> {
        let driver = Driver::new(is_first)?;
        let poller = {
            let _entered = driver.enter();
            Poller::new()?
        };
        Ok(Self { poller, driver })
    }
}

impl Shard {
    /// Makes shard `index` of the loop with that number.
    pub(crate) fn new(loop_number: u64, index: u16) -> io::Result<Self> {
        Ok(Self {
            id: shard_id(loop_number, index),
            inbox: Inbox::new(),
            parked: Mutex::new(Some(Local::new())),
            io: Mutex::new(Some(Arc::new(ShardIo::new(index == 0)?))),
            process: process::Stamp::new(),
            retired: AtomicBool::new(false),
            load: Load::default(),
            cancelled_elsewhere: AtomicUsize::new(0),
            gathers: AtomicBool::new(false),
            has_unsent: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            current_handle: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// The index of the shard in its loop.
    pub(crate) fn index(&self) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "the low half of an id is the index")]
        let index = self.id as u16;
        index
    }

    /// How much was given to this shard and how busy it is, for the choice of the next home.
    pub(crate) fn candidate(&self) -> Candidate {
        Candidate { load: self.load.amount(), busy: self.counters.busy_by_now() }
    }

    /// The handle that runs, in debug mode.
    pub(crate) fn current_handle(&self, py: Python<'_>) -> Option<Py<Handle>> {
        self.current_handle.lock().as_ref().map(|handle| handle.clone_ref(py))
    }

    /// Notes which handle runs. Returns the one before, to be dropped.
    pub(crate) fn set_current_handle(&self, handle: Option<Py<Handle>>) -> Option<Py<Handle>> {
        std::mem::replace(&mut *self.current_handle.lock(), handle)
    }

    /// Turns the clock of the statistics on.
    pub(crate) fn start_timing(&self) {
        self.counters.start_timing();
    }

    /// What the shard has counted.
    pub(crate) fn statistics(&self) -> Reading {
        self.counters.read(self.inbox.pushed(), self.load.connections())
    }

    /// The descriptors of the shard; `None` if the loop is closed.
    pub(crate) fn open_io(&self) -> Option<Arc<ShardIo>> {
        self.io.lock().clone()
    }

    /// The descriptors of the shard.
    ///
    /// # Errors
    /// `RuntimeError` if the loop is closed.
    pub(crate) fn io(&self) -> PyResult<Arc<ShardIo>> {
        self.open_io().ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))
    }

    pub(super) fn wake(&self) {
        // A closed loop has nothing to wake.
        if let Some(io) = self.open_io() {
            io.driver.wake();
        }
    }

    /// Runs `operation` on the local part, if this thread may touch it now: because it drives the
    /// shard, or because nobody does. `operation` must not run Python code.
    pub(super) fn with_local<R>(&self, operation: impl FnOnce(&mut Local) -> R) -> Option<R> {
        ThreadCell::lend(&RUNNING, |running| match running {
            Some(running) if running.shard == self.id => Some(operation(&mut running.local)),
            _ => self.parked.lock().as_mut().map(|local| {
                // What this thread pushed while the shard ran comes first.
                local.take_mail(&self.inbox, None);
                operation(local)
            }),
        })
    }

    /// True on the thread that drives the shard.
    pub(crate) fn is_driven_here(&self) -> bool {
        DRIVEN.get() == self.id
    }

    /// True on every thread but the one that drives the shard, while one does.
    pub(crate) fn is_elsewhere(&self) -> bool {
        !self.is_driven_here() && self.parked.lock().is_none()
    }

    /// Queues `work` behind what this thread queued before. A wake-up that a step of another shard of the
    /// loop sends is held until that step has ended.
    pub(crate) fn push(self: &Arc<Self>, work: Work) {
        if let Some(work) = self.push_here(work) {
            self.push_remote(work);
        }
    }

    /// Queues `work`, which is not held, unless the step has sent something before that is.
    pub(crate) fn push_at_once(self: &Arc<Self>, work: Work) {
        let Some(work) = self.push_here(work) else {
            return;
        };
        if self.holds() {
            self.push_remote(work);
        } else {
            self.send(Mail::Now(work));
        }
    }

    /// True if this shard holds wake-ups of the step that this thread runs.
    fn holds(self: &Arc<Self>) -> bool {
        ThreadCell::lend(&RUNNING, |running| {
            running.as_ref().is_some_and(|running| running.is_awaited_by(self))
        })
    }

    /// Queues `work` if this thread may touch the local part; else returns it.
    fn push_here(&self, work: Work) -> Option<Work> {
        let mut work = Some(work);
        let queued = self.with_local(|local| match work.take() {
            Some(Work::Schedule(deadline, handle)) => {
                local.timers.insert(deadline, Scheduled(handle));
            }
            Some(work) => local.ready.push_back(work),
            None => (),
        });
        if queued.is_some() { None } else { work }
    }

    fn push_remote(self: &Arc<Self>, work: Work) {
        let held = if work.waits_for_step() { self.hold() } else { None };
        match held {
            None => self.send(Mail::Now(work)),
            // The first, though it is held: a sleeping shard sets its alarm, in case the step is blocked.
            Some((sender, true)) => self.send(Mail::Held(sender, work)),
            Some((sender, false)) => self.inbox.push_quietly(Mail::Held(sender, work)),
        }
    }

    /// Puts `mail` into the inbox, and wakes the shard if it sleeps.
    fn send(&self, mail: Mail<Work>) {
        if self.inbox.push(mail) == Wake::Needed {
            self.wake();
        }
    }

    /// Has the end of the step that this thread runs told to this shard, if both are of one loop. Returns
    /// the index of the shard that runs the step, and whether this is new.
    fn hold(self: &Arc<Self>) -> Option<(u16, bool)> {
        ThreadCell::lend(&RUNNING, |running| {
            let running = running.as_mut().filter(|it| it.shard >> 16 == self.id >> 16)?;
            let is_new = !running.is_awaited_by(self);
            if is_new {
                running.waiting.push(self.clone());
                running.this.is_awaited.store(true, Ordering::Relaxed);
            }
            Some((running.this.index(), is_new))
        })
    }

    /// Called when a step has ended: releases the wake-ups that it has sent to other shards.
    #[inline]
    pub(super) fn end_step(&self, py: Python<'_>) -> Result<(), Interrupt> {
        if self.is_awaited.load(Ordering::Relaxed) { self.release_waiting(py) } else { Ok(()) }
    }

    #[cold]
    fn release_waiting(&self, py: Python<'_>) -> Result<(), Interrupt> {
        // The writes that the step has gathered come before the tasks that it has woken.
        let sent = self.send_unsent(py);
        self.tell_step_end();
        sent
    }

    /// Tells those who wait for it that the step has ended.
    fn tell_step_end(&self) {
        self.is_awaited.store(false, Ordering::Relaxed);
        let waiting = ThreadCell::lend(&RUNNING, |running| {
            running.as_mut().map(|running| std::mem::take(&mut running.waiting))
        });
        for shard in waiting.into_iter().flatten() {
            shard.send(Mail::StepEnd(self.index()));
        }
    }

    /// Has what `connection` gathers sent after what runs now; false if nothing runs that this shard
    /// started, and it has to be sent at once.
    ///
    /// # Errors
    /// `MemoryError`.
    pub(crate) fn send_later(&self, connection: &Bound<'_, TlsProtocol>) -> PyResult<bool> {
        if !self.is_driven_here() || !self.gathers.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let context = ffi::copy_context(connection.py())?;
        let connection = connection.clone().unbind();
        let queued = self.with_local(|local| local.unsent.push_back((connection, context)));
        self.has_unsent.store(true, Ordering::Relaxed);
        Ok(queued.is_some())
    }

    /// True if something was gathered.
    pub(super) fn has_unsent(&self) -> bool {
        self.has_unsent.load(Ordering::Relaxed)
    }

    /// Sends what was gathered. After an interrupt, the next call sends the rest.
    pub(super) fn send_unsent(&self, py: Python<'_>) -> Result<(), Interrupt> {
        if self.has_unsent() { self.send_all_unsent(py) } else { Ok(()) }
    }

    #[inline(never)]
    fn send_all_unsent(&self, py: Python<'_>) -> Result<(), Interrupt> {
        while let Some(Some((connection, context))) =
            self.with_local(|local| local.unsent.pop_front())
        {
            // The connection is the parent's, and what it has gathered is the parent's to send.
            if !self.process.is_this() {
                continue;
            }
            let connection = connection.bind(py);
            ffi::in_context(context.bind(py), || TlsProtocol::send_gathered(connection))
                .or_else(|error| TlsProtocol::sending_failed(connection, error))?;
        }
        self.has_unsent.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The timers, the next one first; `None` while another thread drives the shard.
    pub(crate) fn timers(&self, py: Python<'_>) -> Option<Vec<Py<Handle>>> {
        self.with_local(|local| {
            // A timer that another thread set is on its way.
            let pushed = local.ready.iter().filter_map(|work| match work {
                Work::Schedule(_, handle) => Some(handle.clone_ref(py)),
                _ => None,
            });
            let scheduled = local.timers.iter().map(|scheduled| scheduled.0.clone_ref(py));
            scheduled.chain(pushed).collect()
        })
    }

    /// Takes all timers, to be dropped; `None` while another thread drives the shard.
    pub(crate) fn take_timers(&self) -> Option<Vec<Scheduled>> {
        self.with_local(|local| local.timers.take())
    }

    /// The handles that are ready to run; `None` while another thread drives the shard.
    pub(crate) fn ready_handles(&self, py: Python<'_>) -> Option<Vec<Py<PyAny>>> {
        self.with_local(|local| {
            let handles =
                local.ready.iter().chain(local.held.iter()).filter_map(|work| match work {
                    Work::Run(handle) => Some(handle.clone_ref(py).into_any()),
                    Work::RunForeign(handle) => Some(handle.clone_ref(py)),
                    _ => None,
                });
            handles.collect()
        })
    }

    /// Takes the handles that are ready to run, to be dropped; `None` while another thread drives the
    /// shard.
    pub(crate) fn take_ready_handles(&self) -> Option<Vec<Work>> {
        self.with_local(|local| {
            let all = std::mem::take(&mut local.ready);
            let is_handle = |work: &Work| matches!(work, Work::Run(_) | Work::RunForeign(_));
            let (handles, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_handle);
            local.ready = others.into();
            handles
        })
    }

    /// How much is ready to run, on the thread that drives the shard.
    pub(crate) fn ready_count(&self) -> usize {
        self.with_local(|local| local.ready.len()).unwrap_or(0)
    }

    /// Makes the shard take an iteration if it sleeps.
    pub(crate) fn notify(&self) {
        if self.inbox.notify() == Wake::Needed {
            self.wake();
        }
    }

    /// Makes the thread that drives the shard park for ever once its callback has returned.
    pub(crate) fn retire(&self) {
        // The inbox, which `notify` goes through, orders this before the iteration that sees it.
        self.retired.store(true, Ordering::Relaxed);
        self.notify();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Notes that a timer was cancelled.
    pub(crate) fn timer_cancelled(&self) {
        let dead = self.with_local(|local| local.timers.cancelled());
        if dead.is_none() {
            // The driving thread looks at its next iteration; nothing is worth waking it for.
            self.cancelled_elsewhere.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes the timers that other threads have cancelled. Called by the driving thread.
    pub(super) fn fold_cancelled_timers(&self) {
        if self.cancelled_elsewhere.load(Ordering::Relaxed) == 0 {
            return;
        }
        for _ in 0..self.cancelled_elsewhere.swap(0, Ordering::Relaxed) {
            drop(self.with_local(|local| local.timers.cancelled()));
        }
    }

    /// Keeps `transport` alive and lets events of its descriptor find it. Returns the transport that
    /// was there before, to be dropped.
    pub(crate) fn attach(
        &self,
        fd: RawFd,
        generation: u64,
        transport: Transport,
    ) -> Option<(u64, Transport)> {
        let index = usize::try_from(fd).ok()?;
        self.with_local(|local| {
            if local.transports.len() <= index {
                local.transports.resize_with(index + 1, || None);
            }
            local.transports[index].replace((generation, transport))
        })
        .flatten()
    }

    /// Undoes [`Shard::attach`].
    pub(crate) fn detach(&self, fd: RawFd, generation: u64) -> Option<(u64, Transport)> {
        self.with_local(|local| local.transport(fd)?.take_if(|(current, _)| *current == generation))
            .flatten()
    }

    /// Hands out everything the shard holds, so that the caller can drop it. The shard must be
    /// stopped.
    pub(crate) fn take_all(&self) -> impl Sized + use<> {
        let local = self.with_local(|local| std::mem::replace(local, Local::new()));
        let mut pushed = VecDeque::new();
        self.inbox.drain_into(&mut pushed);
        (local, pushed, self.take_io())
    }

    /// The descriptors, unless they are those of the process that forked this one. Such epoll sets
    /// and timers are shared with it: taking something out of them would take it from the parent.
    pub(super) fn take_io(&self) -> Option<Arc<ShardIo>> {
        let io = self.io.lock().take();
        if self.process.is_this() {
            io
        } else {
            std::mem::forget(io);
            None
        }
    }

    /// Visits what the shard holds, for garbage collection. Skips a shard that is running, which is
    /// no garbage.
    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(parked) = self.parked.try_lock() else {
            return Ok(());
        };
        let Some(local) = parked.as_ref() else {
            return Ok(());
        };
        local.timers.iter().try_for_each(|scheduled| visit.call(&scheduled.0))?;
        let deferred = local.deferred.iter().map(|(_, work)| work);
        for work in local.ready.iter().chain(deferred).chain(local.held.iter()) {
            match work {
                Work::Run(ready) | Work::Schedule(_, ready) => visit.call(ready)?,
                Work::Operate(pending) => pending.visit(visit)?,
                Work::StartReading(started) => started.visit(|object| visit.call(object))?,
                Work::Fail(transport, error) => {
                    visit.call(transport)?;
                    visit.call(error)?;
                }
                Work::Remote(call) => call.visit(|object| visit.call(object))?,
                Work::RunForeign(_) | Work::Event(_) => (),
            }
        }
        let mut kept = local.transports.iter().flatten();
        kept.try_for_each(|(_, transport)| transport.visit(|object| visit.call(object)))
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        drop(self.take_io());
    }
}

/// The driving thread's hold on a shard's local part.
pub(super) struct Seat<'a> {
    pub(super) shard: &'a Shard,
    /// What the thread drove before, which waits until this seat is given up.
    pub(super) outer: Option<Running>,
}

impl<'a> Seat<'a> {
    pub(super) fn take(shard: &'a Arc<Shard>, event_loop: &Bound<'_, EventLoop>) -> PyResult<Self> {
        let own_loop = LoopOfShard::create(event_loop, shard.index())?;
        let local = shard.parked.lock().take();
        let local =
            local.ok_or_else(|| PyRuntimeError::new_err("This event loop is already running"))?;
        let (this, waiting) = (shard.clone(), Vec::new());
        let running = Running { shard: shard.id, local, this, waiting, own_loop };
        let outer = set_running(Some(running));
        DRIVEN.set(shard.id);
        Ok(Self { shard, outer })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        // The step that ended the run.
        self.shard.tell_step_end();
        let outer = self.outer.take();
        DRIVEN.set(outer.as_ref().map_or(0, |outer| outer.shard));
        let Some(Running { mut local, own_loop, this: _this, .. }) = set_running(outer) else {
            return;
        };
        // The next run may be on another thread.
        local.take_events();
        *self.shard.parked.lock() = Some(local);
        // Only now, because no lock is held while a reference is dropped.
        drop(own_loop);
    }
}
