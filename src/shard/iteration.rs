//! The run of a shard, and the order of one iteration.
//!
//! An iteration contains every error of user code but an [`Interrupt`]; see [`Failure`] for what ends
//! a run.

use super::handle::{Seat, Shard, ShardIo};
use super::local::Work;
use crate::loop_::event_loop::EventLoop;
use crate::loop_::handle::{RunBy, Scheduled};
use crate::loop_::overrides::Overrides;
use crate::py::error::os_error;
use crate::py::ffi;
use crate::py::ffi::Detached;
use crate::py::interrupt::Interrupt;
use crate::runtime::sys;
use crate::runtime::{clock, driver};
use crate::shard::crew::Crew;
use crate::shard::exit;
use crate::transport::stream::StreamTransport;
use pyo3::prelude::*;
use rloop_core::inbox::Park;
use rloop_core::signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

/// How much an iteration takes out of the inbox. Other threads may fill it faster than it is emptied, and
/// then iterations would become ever longer, with nobody looking at signals and descriptors meanwhile.
const TAKEN_PER_ITERATION: usize = 1024;

/// How many iterations may pass without a look at signals. Callbacks and protocols may be native code, in
/// which the interpreter does not look.
const ITERATIONS_PER_SIGNAL_CHECK: u8 = 64;

/// How long what callbacks write may wait for what the next ones write, in seconds. A packet for a
/// process of the same machine that sleeps has to wake it, which costs several times as much as to send
/// the packet; behind the first, the others find it awake. So few callbacks as run meanwhile win most
/// of that, and nobody notices.
const LONGEST_UNSENT: f64 = 200e-6;

/// Whose run it is, which decides when it is over.
pub(crate) enum Role<'a> {
    /// Shard 0.
    Main,
    /// Another shard.
    Worker(&'a Crew),
}

impl Role<'_> {
    fn is_over(&self, event_loop: &EventLoop) -> bool {
        match self {
            Role::Main => event_loop.is_stopping(),
            Role::Worker(crew) => crew.is_halting(),
        }
    }
}

/// What ends a run before `stop()` takes effect. There is no conversion from any other exception.
#[derive(Debug)]
pub(super) enum Failure {
    /// User code raised `KeyboardInterrupt` or `SystemExit`.
    Interrupt(Interrupt),
    /// A handler of the `signal` module raised it between two callbacks, so it is no callback's
    /// failure. As in asyncio it ends the run: a timeout by `SIGALRM` relies on that.
    SignalHandler(PyErr),
    /// The kernel did not tell which descriptors are ready, or did not set the alarm.
    Kernel(PyErr),
    /// The program's clock raised it, see [`EventLoop::now`]. As in asyncio it ends the run.
    Clock(PyErr),
}

impl From<Interrupt> for Failure {
    fn from(interrupt: Interrupt) -> Self {
        Self::Interrupt(interrupt)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Interrupt(interrupt) => interrupt.into(),
            Failure::SignalHandler(error) | Failure::Kernel(error) | Failure::Clock(error) => error,
        }
    }
}

impl Failure {
    /// Runs the handlers of the `signal` module for the signals that came.
    fn check_signals(py: Python<'_>) -> Result<(), Self> {
        py.check_signals().map_err(Self::SignalHandler)
    }

    pub(super) fn kernel(py: Python<'_>, error: &io::Error) -> Self {
        Self::Kernel(os_error(py, error))
    }
}

/// How an iteration ends.
enum Wait {
    /// The loop stops.
    Never,
    /// The interpreter ends.
    Forever,
    /// Something is ready: ask the kernel without blocking.
    Poll,
    /// Wait until something comes.
    Park,
}

/// What is left at the end of an iteration.
pub(super) enum Settled {
    /// So many items are ready.
    Ready(usize),
    /// The next iteration has something to do.
    Pushed,
    /// Nothing.
    Parked,
}

/// How much an iteration has to do, in this order.
#[derive(Default)]
pub(super) struct Iteration {
    /// Callbacks that were ready before the wait.
    pub(super) left_over: usize,
    /// Events of transports.
    pub(super) events: usize,
    /// What came otherwise: watched descriptors, the inbox, due timers.
    pub(super) arrived: usize,
}

