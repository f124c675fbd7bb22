//! Single iterations, for a program that has replaced `_run_once()`: `nest_asyncio` runs the loop inside its
//! own callbacks that way.
//!
//! Here no runtime is entered while callbacks run, so a run inside a callback may drive the runtime, too.
//! That costs the entry into the runtime for each iteration, which [`Shard::run`] pays once.
//!
//! A program may replace the method while [`Shard::run`] is under way, and run the loop inside the very
//! callback that did. tokio lets nobody drive a runtime inside a run, so that wait is one by poll(2).

use super::handle::{Seat, Shard, ShardIo};
use super::iteration::{Failure, Iteration, Settled};
use super::local::Work;
use crate::loop_::event_loop::EventLoop;
use crate::py::error::OrOsError;
use crate::py::ffi;
use crate::runtime::driver;
use crate::runtime::registration::{Event, Fired};
use crate::runtime::{clock, sys};
use crate::shard::exit;
use pyo3::prelude::*;
use pyo3::types::PyContext;
use rloop_core::signals;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A run inside a callback of another one.
struct Inner<'a>(&'a Shard);

impl<'a> Inner<'a> {
    fn begin(shard: &'a Shard) -> Self {
        shard.with_local(|local| local.depth += 1);
        Self(shard)
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        self.0.with_local(|local| local.depth -= 1);
    }
}

impl Shard {
    /// Waits, unless something is ready or `may_block` is false, and runs what is ready then.
    ///
    /// # Errors
    /// Those of [`Shard::run`].
    pub(crate) fn step(
        self: &Arc<Self>,
        event_loop: &Bound<'_, EventLoop>,
        may_block: bool,
    ) -> PyResult<()> {
        let py = event_loop.py();
        if self.is_retired() {
            py.detach(|| exit::Run::begin(self).park_for_ever());
        }
        let io = self.io()?;
        if self.is_driven_here() {
            if io.driver.is_driven() {
                io.driver.prepare_to_wait_inside().or_os_error(py)?;
            }
            let _inner = Inner::begin(self);
            return Ok(self.take_step(event_loop, &io, may_block)?);
        }
        let _seat = Seat::take(self, event_loop)?;
        let is_main_thread = event_loop.get().runs_on_main_thread();
        self.with_local(|local| local.signals.begin(is_main_thread));
        let _run = exit::Run::begin(self);
        let stepped = sys::hanging_at_exit(|| self.take_step(event_loop, &io, may_block));
        self.counters.stop();
        Ok(stepped?)
    }

    fn take_step(
        &self,
        event_loop: &Bound<'_, EventLoop>,
        io: &ShardIo,
        may_block: bool,
    ) -> Result<(), Failure> {
        let py = event_loop.py();
        // The callback around may wait for its own writes and wake-ups.
        self.send_unsent(py)?;
        self.end_step(py)?;
        let timeout = self.timeout(event_loop).map_err(Failure::Clock)?;
        let settled = self.settle(event_loop, io, timeout);
        let settled = settled.map_err(|error| Failure::kernel(py, &error))?;
        let may_block = may_block && matches!(settled, Settled::Parked);
        let fired = self.wait(py, io, may_block).map_err(|error| Failure::kernel(py, &error))?;
        self.with_local(|local| local.accept(fired));
        self.counters.begin_iteration();
        let end_time = EventLoop::end_time(event_loop).map_err(Failure::Clock)?;
        let mut iteration = self.begin_iteration(event_loop, io, end_time)?;
        if self.with_local(|local| local.depth > 0) == Some(true) {
            iteration = self.defer(py, &iteration);
        }
        Ok(self.gathering(py, || self.run_due(event_loop, iteration))?)
    }

    /// Puts aside what would enter a context that a callback around this run is inside of, until that
    /// callback returns. Returns what is left of `iteration`.
    fn defer(&self, py: Python<'_>, iteration: &Iteration) -> Iteration {
        let taken = self.with_local(|local| {
            let events = local.events.split_off(local.next_event);
            (events, std::mem::take(&mut local.ready), local.depth)
        });
        let Some((events, ready, depth)) = taken else {
            return Iteration::default();
        };
        let is_entered =
            |context: &Bound<'_, PyContext>| ffi::in_context(context, || Ok(())).is_err();
        let is_inside = |event: Event| {
            let transport = self.with_local(|local| local.target(py, event)).flatten();
            let context = transport.and_then(|transport| transport.context(py, event.direction));
            context.is_some_and(|context| is_entered(context.bind(py)))
        };
        let (later, now): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|event| is_inside(*event));
        let mut deferred: Vec<_> = later.into_iter().map(Work::Event).collect();
        let mut left = Iteration { events: now.len(), ..Iteration::default() };
        let mut kept = VecDeque::new();
        for (index, work) in ready.into_iter().enumerate() {
            let waits = match &work {
                Work::Run(handle) => is_entered(handle.get().context().bind(py)),
                Work::Event(event) => is_inside(*event),
                _ => false,
            };
            if waits {
                deferred.push(work);
                continue;
            }
            kept.push_back(work);
            if index < iteration.left_over {
                left.left_over += 1;
            } else {
                left.arrived += 1;
            }
        }
        self.with_local(|local| {
            local.events.extend(now);
            kept.append(&mut local.ready);
            local.ready = kept;
            local.deferred.extend(deferred.into_iter().map(|work| (depth, work)));
        });
        left
    }

    fn wait(&self, py: Python<'_>, io: &ShardIo, may_block: bool) -> io::Result<Fired> {
        if io.driver.is_driven() {
            return self.wait_inside(py, io, may_block);
        }
        Ok(py.detach(|| {
            if driver::is_inside_a_runtime() {
                io.driver.wait_on_another_thread(may_block)
            } else {
                io.driver.wait(may_block)
            }
        }))
    }

    /// Waits inside [`Shard::run`].
    fn wait_inside(&self, py: Python<'_>, io: &ShardIo, may_block: bool) -> io::Result<Fired> {
        let awaited = self.with_local(|local| (local.awaited_events(), local.alarm));
        let (awaited, alarm) = awaited.unwrap_or_default();
        // Nothing else reminds this thread of a signal that comes before the wait.
        let until_alarm = alarm.map_or(f64::INFINITY, |alarm| alarm - clock::now());
        let timeout = if may_block { until_alarm.clamp(0.0, signals::DELAY) } else { 0.0 };
        let timeout = Duration::from_secs_f64(timeout);
        let poller = io.poller.number();
        let fired = py.detach(|| io.driver.wait_inside(poller, awaited, timeout))?;
        if fired.polled {
            io.poller.note_ready();
        }
        Ok(fired)
    }
}
