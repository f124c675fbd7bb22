//! The timer heap of a shard: who is due, in which order, and when to look again.
//!
//! Entries are ordered by deadline, then by insertion, so equal deadlines are first in, first out.
//! A cancelled entry stays until it reaches the top or until [`TimerHeap::compact`] finds that more
//! than half of the entries are dead; the thresholds are those of `asyncio.base_events`. Who is
//! cancelled is the payload's own knowledge ([`Cancelled`]): one owner per fact.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Below this many entries a compaction is not worth its walk.
const COMPACTION_MINIMUM: usize = 100;

/// A payload that knows whether it was cancelled.
pub trait Cancelled {
    /// True once the timer must not fire any more.
    fn is_cancelled(&self) -> bool;
}

struct Entry<T> {
    /// Seconds on the loop's clock.
    deadline: f64,
    sequence: u64,
    payload: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// Reversed, because `BinaryHeap` keeps the greatest on top.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then_with(|| other.sequence.cmp(&self.sequence))
    }
}

/// A heap of deadlines.
pub struct TimerHeap<T> {
    entries: BinaryHeap<Entry<T>>,
    next_sequence: u64,
    /// How many cancellations were reported since the last compaction; an upper bound of the dead
    /// entries, because one that was already popped may still be reported.
    cancellations: usize,
}

impl<T: Cancelled> TimerHeap<T> {
    /// An empty heap.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: BinaryHeap::new(), next_sequence: 0, cancellations: 0 }
    }

    /// Adds a timer for `deadline`, in seconds on the loop's clock. NaN sorts last.
    pub fn insert(&mut self, deadline: f64, payload: T) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.entries.push(Entry { deadline, sequence, payload });
    }

    /// Reports that one of the entries was cancelled. Returns the dead entries once they are the
    /// majority: the caller drops them where dropping is allowed.
    #[must_use]
    pub fn cancelled(&mut self) -> Vec<T> {
        self.cancellations += 1;
        if self.entries.len() > COMPACTION_MINIMUM && self.cancellations * 2 > self.entries.len() {
            self.compact()
        } else {
            Vec::new()
        }
    }

    fn compact(&mut self) -> Vec<T> {
        self.cancellations = 0;
        let (dead, live): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_vec()
            .into_iter()
            .partition(|entry| entry.payload.is_cancelled());
        self.entries = BinaryHeap::from(live);
        dead.into_iter().map(|entry| entry.payload).collect()
    }

    /// Removes and returns the earliest entry if it is due at `now` or cancelled.
    pub fn pop_due(&mut self, now: f64) -> Option<T> {
        let top = self.entries.peek()?;
        if top.deadline <= now || top.payload.is_cancelled() {
            self.entries.pop().map(|entry| entry.payload)
        } else {
            None
        }
    }

    /// The earliest deadline, in seconds on the loop's clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<f64> {
        self.entries.peek().map(|entry| entry.deadline)
    }

    /// True when no entry is left, live or cancelled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes all entries and returns their payloads.
    pub fn take(&mut self) -> Vec<T> {
        self.cancellations = 0;
        std::mem::take(&mut self.entries).into_iter().map(|entry| entry.payload).collect()
    }

    /// The payloads, the earliest first and the others in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.payload)
    }
}

impl<T: Cancelled> Default for TimerHeap<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Clone, Debug)]
    struct Timer {
        number: usize,
        dead: Rc<Cell<bool>>,
    }

    impl Cancelled for Timer {
        fn is_cancelled(&self) -> bool {
            self.dead.get()
        }
    }

    fn timer(number: usize) -> Timer {
        Timer { number, dead: Rc::default() }
    }

    #[test]
    fn a_timer_is_never_due_before_its_deadline() {
        let mut heap = TimerHeap::new();
        heap.insert(2.0, timer(0));
        assert!(heap.pop_due(1.999_999).is_none());
        assert!(heap.pop_due(2.0).is_some());
    }

    #[test]
    fn an_unreachable_deadline_stays() {
        let mut heap = TimerHeap::new();
        heap.insert(f64::INFINITY, timer(0));
        heap.insert(f64::NAN, timer(1));
        assert!(heap.pop_due(1e300).is_none());
    }

    #[test]
    fn cancelled_entries_are_dropped_once_they_are_the_majority() {
        let mut heap = TimerHeap::new();
        let timers: Vec<_> = (0..1_000).map(timer).collect();
        for entry in &timers {
            heap.insert(3600.0, entry.clone());
        }
        let mut dropped = 0;
        for entry in &timers {
            entry.dead.set(true);
            dropped += heap.cancelled().len();
            assert!(heap.iter().count() <= 1_000 - dropped);
        }
        assert!(heap.iter().count() <= COMPACTION_MINIMUM);
    }

    proptest! {
        #[test]
        fn pops_like_a_stable_sort(deadlines in prop::collection::vec(0u8..8, 0..300), dead in prop::collection::vec(any::<bool>(), 300)) {
            let mut heap = TimerHeap::new();
            let mut expected = Vec::new();
            for (number, deadline) in deadlines.iter().enumerate() {
                let entry = timer(number);
                heap.insert(f64::from(*deadline), entry.clone());
                if dead[number] {
                    entry.dead.set(true);
                    drop(heap.cancelled());
                } else {
                    expected.push((*deadline, number));
                }
            }
            expected.sort_by_key(|(deadline, _)| *deadline);
            let mut popped = Vec::new();
            for now in 0u8..8 {
                while let Some(entry) = heap.pop_due(f64::from(now)) {
                    if !entry.is_cancelled() {
                        popped.push((now, entry.number));
                    }
                }
            }
            prop_assert_eq!(popped, expected);
            prop_assert!(heap.is_empty());
        }
    }
}
