//! A shard: one thread of the loop, its queues, and the order of one turn.
//!
//! # Theory of operation
//!
//! What only the driving thread touches is in [`Local`]. While a shard runs, its `Local` lies in a
//! thread-local of that thread, so `call_soon` takes no lock; while it is stopped, it lies in the
//! shard, under a lock, and any thread may add to it. Everybody else goes through the inbox.
//!
//! A turn is asyncio's `_run_once` with the wait moved to its end: take what the wait brought
//! (events, inbox, due timers), run what was ready at that point, then decide how to wait. What
//! events and timers woke runs at the end of the same turn, so that a task that waits for a packet
//! costs no second look at the kernel; callbacks scheduled after that wait for the next turn.
//!
//! The thread is attached to Python for the turn and detached for the wait, whether or not the wait
//! blocks: other threads get the GIL, and a stop-the-world request is not held up by a busy loop.

use crate::driving::clock;
use crate::driving::driver::{self, Driver};
use crate::driving::process;
use crate::driving::registration::{self, Direction, Event, Fired};
use crate::python::error::OrOsError;
use crate::python::event_loop::EventLoop;
use crate::python::ffi::{self, Detached};
use crate::python::handle::{Handle, Scheduled};
use crate::python::stream_transport::{Remote, StreamTransport};
use crate::python::watches::Watches;
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rloop_core::inbox::{Inbox, Park, Wake};
use rloop_core::timers::TimerHeap;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

/// How far the clock may seem to lag behind the timer that rang, in seconds.
const ALARM_MARGIN: f64 = 1e-3;

/// Something for a shard to do.
pub(crate) enum Work {
    /// Run a handle.
    Run(Py<Handle>),
    /// Run an `asyncio.Handle` that the standard library made.
    RunForeign(Py<PyAny>),
    /// Run a handle at a deadline, in seconds on the loop's clock.
    Schedule(f64, Py<Handle>),
    /// A stream socket is ready.
    Event(Event),
    /// A transport may start to read.
    StartReading(Py<StreamTransport>),
    /// A call on a transport that was made on another thread.
    Remote(Py<StreamTransport>, Box<Remote>),
}

/// How a turn ends.
enum Wait {
    /// The loop stops.
    Never,
    /// Something is ready: ask the kernel without blocking.
    Poll,
    /// Wait until something comes.
    Park,
}

/// What is left at the end of a turn.
enum Settled {
    /// So many items are ready.
    Ready(usize),
    /// The next turn has something to do.
    Pushed,
    /// Nothing.
    Parked,
}

/// How much a turn has to do, in this order.
struct Turn {
    /// Callbacks that were ready before the wait.
    left_over: usize,
    /// Events of sockets.
    events: usize,
    /// What came otherwise: watched descriptors, the inbox, due timers.
    arrived: usize,
}

/// What only the driving thread touches.
struct Local {
    ready: VecDeque<Work>,
    /// The events of the current turn; those before `next_event` were dispatched.
    events: Vec<Event>,
    next_event: usize,
    timers: TimerHeap<Scheduled>,
    /// The deadline the driver's alarm is set to, if it may still come.
    alarm: Option<f64>,
    /// The transports whose sockets are registered, by descriptor. This keeps them alive.
    streams: Vec<Option<(u64, Py<StreamTransport>)>>,
    /// The watches have to be looked at: an event came, or the last look found something.
    watches_active: bool,
    /// The handles of a look before the wait are ready; they count as the next turn's.
    looked_ahead: bool,
}

