//! Placement: which shard becomes the home of something new.
//!
//! The shard with the least load does. A load is a number of connections and tasks, which says
//! nothing of how much each has to do; so of several shards with the least, the one that was least
//! busy of late is taken, and of several that were about as busy, the one after the last choice.
//!
//! Busyness never outweighs a load: it is known of the past only, and homes are for life. If many
//! connections came while one shard happened to be idle, all of them would be there for ever. For
//! the same reason a load is exact at every moment: [`Load`] counts an accepted connection once,
//! from the choice of its home until it is closed, though other threads open and close it.

use crate::sync::Mutex;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The shortest time over which busyness is measured, in nanoseconds: many ticks of a coarse clock.
const WINDOW: u64 = 50_000_000;

/// Shards whose busyness is the same in so many steps are about as busy.
const STEPS: u64 = 4;

/// How much was placed on a shard and is not done. Any thread may change it.
#[derive(Default)]
pub struct Load {
    amount: AtomicUsize,
    /// How much of that is open connections.
    connections: AtomicUsize,
    /// The sockets of the connections that were placed and are not open yet.
    arriving: Mutex<Vec<RawFd>>,
}

impl Load {
    /// How much there is.
    #[must_use]
    pub fn amount(&self) -> usize {
        self.amount.load(Ordering::Relaxed)
    }

