//! The driver of a shard: a tokio current-thread runtime, its wake-up, and the alarm that makes
//! deadlines exact.
//!
//! # Theory of operation
//!
//! A shard is the root future of `block_on`: one poll is one iteration. The root future is polled after
//! every return from the kernel's wait, because the runtime's unpark hook wakes it; waking it from its
//! own thread costs no system call. When an iteration leaves work behind it wakes itself, and tokio then
//! polls the kernel without blocking.
//!
//! tokio's own timers round to the millisecond, and so does `epoll_wait`. Deadlines therefore go to
//! an [`Alarm`], a descriptor that tokio watches. It is set only when the earliest deadline moves
//! forward; one that moved back costs one early wake-up instead of a system call per cancelled timer.

use crate::runtime::alarm::Alarm;
use crate::runtime::registration::{self, Direction, Event, Fired};
use crate::runtime::reminder::Reminder;
use crate::runtime::sys::{self, Polled};
use rloop_core::sync::ThreadCell;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::task::coop;

/// How many events one wait may return.
const EVENTS_PER_POLL: usize = 1024;

/// True if tokio will not let this thread drive a runtime, because it does already.
pub(crate) fn is_inside_a_runtime() -> bool {
    Handle::try_current().is_ok()
}

/// One shard's runtime. Any thread may drive it, one at a time.
pub(crate) struct Driver {
    alarm: Alarm,
    /// Made beforehand: a run does not need descriptors of its own.
    reminder: Option<Reminder>,
    /// Invariant: `Some` until the driver is dropped.
    runtime: Option<Runtime>,
    /// Wakes the root future; set by the first iteration.
    root: OnceLock<Waker>,
    /// A thread is inside [`Driver::run`].
    is_driven: AtomicBool,
    /// Two connected sockets that wake a wait inside a run, once there was one: to be read, to be written.
    inner_wake: OnceLock<(UnixStream, UnixStream)>,
}

thread_local! {
    /// Wakes the root future that this thread drives. The unpark hook finds it here, because a hook
    /// that held the waker would be owned by the runtime that the waker owns.
    static ROOT: ThreadCell<Option<Waker>> = const { ThreadCell::new(None) };
}

/// Puts back what [`ROOT`] held before a run.
struct RestoreRoot(Option<Waker>);

impl Drop for RestoreRoot {
    fn drop(&mut self) {
        drop(set_root(self.0.take()));
    }
}

/// Notes that nobody drives the runtime any more.
struct Driving<'a>(&'a AtomicBool);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Returns what [`ROOT`] held before.
fn set_root(root: Option<Waker>) -> Option<Waker> {
    ThreadCell::lend(&ROOT, |current| std::mem::replace(current, root))
}