impl Iteration {
    fn depth(&self) -> usize {
        self.left_over + self.events + self.arrived
    }
}

impl Shard {
    /// Drives the shard on this thread until its run is over.
    ///
    /// In the child of a `fork()` that a callback called, this thread is still inside the runtime of
    /// the parent's loop, which tokio does not let it enter again. There every wait is done on a
    /// thread of its own: slow, and right.
    ///
    /// # Errors
    /// What a callback or a signal handler raised to end the run, and `RuntimeError` if another
    /// thread drives the shard.
    pub(crate) fn run(
        self: &Arc<Self>,
        event_loop: &Bound<'_, EventLoop>,
        role: &Role<'_>,
    ) -> PyResult<()> {
        let io = self.io()?;
        let _seat = Seat::take(self, event_loop)?;
        let is_main_thread = matches!(role, Role::Main) && event_loop.get().runs_on_main_thread();
        self.with_local(|local| local.signals.begin(is_main_thread));
        let run = exit::Run::begin(self);
        let result = sys::hanging_at_exit(|| self.run_iterations(event_loop, role, &io, &run));
        let result = result.map_err(PyErr::from);
        self.counters.stop();
        result
    }

    fn run_iterations(
        &self,
        event_loop: &Bound<'_, EventLoop>,
        role: &Role<'_>,
        io: &ShardIo,
        run: &exit::Run,
    ) -> Result<(), Failure> {
        let owner = event_loop.clone().unbind();
        let run_iteration =
            |thread: &Detached| thread.attached(|py| self.run_iteration(owner.bind(py), role, io));
        if driver::is_inside_a_runtime() {
            return ffi::detached(event_loop.py(), |thread| {
                loop {
                    let may_block = match run_iteration(thread)? {
                        Wait::Never => return Ok(()),
                        Wait::Forever => run.park_for_ever(),
                        Wait::Poll => false,
                        Wait::Park => true,
                    };
                    let fired = io.driver.wait_on_another_thread(may_block);
                    self.with_local(|local| local.accept(fired));
                }
            });
        }
        ffi::detached(event_loop.py(), |thread| {
            io.driver.run(|context| match run_iteration(thread) {
                Ok(Wait::Never) => Poll::Ready(Ok(())),
                Ok(Wait::Forever) => run.park_for_ever(),
                Ok(Wait::Poll) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Ok(Wait::Park) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            })
        })
    }

    /// One iteration of the loop; returns how to wait for the next.
    fn run_iteration(
        &self,
        event_loop: &Bound<'_, EventLoop>,
        role: &Role<'_>,
        io: &ShardIo,
    ) -> Result<Wait, Failure> {
        let py = event_loop.py();
        if self.is_retired() {
            // A worker's thread is the loop's own, so it can be ended and joined.
            return Ok(if matches!(role, Role::Worker(_)) { Wait::Never } else { Wait::Forever });
        }
        self.counters.begin_iteration();
        let end_time = EventLoop::end_time(event_loop).map_err(Failure::Clock)?;
        let iteration = self.begin_iteration(event_loop, io, end_time)?;
        // What comes from outside wakes tasks; they run in the same iteration.
        let mut may_wake = iteration.events + iteration.arrived > 0;
        self.gathering(py, || self.run_due(event_loop, iteration))?;
        loop {
            if role.is_over(event_loop.get()) {
                return Ok(Wait::Never);
            }
            // Asked again, because `begin_iteration` may have taken the notification down.
            if self.is_retired() {
                return Ok(Wait::Poll);
            }
            let timeout = self.timeout(event_loop).map_err(Failure::Clock)?;
            match self
                .settle(event_loop, io, timeout)
                .map_err(|error| Failure::kernel(py, &error))?
            {
                Settled::Parked => {
                    self.counters.park();
                    return Ok(Wait::Park);
                }
                Settled::Ready(woken) if may_wake => {
                    may_wake = false;
                    self.gathering(py, || self.run_ready(event_loop, woken))?;
                }
                Settled::Ready(_) | Settled::Pushed => return Ok(Wait::Poll),
            }
        }
    }

