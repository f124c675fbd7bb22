//! What a shard counts about itself, for `loop.statistics()` and the watchdog.
//!
//! Only the driving thread writes, any thread reads: a count is a load and a store. Time is read
//! from the kernel's coarse clock, which is about 20 instructions and exact to a few milliseconds;
//! sums of it are right on average, because a callback that is shorter than a tick contains one as
//! often as its share of the tick. Loops with one shard are not timed: there the price is most of
//! what is left to gain, and nothing depends on which shard is busy.

use crate::runtime::clock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A number that one thread writes.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, amount: u64) {
        self.0.store(self.get().wrapping_add(amount), Ordering::Relaxed);
    }

    fn raise_to(&self, value: u64) {
        if value > self.get() {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Nanoseconds on the kernel's coarse monotonic clock.
#[expect(clippy::cast_sign_loss, reason = "a monotonic clock is not negative")]
pub(crate) fn coarse_now() -> u64 {
    clock::coarse_nanoseconds() as u64
}

/// The counts of one shard.
#[derive(Default)]
pub(super) struct Counters {
    /// Callbacks and socket events that ran.
    pub(super) callbacks: Count,
    /// Waits that may have blocked.
    pub(super) parks: Count,
    /// What was ready when the last iteration began.
    depth: Count,
    /// Nanoseconds since the shard was first driven, without the times when the loop was stopped.
    driven: Count,
    /// Nanoseconds of that spent in turns.
    busy: Count,
    slowest: Count,
    /// The last reading of the coarse clock; 0 while the loop is stopped.
    last: Count,
    is_timed: AtomicBool,
    /// False while the shard waits or is stopped.
    in_turn: AtomicBool,
}

impl Counters {
    /// Turns the clock on, for a loop of several shards. Called before the shard is driven.
    pub(crate) fn start_timing(&self) {
        self.is_timed.store(true, Ordering::Relaxed);
    }

    fn is_timed(&self) -> bool {
        self.is_timed.load(Ordering::Relaxed)
    }

    /// The time since the last reading.
    fn lap(&self) -> u64 {
        let now = coarse_now();
        let last = self.last.get();
        self.last.0.store(now, Ordering::Relaxed);
        if last == 0 { 0 } else { now - last }
    }

    /// An iteration begins: the time since the last one was idle.
    pub(super) fn begin_iteration(&self) {
        if self.is_timed() {
            self.driven.add(self.lap());
        }
        self.in_turn.store(true, Ordering::Relaxed);
    }

    /// So many callbacks and events are ready when an iteration begins.
    pub(super) fn set_depth(&self, depth: usize) {
        self.depth.0.store(depth as u64, Ordering::Relaxed);
    }

    /// A callback or an event is done.
    pub(super) fn ran(&self) {
        self.callbacks.add(1);
        if self.is_timed() {
            let lap = self.lap();
            self.driven.add(lap);
            self.busy.add(lap);
            self.slowest.raise_to(lap);
        }
    }

    /// Nanoseconds spent in turns, with what the callback that runs has taken so far. Any thread may
    /// ask; what the driving thread notes meanwhile may count twice or not at all.
    pub(super) fn busy_by_now(&self) -> u64 {
        let last = self.last.get();
        let is_running = self.in_turn.load(Ordering::Relaxed) && last != 0;
        let running = if is_running { coarse_now().saturating_sub(last) } else { 0 };
        self.busy.get() + running
    }

    /// An iteration ends in a wait that blocks.
    pub(super) fn park(&self) {
        self.parks.add(1);
        self.in_turn.store(false, Ordering::Relaxed);
    }

    /// The loop stops.
    pub(super) fn stop(&self) {
        self.in_turn.store(false, Ordering::Relaxed);
        self.last.0.store(0, Ordering::Relaxed);
    }
}

/// A reading of a shard's counts.
pub(crate) struct Reading {
    pub(crate) callbacks: u64,
    pub(crate) parks: u64,
    pub(crate) pushes: u64,
    pub(crate) depth: u64,
    pub(crate) connections: usize,
    /// `None` unless the loop is timed, which needs several shards.
    pub(crate) times: Option<Times>,
    /// False while the shard waits or is stopped.
    pub(crate) in_turn: bool,
}

/// Seconds.
pub(crate) struct Times {
    pub(crate) driven: f64,
    pub(crate) busy: f64,
    pub(crate) slowest: f64,
}

impl Counters {
    #[expect(clippy::cast_precision_loss, reason = "100 days of nanoseconds fit exactly")]
    pub(super) fn read(&self, pushes: u64, connections: usize) -> Reading {
        let seconds = |count: &Count| count.get() as f64 / 1e9;
        Reading {
            callbacks: self.callbacks.get(),
            parks: self.parks.get(),
            pushes,
            depth: self.depth.get(),
            connections,
            times: self.is_timed().then(|| Times {
                driven: seconds(&self.driven),
                busy: seconds(&self.busy),
                slowest: seconds(&self.slowest),
            }),
            in_turn: self.in_turn.load(Ordering::Relaxed),
        }
    }
}
