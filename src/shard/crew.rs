//! `Crew`: what a loop of several shards has besides shard 0.
//!
//! # Theory of operation
//!
//! The thread that calls `run_forever()` drives shard 0; each other shard has a worker thread. A run
//! begins with the command to all workers to drive their shards, and ends with shard 0: when its own
//! run is over, for whatever reason, it raises `halting`, and every worker parks once its iteration is
//! over. Only then does the run return, so nothing runs while a loop is stopped. An error that ends a
//! worker's run, such as `SystemExit` or a panic, is handed to shard 0, which raises it.
//!
//! A callback of a worker may never return. Shard 0 therefore waits in Python code, where signals are
//! handled (`rloop/_threads.py`), and an exception that a signal handler raises ends the wait.
//!
//! A descriptor's reader and its writer are watched by the shard that is home of the callback, each
//! by its own: an epoll set is level-triggered, so the shard that sees the event has to be the one
//! that deals with it.

use crate::loop_::event_loop::EventLoop;
use crate::loop_::homes::Homes;
use crate::shard::worker::Control;
use crate::shard::{Role, Shard, coarse_now};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use rloop_core::placement::{Candidate, Load, Placement};
use rloop_core::sync::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long the end of a run waits for the workers without a look at signals. Nearly all callbacks
/// return within that time.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// The other shards of a loop, and what all of them share.
pub(crate) struct Crew {
    pub(crate) homes: Homes,
    others: Box<[Arc<Shard>]>,
    /// The commands to the workers, in the order of the shards.
    controls: Mutex<Vec<Arc<Control>>>,
    halting: AtomicBool,
    /// What ends the run, from a worker.
    failure: Mutex<Option<PyErr>>,
    /// Decides where something new goes. The lock is held until it counts there, so that two threads
    /// do not choose by the same loads.
    placement: Mutex<Placement>,
}

impl Crew {
    /// Makes the shards 1 to `count` - 1 of a loop.
    pub(crate) fn new(homes: Homes, loop_number: u64, count: u16) -> io::Result<Self> {
        let others = (1..count)
            .map(|index| {
                let shard = Shard::new(loop_number, index)?;
                shard.start_timing();
                Ok(Arc::new(shard))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            homes,
            others,
            controls: Mutex::default(),
            halting: AtomicBool::new(false),
            failure: Mutex::default(),
            placement: Mutex::new(Placement::new(coarse_now(), count.into())),
        })
    }

    /// One run of the loop: drives shard 0 on this thread and lets the workers drive the others. The
    /// workers are parked, unless they were left inside a callback when the last run was interrupted.
    ///
    /// # Errors
    /// What ended the run, on whatever shard, and what a signal handler raised meanwhile.
    pub(crate) fn run(&self, event_loop: &Bound<'_, EventLoop>, main: &Arc<Shard>) -> PyResult<()> {
        let py = event_loop.py();
        let controls = self.controls();
        self.set_halting(false);
        let has_begun = controls.iter().all(|control| control.run(event_loop.clone().unbind()));
        let result = catch_unwind(AssertUnwindSafe(|| {
            if has_begun {
                main.run(event_loop, &Role::Main)
            } else {
                Err(PyRuntimeError::new_err("a thread of the event loop has ended"))
            }
        }));
        self.set_halting(true);
        let waited = Self::wait_until_parked(event_loop, &controls);
        let result = match (result.unwrap_or_else(|panic| resume_unwind(panic)), waited) {
            (Err(first), Err(second)) => {
                second.value(py).setattr(intern!(py, "__context__"), first)?;
                Err(second)
            }
            (result, waited) => result.and(waited),
        };
        match (self.take_failure(), result) {
            (None, result) => result,
            (Some(failure), Ok(())) => Err(failure),
            (Some(failure), Err(error)) => {
                failure.write_unraisable(py, Some(event_loop));
                Err(error)
            }
        }
    }

    /// Waits until every worker is parked.
    ///
    /// # Errors
    /// What a signal handler raised.
    fn wait_until_parked(
        event_loop: &Bound<'_, EventLoop>,
        controls: &[Arc<Control>],
    ) -> PyResult<()> {
        let py = event_loop.py();
        let deadline = Instant::now() + SHORT_WAIT;
        let all_parked =
            py.detach(|| controls.iter().all(|control| control.wait_until_parked(deadline)));
        if all_parked {
            return Ok(());
        }
        event_loop.call_method0(intern!(py, "_wait_for_workers")).map(drop)
    }

    /// Drives a worker's shard on this thread until the run is over.
    pub(crate) fn run_worker(&self, event_loop: &Bound<'_, EventLoop>, shard: &Arc<Shard>) {
        if let Err(error) = shard.run(event_loop, &Role::Worker(self)) {
            self.fail(event_loop, error);
        }
    }

    /// Ends the run with what ended that of a worker.
    pub(crate) fn fail(&self, event_loop: &Bound<'_, EventLoop>, error: PyErr) {
        let second = {
            let mut failure = self.failure.lock();
            if failure.is_some() {
                Some(error)
            } else {
                *failure = Some(error);
                None
            }
        };
        if let Some(error) = second {
            error.write_unraisable(event_loop.py(), Some(event_loop));
        }
        event_loop.get().stop();
    }

    /// Every shard but shard 0.
    pub(crate) fn others(&self) -> &[Arc<Shard>] {
        &self.others
    }

    /// Sets the workers that drive the other shards from now on.
    pub(crate) fn set_controls(&self, controls: Vec<Arc<Control>>) {
        *self.controls.lock() = controls;
    }

    pub(crate) fn controls(&self) -> Vec<Arc<Control>> {
        self.controls.lock().clone()
    }

    /// True once the workers have to park.
    pub(crate) fn is_halting(&self) -> bool {
        // Pairs with `set_halting`; the notification that follows wakes a worker that waits for events.
        self.halting.load(Ordering::Acquire)
    }

    pub(crate) fn set_halting(&self, halting: bool) {
        self.halting.store(halting, Ordering::Release);
        if halting {
            for shard in &self.others {
                shard.notify();
            }
        }
    }

    fn take_failure(&self) -> Option<PyErr> {
        self.failure.lock().take()
    }

    /// Chooses the home of something new. `count` makes it part of the load there.
    pub(crate) fn place<'a>(&'a self, main: &'a Shard, count: impl FnOnce(&Load)) -> &'a Shard {
        let mut placement = self.placement.lock();
        let shards: Vec<&Shard> =
            std::iter::once(main).chain(self.others.iter().map(AsRef::as_ref)).collect();
        let candidates: Vec<Candidate> = shards.iter().map(|shard| shard.candidate()).collect();
        let chosen = shards[placement.choose(coarse_now(), &candidates)];
        count(&chosen.load);
        chosen
    }
}
