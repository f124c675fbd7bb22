//! The inbox: how other threads hand work to a shard, and when that must wake it.
//!
//! # Theory of operation
//!
//! A sender pushes under a short lock and then raises `state` to [`PENDING`]. Only the sender that
//! finds the shard [`PARKED`] is told to wake it, so a busy shard costs its senders no system call
//! and a parked one costs exactly one, however many senders there are.
//!
//! The owner lowers `state` to [`RUNNING`] *before* it drains. A push that comes after the drain
//! therefore raises the state again, and [`Inbox::park`], a compare-and-swap from `RUNNING`, then
//! refuses. That is the whole argument against lost wake-ups; `tests/inbox_loom.rs` checks it.
//!
//! The lock guards the queue only. It orders the items of each sender, and it is never held while
//! a waker runs.

use crate::sync::{AtomicU8, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// The owner runs and has seen everything that was pushed before it last drained.
const RUNNING: u8 = 0;
/// Something was pushed since.
const PENDING: u8 = 1;
/// The owner sleeps, or is about to: the next sender must wake it.
const PARKED: u8 = 2;

/// What a sender has to do after a push.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The owner will look by itself.
    NotNeeded,
    /// The owner is parked: wake it.
    Needed,
}

/// Whether the owner may go to sleep.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Park {
    /// Nothing is pending, and the next push will ask for a wake-up.
    Allowed,
    /// Something was pushed: drain first.
    Refused,
}

struct Queue<T> {
    items: VecDeque<T>,
    /// How many items were ever pushed.
    pushed: u64,
}

/// A queue with many senders and one owner.
pub struct Inbox<T> {
    queue: Mutex<Queue<T>>,
    state: AtomicU8,
}

impl<T> Inbox<T> {
    /// An empty inbox whose owner counts as running.
    #[must_use]
    pub fn new() -> Self {
        let queue = Queue { items: VecDeque::new(), pushed: 0 };
        Self { queue: Mutex::new(queue), state: AtomicU8::new(RUNNING) }
    }

    /// Appends `item`. Any thread may call this.
    pub fn push(&self, item: T) -> Wake {
        self.push_quietly(item);
        self.notify()
    }

    /// Appends `item` for the owner to find when something else makes it look.
    pub fn push_quietly(&self, item: T) {
        let mut queue = self.queue.lock();
        queue.items.push_back(item);
        queue.pushed += 1;
    }

    /// Makes the owner take an iteration without handing it anything. Any thread may call this.
    pub fn notify(&self) -> Wake {
        // Pairs with the swap in `begin` and the compare-exchange in `park`.
        match self.state.swap(PENDING, Ordering::AcqRel) {
            PARKED => Wake::Needed,
            _ => Wake::NotNeeded,
        }
    }

    /// Marks the owner as running and says whether there may be something to drain.
    pub fn begin(&self) -> bool {
        // A shard that nobody writes to pays one load here: only a state other than RUNNING has
        // to be taken down.
        if self.state.load(Ordering::Relaxed) == RUNNING {
            return false;
        }
        self.state.swap(RUNNING, Ordering::AcqRel) == PENDING
    }

    /// Moves everything that was pushed into `target`, oldest first.
    pub fn drain_into(&self, target: &mut VecDeque<T>) {
        target.append(&mut self.queue.lock().items);
    }

    /// Moves the `limit` oldest items into `target`. What is left counts as pushed since.
    pub fn drain_some_into(&self, limit: usize, target: &mut VecDeque<T>) {
        let is_left = {
            let items = &mut self.queue.lock().items;
            if items.len() <= limit {
                target.append(items);
                false
            } else {
                target.extend(items.drain(..limit));
                true
            }
        };
        if is_left {
            // As a sender does; the owner, who calls this, needs no wake-up.
            let _running = self.notify();
        }
    }

    /// How many items were ever pushed. Any thread may call this.
    pub fn pushed(&self) -> u64 {
        self.queue.lock().pushed
    }

    /// Asks to sleep. Only the owner calls this.
    pub fn park(&self) -> Park {
        match self.state.compare_exchange(RUNNING, PARKED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Park::Allowed,
            Err(_) => Park::Refused,
        }
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_a_parked_owner_needs_a_wake_up() {
        let inbox = Inbox::new();
        assert_eq!(inbox.push(1), Wake::NotNeeded);
        assert!(inbox.begin());
        let mut seen = VecDeque::new();
        inbox.drain_into(&mut seen);
        assert_eq!(inbox.park(), Park::Allowed);
        assert_eq!(inbox.push(2), Wake::Needed);
        assert_eq!(inbox.push(3), Wake::NotNeeded);
        assert!(inbox.begin());
        inbox.drain_into(&mut seen);
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn a_push_between_drain_and_park_refuses_the_park() {
        let inbox = Inbox::new();
        assert!(!inbox.begin());
        assert_eq!(inbox.push(()), Wake::NotNeeded);
        assert_eq!(inbox.park(), Park::Refused);
    }

    #[test]
    fn what_a_drain_leaves_behind_refuses_the_park() {
        let inbox = Inbox::new();
        for item in 1..=3 {
            assert_eq!(inbox.push(item), Wake::NotNeeded);
        }
        assert!(inbox.begin());
        let mut seen = VecDeque::new();
        inbox.drain_some_into(2, &mut seen);
        assert_eq!(seen, [1, 2]);
        assert_eq!(inbox.park(), Park::Refused);
        assert!(inbox.begin());
        inbox.drain_some_into(2, &mut seen);
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!(inbox.park(), Park::Allowed);
    }

    #[test]
    fn a_wake_up_by_another_event_takes_the_parked_state_down() {
        let inbox = Inbox::<()>::new();
        assert_eq!(inbox.park(), Park::Allowed);
        assert!(!inbox.begin());
        assert_eq!(inbox.push(()), Wake::NotNeeded);
    }
}