impl Local {
    fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            events: Vec::new(),
            next_event: 0,
            timers: TimerHeap::new(),
            alarm: None,
            streams: Vec::new(),
            // The first look asks for the first event.
            watches_active: true,
            looked_ahead: false,
        }
    }

    /// Takes over the events that fired on this thread.
    fn take_events(&mut self) {
        if self.next_event == self.events.len() {
            self.events.clear();
            self.next_event = 0;
        }
        self.watches_active |= registration::take_events(&mut self.events);
    }

    /// Takes over the events that fired on another thread.
    fn accept(&mut self, fired: Fired) {
        self.events.extend(fired.events);
        self.watches_active |= fired.polled;
    }

    /// The transport of the next event of this turn and what it may do; `None` after the last.
    fn next_event<'py>(
        &mut self,
        py: Python<'py>,
    ) -> Option<(Bound<'py, StreamTransport>, Direction)> {
        while let Some(event) = self.events.get(self.next_event).copied() {
            self.next_event += 1;
            if let Some(transport) = self.target(py, event) {
                return Some((transport, event.direction));
            }
        }
        None
    }

    /// The transport that an event is for, unless it was closed after the event fired.
    fn target<'py>(
        &mut self,
        py: Python<'py>,
        event: Event,
    ) -> Option<Bound<'py, StreamTransport>> {
        match self.stream(event.fd)? {
            Some((generation, transport)) if *generation == event.generation => {
                Some(transport.bind(py).clone())
            }
            _ => None,
        }
    }

    /// Queues the handles of ready descriptors.
    fn collect_watches(&mut self, py: Python<'_>, watches: &Watches) -> io::Result<()> {
        self.watches_active =
            watches.collect(py, |handle| self.ready.push_back(Work::Run(handle)))?;
        Ok(())
    }

    /// Queues the timers that are due.
    fn collect_due_timers(&mut self) {
        if self.timers.is_empty() && self.alarm.is_none() {
            return;
        }
        let now = clock::now();
        while let Some(Scheduled(handle)) = self.timers.pop_due(now) {
            self.ready.push_back(Work::Run(handle));
        }
        // An alarm that may have rung is set again before the next wait: the margin makes sure that
        // one which rang while the clock lags behind is not taken for one to come.
        if self.alarm.is_some_and(|alarm| alarm <= now + ALARM_MARGIN) {
            self.alarm = None;
        }
    }

    /// The deadline that the alarm has to be set to before a wait, if it has to.
    fn next_alarm(&mut self) -> Option<f64> {
        let next = self.timers.next_deadline()?;
        if self.alarm.is_some_and(|alarm| alarm <= next) {
            return None;
        }
        self.alarm = Some(next);
        Some(next)
    }

    /// The place of a descriptor in `streams`, if it has one.
    fn stream(&mut self, fd: RawFd) -> Option<&mut Option<(u64, Py<StreamTransport>)>> {
        self.streams.get_mut(usize::try_from(fd).ok()?)
    }
}

struct Running {
    shard: u64,
    local: Local,
}