    /// How many connections are open. What is closed by this count is no part of [`Load::amount`].
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Counts something, until [`Load::end`].
    pub fn begin(&self) {
        self.amount.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that was counted is done.
    pub fn end(&self) {
        self.amount.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that is on its way, until [`Load::close`] or [`Load::give_up`].
    pub fn expect(&self, fd: RawFd) {
        self.arriving.lock().push(fd);
        self.begin();
    }

    /// A connection is open: the one that was expected, or one more.
    pub fn open(&self, fd: RawFd) {
        if !self.forget(fd) {
            self.begin();
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was open is closed.
    pub fn close(&self) {
        self.end();
        self.connections.fetch_sub(1, Ordering::Release);
    }

    /// Ends the expectation of a connection, if it has not opened.
    pub fn give_up(&self, fd: RawFd) {
        if self.forget(fd) {
            self.end();
        }
    }

    fn forget(&self, fd: RawFd) -> bool {
        let mut arriving = self.arriving.lock();
        let position = arriving.iter().position(|expected| *expected == fd);
        position.map(|position| arriving.swap_remove(position)).is_some()
    }
}

/// What is asked of a shard before a choice.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// How much was placed there and is not done.
    pub load: usize,
    /// How long it was busy since it was made, in nanoseconds.
    pub busy: u64,
}

/// The choices so far, as far as the next one depends on them.
#[derive(Debug)]
pub struct Placement {
    last: usize,
    /// When `busy` was read.
    read_at: u64,
    busy: Box<[u64]>,
    /// How busy each shard was in the time before, in [`STEPS`].
    steps: Box<[u64]>,
}

impl Placement {
    /// For so many shards, which are measured from `now` on: nanoseconds on any clock.
    #[must_use]
    pub fn new(now: u64, count: usize) -> Self {
        let zeros = vec![0; count].into_boxed_slice();
        Self { last: 0, read_at: now, busy: zeros.clone(), steps: zeros }
    }

    /// Chooses one of the shards, of which there must be as many as [`Placement::new`] was told.
    pub fn choose(&mut self, now: u64, shards: &[Candidate]) -> usize {
        self.measure(now, shards);
        let count = shards.len();
        let in_turn = (1..=count).map(|step| (self.last + step) % count);
        let chosen = in_turn.min_by_key(|index| (shards[*index].load, self.steps[*index]));
        self.last = chosen.unwrap_or(0);
        self.last
    }

    fn measure(&mut self, now: u64, shards: &[Candidate]) {
        let passed = now.saturating_sub(self.read_at);
        if passed < WINDOW {
            return;
        }
        self.read_at = now;
        for (index, shard) in shards.iter().enumerate() {
            let before = std::mem::replace(&mut self.busy[index], shard.busy);
            let busy = shard.busy.saturating_sub(before).min(passed);
            // Rounded, so that one that was busy all the time is so by any clock.
            self.steps[index] = (busy * STEPS + passed / 2) / passed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Load, Placement, WINDOW};

    fn shards<const N: usize>(of: [(usize, u64); N]) -> [Candidate; N] {
        of.map(|(load, busy)| Candidate { load, busy })
    }

    #[test]
    fn a_connection_counts_once_from_its_placement_to_its_end() {
        let load = Load::default();
        load.expect(7);
        assert_eq!(load.amount(), 1);
        load.open(7);
        assert_eq!((load.amount(), load.connections()), (1, 1));
        load.give_up(7);
        assert_eq!(load.amount(), 1);
        load.close();
        assert_eq!((load.amount(), load.connections()), (0, 0));
    }

    #[test]
    fn a_connection_that_never_opens_is_given_up_once() {
        let load = Load::default();
        load.expect(7);
        load.give_up(7);
        load.give_up(7);
        assert_eq!(load.amount(), 0);
    }

    #[test]
    fn a_connection_that_nobody_expected_counts_too() {
        let load = Load::default();
        load.expect(7);
        load.open(8);
        assert_eq!(load.amount(), 2);
        load.give_up(7);
        assert_eq!(load.amount(), 1);
    }

    #[test]
    fn a_descriptor_may_come_again_before_the_first_is_given_up() {
        let load = Load::default();
        load.expect(7);
        load.expect(7);
        load.give_up(7);
        assert_eq!(load.amount(), 1);
        load.open(7);
        assert_eq!(load.amount(), 1);
    }

    #[test]
    fn the_least_load_decides_whatever_is_busy() {
        let mut placement = Placement::new(0, 2);
        assert_eq!(placement.choose(WINDOW, &shards([(2, 0), (1, WINDOW)])), 1);
        assert_eq!(placement.choose(2 * WINDOW, &shards([(1, 0), (2, WINDOW)])), 0);
    }

    #[test]
    fn equals_take_turns() {
        let mut placement = Placement::new(0, 3);
        let equal = shards([(1, 0); 3]);
        let chosen = (0..5).map(|_| placement.choose(WINDOW, &equal)).collect::<Vec<_>>();
        assert_eq!(chosen, [1, 2, 0, 1, 2]);
    }

    #[test]
    fn among_equals_the_least_busy_is_chosen() {
        let mut placement = Placement::new(0, 3);
        let busy = shards([(1, WINDOW), (1, WINDOW), (1, 0)]);
        assert_eq!(placement.choose(WINDOW, &busy), 2);
        // And again, before the next measurement.
        assert_eq!(placement.choose(WINDOW + 1, &busy), 2);
    }

    #[test]
    fn about_as_busy_is_as_busy() {
        let mut placement = Placement::new(0, 2);
        let busy = shards([(0, WINDOW / 9), (0, 0)]);
        assert_eq!(placement.choose(WINDOW, &busy), 1);
        assert_eq!(placement.choose(WINDOW, &busy), 0);
    }

    #[test]
    fn only_the_time_since_the_last_measurement_counts() {
        let mut placement = Placement::new(0, 2);
        assert_eq!(placement.choose(WINDOW, &shards([(0, WINDOW), (0, 0)])), 1);
        // Shard 0 has been idle since, and shard 1 busy.
        assert_eq!(placement.choose(2 * WINDOW, &shards([(0, WINDOW), (0, WINDOW)])), 0);
        assert_eq!(placement.choose(3 * WINDOW, &shards([(0, WINDOW), (0, 2 * WINDOW)])), 0);
    }

    #[test]
    fn a_short_time_says_nothing() {
        let mut placement = Placement::new(0, 2);
        assert_eq!(placement.choose(WINDOW - 1, &shards([(0, 0), (0, WINDOW - 1)])), 1);
    }
}