    /// Takes what the wait brought. `end_time` is that of [`EventLoop::end_time`].
    #[expect(clippy::inline_always, reason = "once per iteration; `step` is the second caller")]
    #[inline(always)]
    pub(super) fn begin_iteration(
        &self,
        event_loop: &Bound<'_, EventLoop>,
        io: &ShardIo,
        end_time: Option<f64>,
    ) -> Result<Iteration, Failure> {
        let py = event_loop.py();
        let watches = event_loop.get().watches();
        let begun = self.with_local(|local| {
            let left_over = local.ready.len();
            local.take_events();
            let looked_ahead = std::mem::take(&mut local.looked_ahead);
            if local.watches_active && !looked_ahead {
                local.collect_watches(py, self.index(), watches, &io.poller)?;
            }
            let has_mail = self.inbox.begin();
            if has_mail {
                local.take_mail(&self.inbox, Some(TAKEN_PER_ITERATION));
            }
            if !local.held.is_empty() {
                local.release_overdue(&self.inbox);
            }
            local.collect_due_timers(end_time);
            let iteration = Iteration {
                left_over,
                arrived: local.ready.len() - left_over,
                events: local.events.len() - local.next_event,
            };
            // A signal that interrupted the wait has its Python handler run here. If something is
            // ready, the interpreter sees to it when that runs, unless it is native code.
            local.unchecked_iterations += 1;
            if iteration.depth() > 0 {
                local.signals.note_run();
            }
            let is_check_due = has_mail
                || iteration.depth() == 0
                || local.unchecked_iterations == ITERATIONS_PER_SIGNAL_CHECK;
            if is_check_due {
                local.unchecked_iterations = 0;
            }
            io::Result::Ok((iteration, is_check_due))
        });
        self.fold_cancelled_timers();
        let (iteration, is_check_due) = begun
            .unwrap_or_else(|| Ok((Iteration::default(), true)))
            .map_err(|error| Failure::kernel(py, &error))?;
        self.counters.set_depth(iteration.depth());
        if is_check_due {
            Failure::check_signals(py)?;
        }
        Ok(iteration)
    }

    /// Runs `operation`, which sends what it has written. If it is interrupted, that is done here.
    #[expect(clippy::inline_always, reason = "once per iteration; `step` is the second caller")]
    #[inline(always)]
    pub(super) fn gathering(
        &self,
        py: Python<'_>,
        operation: impl FnOnce() -> Result<(), Interrupt>,
    ) -> Result<(), Interrupt> {
        self.gathers.store(true, Ordering::Relaxed);
        let ran = operation();
        self.gathers.store(false, Ordering::Relaxed);
        // An interrupted step has ended, too.
        let ran = ran.and(self.end_step(py));
        // An interrupted `operation` returned before sending. The connections that a second interrupt
        // leaves unsent are sent in the next iteration.
        ran.and(self.send_unsent(py))
    }

    /// Does what was ready when the iteration began, and nothing that is added meanwhile.
    #[expect(clippy::inline_always, reason = "once per iteration; `step` is the second caller")]
    #[inline(always)]
    pub(super) fn run_due(
        &self,
        event_loop: &Bound<'_, EventLoop>,
        iteration: Iteration,
    ) -> Result<(), Interrupt> {
        let py = event_loop.py();
        if iteration.left_over > 0 {
            self.run_ready(event_loop, iteration.left_over)?;
        }
        for _ in 0..iteration.events {
            let Some(Some((transport, direction))) = self.with_local(|local| local.next_event(py))
            else {
                break;
            };
            transport.on_event(event_loop, direction)?;
            self.send_unsent(py)?;
            self.end_step(py)?;
            self.counters.ran();
        }
        if iteration.arrived > 0 {
            self.run_ready(event_loop, iteration.arrived)?;
        }
        Ok(())
    }