thread_local! {
    /// The shard that this thread drives.
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
    /// Its id, or 0: a copy for the question that each call on a transport asks.
    static DRIVEN: Cell<u64> = const { Cell::new(0) };
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One thread of a loop.
pub(crate) struct Shard {
    /// Tells the shards of a process apart.
    id: u64,
    inbox: Inbox<Work>,
    /// Invariant: `None` while a thread drives the shard.
    parked: Mutex<Option<Local>>,
    /// `None` once the loop is closed.
    io: Mutex<Option<Arc<ShardIo>>>,
    process: process::Stamp,
}

/// The descriptors of a shard.
pub(crate) struct ShardIo {
    pub(crate) watches: Watches,
    pub(crate) driver: Driver,
}

impl ShardIo {
    fn new() -> io::Result<Self> {
        let driver = Driver::new()?;
        let watches = {
            let _entered = driver.enter();
            Watches::new()?
        };
        Ok(Self { watches, driver })
    }
}

impl Shard {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            inbox: Inbox::new(),
            parked: Mutex::new(Some(Local::new())),
            io: Mutex::new(Some(Arc::new(ShardIo::new()?))),
            process: process::Stamp::new(),
        })
    }

    /// The descriptors of the shard.
    ///
    /// # Errors
    /// `RuntimeError` if the loop is closed.
    pub(crate) fn io(&self) -> PyResult<Arc<ShardIo>> {
        self.io.lock().clone().ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))
    }

    fn wake(&self) {
        // A closed loop has nothing to wake.
        let io = self.io.lock().clone();
        if let Some(io) = io {
            io.driver.wake();
        }
    }

    /// Runs `operation` on the local part, if this thread may touch it now: because it drives the
    /// shard, or because nobody does. `operation` must not run Python code.
    fn with_local<R>(&self, operation: impl FnOnce(&mut Local) -> R) -> Option<R> {
        RUNNING.with_borrow_mut(|running| match running {
            Some(running) if running.shard == self.id => Some(operation(&mut running.local)),
            _ => self.parked.lock().as_mut().map(operation),
        })
    }

    /// True on every thread but the one that drives the shard, while one does.
    pub(crate) fn is_elsewhere(&self) -> bool {
        DRIVEN.get() != self.id && self.parked.lock().is_none()
    }

    /// Queues `work` behind what this thread queued before.
    pub(crate) fn push(&self, work: Work) {
        let mut work = Some(work);
        let queued = self.with_local(|local| match work.take() {
            Some(Work::Schedule(deadline, handle)) => {
                local.timers.insert(deadline, Scheduled(handle));
            }
            Some(work) => local.ready.push_back(work),
            None => (),
        });
        if let (None, Some(work)) = (queued, work) {
            self.push_remote(work);
        }
    }

    /// Queues `work` through the inbox and wakes the shard if it sleeps.
    fn push_remote(&self, work: Work) {
        if self.inbox.push(work) == Wake::Needed {
            self.wake();
        }
    }

    /// Makes the shard take a turn if it sleeps.
    pub(crate) fn notify(&self) {
        if self.inbox.notify() == Wake::Needed {
            self.wake();
        }
    }

    /// Notes that a timer was cancelled.
    pub(crate) fn timer_cancelled(&self) {
        // A timer that is cancelled elsewhere is dropped when it is due.
        drop(self.with_local(|local| local.timers.cancelled()));
    }

    /// Keeps `transport` alive and lets events of its socket find it. Returns the transport that
    /// was there before, to be dropped.
    pub(crate) fn attach_stream(
        &self,
        fd: RawFd,
        generation: u64,
        transport: Py<StreamTransport>,
    ) -> Option<(u64, Py<StreamTransport>)> {
        let index = usize::try_from(fd).ok()?;
        self.with_local(|local| {
            if local.streams.len() <= index {
                local.streams.resize_with(index + 1, || None);
            }
            local.streams[index].replace((generation, transport))
        })
        .flatten()
    }

    /// Undoes [`Shard::attach_stream`].
    pub(crate) fn detach_stream(
        &self,
        fd: RawFd,
        generation: u64,
    ) -> Option<(u64, Py<StreamTransport>)> {
        self.with_local(|local| local.stream(fd)?.take_if(|(current, _)| *current == generation))
            .flatten()
    }

    /// Drives the shard on this thread until `stop()` takes effect.
    ///
    /// In the child of a `fork()` that a callback called, this thread is still inside the runtime of
    /// the parent's loop, which tokio does not let it enter again. There every wait is done on a
    /// thread of its own: slow, and right.
    ///
    /// # Errors
    /// What a callback or a signal handler raised to end the run, and `RuntimeError` if another
    /// thread drives the shard.
    pub(crate) fn run(&self, event_loop: &Bound<'_, EventLoop>) -> PyResult<()> {
        let io = self.io()?;
        let _seat = Seat::take(self)?;
        let owner = event_loop.clone().unbind();
        let take_turn =
            |thread: &Detached| thread.attached(|py| self.take_turn(owner.bind(py), &io));
        if driver::is_inside_a_runtime() {
            return ffi::detached(event_loop.py(), |thread| {
                loop {
                    let may_block = match take_turn(thread)? {
                        Wait::Never => return Ok(()),
                        Wait::Poll => false,
                        Wait::Park => true,
                    };
                    let fired = io.driver.wait_on_another_thread(may_block);
                    self.with_local(|local| local.accept(fired));
                }
            });
        }
        ffi::detached(event_loop.py(), |thread| {
            io.driver.run(|context| match take_turn(thread) {
                Ok(Wait::Never) => Poll::Ready(Ok(())),
                Ok(Wait::Poll) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Ok(Wait::Park) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            })
        })
    }

    /// One turn of the loop; returns how to wait for the next.
    fn take_turn(&self, event_loop: &Bound<'_, EventLoop>, io: &ShardIo) -> PyResult<Wait> {
        let py = event_loop.py();
        let turn = self.begin_turn(py, &io.watches)?;
        // What comes from outside wakes tasks; they run in the same turn.
        let mut may_wake = turn.events + turn.arrived > 0;
        self.run_turn(event_loop, turn)?;
        loop {
            if event_loop.get().is_stopping() {
                return Ok(Wait::Never);
            }
            match self.settle(py, io).or_os_error(py)? {
                Settled::Parked => return Ok(Wait::Park),
                Settled::Ready(woken) if may_wake => {
                    may_wake = false;
                    self.run_ready(event_loop, woken)?;
                }
                Settled::Ready(_) | Settled::Pushed => return Ok(Wait::Poll),
            }
        }
    }

    /// Takes what the wait brought.
    fn begin_turn(&self, py: Python<'_>, watches: &Watches) -> PyResult<Turn> {
        let begun = self.with_local(|local| {
            let left_over = local.ready.len();
            local.take_events();
            if local.watches_active && !std::mem::take(&mut local.looked_ahead) {
                local.collect_watches(py, watches)?;
            }
            if self.inbox.begin() {
                self.inbox.drain_into(&mut local.ready);
            }
            local.collect_due_timers();
            io::Result::Ok(Turn {
                left_over,
                arrived: local.ready.len() - left_over,
                events: local.events.len() - local.next_event,
            })
        });
        let turn =
            begun.unwrap_or(Ok(Turn { left_over: 0, arrived: 0, events: 0 })).or_os_error(py)?;
        if turn.left_over + turn.arrived + turn.events == 0 {
            // A signal that interrupted the wait has its Python handler run here; if something is
            // ready, the interpreter sees to it when that runs.
            py.check_signals()?;
        }
        Ok(turn)
    }

    /// Does what was ready when the turn began, and nothing that is added meanwhile.
    fn run_turn(&self, event_loop: &Bound<'_, EventLoop>, turn: Turn) -> PyResult<()> {
        let py = event_loop.py();
        if turn.left_over > 0 {
            self.run_ready(event_loop, turn.left_over)?;
        }
        for _ in 0..turn.events {
            let Some(Some((transport, direction))) = self.with_local(|local| local.next_event(py))
            else {
                break;
            };
            Self::dispatch(&transport, direction)?;
        }
        if turn.arrived > 0 {
            self.run_ready(event_loop, turn.arrived)?;
        }
        Ok(())
    }

    fn dispatch(transport: &Bound<'_, StreamTransport>, direction: Direction) -> PyResult<()> {
        match direction {
            Direction::Write => StreamTransport::on_writable(transport),
            Direction::Read => StreamTransport::on_readable(transport),
        }
    }

    /// Runs the `count` oldest items of the ready queue.
    fn run_ready(&self, event_loop: &Bound<'_, EventLoop>, count: usize) -> PyResult<()> {
        let py = event_loop.py();
        for _ in 0..count {
            let Some(Some(work)) = self.with_local(|local| local.ready.pop_front()) else {
                break;
            };
            match work {
                Work::Run(handle) => event_loop.get().run_handle(event_loop, handle.bind(py))?,
                Work::RunForeign(handle) => {
                    if !handle.getattr(py, "_cancelled")?.is_truthy(py)? {
                        handle.call_method0(py, "_run")?;
                    }
                }
                Work::Schedule(deadline, handle) => {
                    self.with_local(|local| local.timers.insert(deadline, Scheduled(handle)));
                }
                Work::Event(event) => {
                    if let Some(Some(transport)) = self.with_local(|local| local.target(py, event))
                    {
                        Self::dispatch(&transport, event.direction)?;
                    }
                }
                Work::StartReading(transport) => StreamTransport::start_reading(transport.bind(py)),
                Work::Remote(transport, call) => {
                    StreamTransport::run_remote(transport.bind(py), *call)?;
                }
            }
        }
        Ok(())
    }

    /// Finds out whether the turn may end in a wait that blocks. If so, the alarm is set and the next
    /// push from elsewhere wakes the shard.
    fn settle(&self, py: Python<'_>, io: &ShardIo) -> io::Result<Settled> {
        let ready = self.with_local(|local| {
            // A descriptor that was ready may still be: only the kernel knows whether its callback
            // left something behind.
            if local.ready.is_empty() && local.watches_active {
                local.collect_watches(py, &io.watches)?;
                local.looked_ahead = !local.ready.is_empty();
                if local.looked_ahead || local.watches_active {
                    return io::Result::Ok(Settled::Pushed);
                }
            }
            if !local.ready.is_empty() {
                return Ok(Settled::Ready(local.ready.len()));
            }
            if let Some(deadline) = local.next_alarm() {
                io.driver.alarm().set(deadline)?;
            }
            Ok(Settled::Parked)
        });
        match ready.unwrap_or(Ok(Settled::Parked))? {
            Settled::Parked if self.inbox.park() == Park::Refused => Ok(Settled::Pushed),
            settled => Ok(settled),
        }
    }

    /// Hands out everything the shard holds, so that the caller can drop it. The shard must be
    /// stopped.
    pub(crate) fn take_all(&self) -> impl Sized + use<> {
        let local = self.with_local(|local| std::mem::replace(local, Local::new()));
        let mut pushed = VecDeque::new();
        self.inbox.drain_into(&mut pushed);
        let io = self.take_io();
        let watched = io.as_ref().map(|io| io.watches.clear());
        (local, pushed, watched, io)
    }

    /// The descriptors, unless they are those of the process that forked this one. Such epoll sets
    /// and timers are shared with it: taking something out of them would take it from the parent.
    fn take_io(&self) -> Option<Arc<ShardIo>> {
        let io = self.io.lock().take();
        if self.process.is_this() {
            io
        } else {
            std::mem::forget(io);
            None
        }
    }

    /// Calls `visit` with every handle and transport, for garbage collection. Skips a shard that is
    /// running, which is no garbage.
    pub(crate) fn visit<E>(
        &self,
        mut handle: impl FnMut(&Py<Handle>) -> Result<(), E>,
        mut transport: impl FnMut(&Py<StreamTransport>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(io) = self.io.try_lock().and_then(|io| io.clone()) {
            io.watches.visit(&mut handle)?;
        }
        let Some(parked) = self.parked.try_lock() else {
            return Ok(());
        };
        let Some(local) = parked.as_ref() else {
            return Ok(());
        };
        local.timers.iter().try_for_each(|scheduled| handle(&scheduled.0))?;
        for work in &local.ready {
            match work {
                Work::Run(ready) | Work::Schedule(_, ready) => handle(ready)?,
                Work::StartReading(stream) | Work::Remote(stream, _) => transport(stream)?,
                Work::RunForeign(_) | Work::Event(_) => (),
            }
        }
        local.streams.iter().flatten().try_for_each(|(_, stream)| transport(stream))
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        drop(self.take_io());
    }
}

/// The driving thread's hold on a shard's local part.
struct Seat<'a> {
    shard: &'a Shard,
    /// What the thread drove before, which waits until this seat is given up.
    outer: Option<Running>,
}

impl<'a> Seat<'a> {
    fn take(shard: &'a Shard) -> PyResult<Self> {
        let local = shard.parked.lock().take();
        let local =
            local.ok_or_else(|| PyRuntimeError::new_err("This event loop is already running"))?;
        let outer = RUNNING.replace(Some(Running { shard: shard.id, local }));
        DRIVEN.set(shard.id);
        Ok(Self { shard, outer })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let outer = self.outer.take();
        DRIVEN.set(outer.as_ref().map_or(0, |outer| outer.shard));
        let running = RUNNING.replace(outer);
        *self.shard.parked.lock() = running.map(|running| {
            let mut local = running.local;
            // The next run may be on another thread.
            local.take_events();
            local
        });
    }
}