impl Driver {
    pub(crate) fn new(has_reminder: bool) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .max_io_events_per_tick(EVENTS_PER_POLL)
            .on_thread_unpark(|| {
                ThreadCell::lend(&ROOT, |root| {
                    if let Some(root) = root {
                        root.wake_by_ref();
                    }
                });
            })
            .build()?;
        let (alarm, reminder) = {
            let _entered = runtime.enter();
            (Alarm::new()?, has_reminder.then(Reminder::new).transpose()?)
        };
        Ok(Self {
            alarm,
            reminder,
            runtime: Some(runtime),
            root: OnceLock::new(),
            is_driven: AtomicBool::new(false),
            inner_wake: OnceLock::new(),
        })
    }

    /// Calls `iteration` after every wake-up until it is ready. Blocks the calling thread.
    pub(crate) fn run<R>(&self, mut iteration: impl FnMut(&mut Context<'_>) -> Poll<R>) -> R {
        let mut restore = None;
        self.is_driven.store(true, Ordering::Relaxed);
        let _driving = Driving(&self.is_driven);
        // tokio's cooperative budget stays on: lifting it costs 90 instructions an iteration. A registration
        // that asks when it is used up is not armed; its event fires at the end of the iteration instead, in
        // a look at the kernel that does not wake the root future. So there must be another iteration.
        self.runtime().block_on(poll_fn(|context| {
            if restore.is_none() {
                self.root.get_or_init(|| context.waker().clone());
                restore = Some(RestoreRoot(set_root(Some(context.waker().clone()))));
            }
            let taken = iteration(context);
            if taken.is_pending() && !coop::has_budget_remaining() {
                context.waker().wake_by_ref();
            }
            taken
        }))
    }

    /// Waits once and returns what fired. Without `may_block` it only asks the kernel.
    pub(crate) fn wait(&self, may_block: bool) -> Fired {
        let mut waited = false;
        self.run(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            if !may_block {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        });
        registration::take_all()
    }

    /// [`Driver::wait`], on another thread: for a thread that is inside a runtime already.
    pub(crate) fn wait_on_another_thread(&self, may_block: bool) -> Fired {
        let wait = || self.wait(may_block);
        std::thread::scope(|scope| {
            scope.spawn(wait).join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// True while a thread is inside [`Driver::run`]. Only that thread, or one that excludes others from
    /// the shard, may rely on the answer.
    pub(crate) fn is_driven(&self) -> bool {
        self.is_driven.load(Ordering::Relaxed)
    }

    /// Prepares [`Driver::wait_inside`]: from now on [`Driver::wake`] ends that as well.
    pub(crate) fn prepare_to_wait_inside(&self) -> io::Result<()> {
        if self.inner_wake.get().is_none() {
            let (reading, writing) = UnixStream::pair()?;
            reading.set_nonblocking(true)?;
            writing.set_nonblocking(true)?;
            // Only the thread that drives the runtime comes here.
            self.inner_wake.get_or_init(|| (reading, writing));
        }
        Ok(())
    }

    /// Waits on the thread that is inside [`Driver::run`], where tokio cannot be asked for events: until one
    /// of `awaited` is possible, `poller` has something, [`Driver::wake`] is called or `timeout` is over. tokio
    /// reports what came meanwhile a second time, when the run goes on.
    pub(crate) fn wait_inside(
        &self,
        poller: RawFd,
        awaited: Vec<Event>,
        timeout: Duration,
    ) -> io::Result<Fired> {
        let Some((reading, _)) = self.inner_wake.get() else {
            return Ok(Fired::NOTHING);
        };
        let mut polled = vec![Polled::readable(poller), Polled::readable(reading.as_raw_fd())];
        polled.extend(awaited.iter().map(|event| match event.direction {
            Direction::Read => Polled::readable(event.fd),
            Direction::Write => Polled::writable(event.fd),
        }));
        sys::poll(&mut polled, timeout)?;
        if polled[1].is_ready() {
            let mut wakes = [0; 64];
            while matches!((&*reading).read(&mut wakes), Ok(count) if count == wakes.len()) {}
        }
        let ready = awaited.into_iter().zip(&polled[2..]).filter(|(_, polled)| polled.is_ready());
        let events = ready.map(|(event, _)| event).collect();
        Ok(Fired { events, polled: polled[0].is_ready(), reminded: false })
    }

    /// Makes a parked thread take an iteration. Costs one system call.
    pub(crate) fn wake(&self) {
        if let Some((_, writing)) = self.inner_wake.get() {
            // A full socket wakes as well.
            drop((&*writing).write(&[0]));
        }
        if let Some(root) = self.root.get() {
            root.wake_by_ref();
        }
    }

    /// Enters the runtime, so that descriptors can be registered with it.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime().enter()
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("only drop takes the runtime")
    }

    /// Lets the reminder ring in `delay` seconds, if there is one.
    pub(crate) fn remind_in(&self, delay: f64) -> io::Result<()> {
        self.reminder.as_ref().map_or(Ok(()), |reminder| reminder.set(delay))
    }

    /// The timer that ends a park.
    pub(crate) fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A loop may be closed in a callback of another loop, where tokio forbids the wait for
            // blocking tasks that a plain drop implies. There are none.
            runtime.shutdown_background();
        }
    }
}