    /// Runs the `count` oldest items of the ready queue. What callbacks write is sent after the last,
    /// or after the one that makes it wait for long.
    fn run_ready(&self, event_loop: &Bound<'_, EventLoop>, count: usize) -> Result<(), Interrupt> {
        let py = event_loop.py();
        let way = RunBy::now(py);
        let mut sent_at = if count > 1 { clock::now() } else { 0.0 };
        for left in (0..count).rev() {
            let Some(Some(work)) = self.with_local(|local| local.ready.pop_front()) else {
                break;
            };
            if !matches!(work, Work::Run(_) | Work::RunForeign(_)) {
                // What comes from outside may end a connection.
                self.send_unsent(py)?;
            }
            match work {
                Work::Run(handle) => {
                    event_loop.get().run_handle(event_loop, handle.bind(py), way)?;
                }
                Work::Operate(pending) => pending.retry(event_loop)?,
                Work::RunForeign(handle) => {
                    EventLoop::run_foreign_handle(event_loop, handle.bind(py))?;
                }
                Work::Schedule(deadline, handle) => {
                    self.with_local(|local| local.timers.insert(deadline, Scheduled(handle)));
                }
                Work::Event(event) => {
                    if let Some(Some(transport)) = self.with_local(|local| local.target(py, event))
                    {
                        transport.on_event(event_loop, event.direction)?;
                    }
                }
                Work::StartReading(transport) => transport.start_reading(event_loop)?,
                Work::Fail(transport, error) => {
                    StreamTransport::fail(transport.bind(py), event_loop, error)?;
                }
                Work::Remote(call) => call.run(event_loop)?,
            }
            self.end_step(py)?;
            if left > 0 {
                self.send_overdue(py, &mut sent_at)?;
            }
            self.counters.ran();
        }
        self.send_unsent(py)
    }

    /// Sends what was gathered if that last happened long ago, at `sent_at` on the loop's clock. So a
    /// callback that takes long has what it wrote sent when it returns.
    fn send_overdue(&self, py: Python<'_>, sent_at: &mut f64) -> Result<(), Interrupt> {
        if self.has_unsent() {
            let now = clock::now();
            if now - *sent_at >= LONGEST_UNSENT {
                *sent_at = now;
                return self.send_unsent(py);
            }
        }
        Ok(())
    }

    /// How long the next timer is to be waited for by the program's clock, in seconds, if nothing is ready.
    /// `None` if there is none, or if the clock is the loop's own.
    ///
    /// # Errors
    /// What the program's clock raises.
    #[expect(clippy::inline_always, reason = "once per iteration; `step` is the second caller")]
    #[inline(always)]
    pub(super) fn timeout(&self, event_loop: &Bound<'_, EventLoop>) -> PyResult<Option<f64>> {
        if !Overrides::of(event_loop).has_clock() {
            return Ok(None);
        }
        let next = self.with_local(|local| {
            if local.ready.is_empty() { local.timers.next_deadline() } else { None }
        });
        match next.flatten() {
            Some(deadline) => Ok(Some(deadline - EventLoop::now(event_loop)?)),
            None => Ok(None),
        }
    }

    /// Finds out whether the iteration may end in a wait that blocks. If so, the alarm is set and the next
    /// push from elsewhere wakes the shard. `timeout` is that of [`Shard::timeout`].
    #[expect(clippy::inline_always, reason = "once per iteration; `step` is the second caller")]
    #[inline(always)]
    pub(super) fn settle(
        &self,
        event_loop: &Bound<'_, EventLoop>,
        io: &ShardIo,
        timeout: Option<f64>,
    ) -> io::Result<Settled> {
        let py = event_loop.py();
        let ready = self.with_local(|local| {
            if !local.deferred.is_empty() {
                local.resume_deferred();
            }
            // A descriptor that was ready may still be: only the kernel knows whether its callback
            // left something behind.
            if local.ready.is_empty() && local.watches_active {
                local.collect_watches(py, self.index(), event_loop.get().watches(), &io.poller)?;
                local.looked_ahead = !local.ready.is_empty();
                if local.looked_ahead || local.watches_active {
                    return io::Result::Ok(Settled::Pushed);
                }
            }
            if !local.ready.is_empty() {
                return Ok(Settled::Ready(local.ready.len()));
            }
            if timeout.is_some_and(|timeout| timeout <= 0.0) {
                return Ok(Settled::Pushed);
            }
            if let Some(deadline) = local.next_alarm(timeout) {
                io.driver.alarm().set(deadline)?;
            }
            if local.signals.start() {
                io.driver.remind_in(signals::DELAY)?;
            }
            Ok(Settled::Parked)
        });
        match ready.unwrap_or(Ok(Settled::Parked))? {
            Settled::Parked if self.inbox.park() == Park::Refused => Ok(Settled::Pushed),
            settled => Ok(settled),
        }
    }
}
