//! Calls on a transport from other threads than its home's: the queue in which they wait.
//!
//! # Theory of operation
//!
//! A thread that may not touch a transport adds its call here and sends the call's number to the
//! transport's home through the inbox. The home makes the calls up to that number when it takes the number
//! out, so calls on different transports keep their order, too.
//!
//! A thread that may touch the transport, because it is the home or because nobody drives the home, makes
//! the calls that wait before its own. So its call does not overtake one that was made before, on whatever
//! thread; the numbers that arrive later find nothing left to do.
//!
//! While the loop is stopped, several threads may touch a transport at the same time. One of them at a
//! time makes the calls that wait; the others add theirs.

use crate::sync::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

/// Calls that wait to be made, oldest first.
pub struct Forwarded<C> {
    /// True if a call waits, or is being made. Each call on the transport asks.
    is_busy: AtomicBool,
    queue: Mutex<Queue<C>>,
}

struct Queue<C> {
    calls: VecDeque<C>,
    /// How many calls were ever added.
    added: u64,
    /// The thread that makes the calls.
    maker: Option<ThreadId>,
}

impl<C> Forwarded<C> {
    /// No call waits.
    #[must_use]
    pub fn new() -> Self {
        let queue = Queue { calls: VecDeque::new(), added: 0, maker: None };
        Self { is_busy: AtomicBool::new(false), queue: Mutex::new(queue) }
    }

    /// True if a call waits that was added before, as far as this thread can know; also while one is made.
    #[inline]
    pub fn is_busy(&self) -> bool {
        // Pairs with the stores under the lock: what orders an `add` before this call on another thread, such
        // as a lock of the program, orders its store before this load.
        self.is_busy.load(Ordering::Acquire)
    }

    /// Adds a call; returns its number.
    pub fn add(&self, call: C) -> u64 {
        let mut queue = self.queue.lock();
        queue.calls.push_back(call);
        queue.added += 1;
        self.is_busy.store(true, Ordering::Release);
        queue.added
    }

    /// Lets this thread make the calls; `None` while another thread does.
    #[must_use]
    pub fn claim(&self) -> Option<Claim<'_, C>> {
        let this = thread::current().id();
        let mut queue = self.queue.lock();
        let is_outermost = match queue.maker {
            None => true,
            // A call that is being made has led to this one.
            Some(maker) if maker == this => false,
            Some(_) => return None,
        };
        queue.maker = Some(this);
        Some(Claim { forwarded: self, newest: queue.added, is_outermost })
    }

    /// The answer of `choose` to the newest of the waiting calls that it answers. It must not run Python code.
    pub fn newest<R>(&self, choose: impl FnMut(&C) -> Option<R>) -> Option<R> {
        if !self.is_busy() {
            return None;
        }
        self.queue.lock().calls.iter().rev().find_map(choose)
    }

    /// Takes the calls, to be dropped without being made.
    #[must_use]
    pub fn take_all(&self) -> VecDeque<C> {
        let mut queue = self.queue.lock();
        self.is_busy.store(queue.maker.is_some(), Ordering::Release);
        std::mem::take(&mut queue.calls)
    }
}

#[cfg(not(loom))]
impl<C> Forwarded<C> {
    /// Calls `visit` with each waiting call; not at all while the queue is in use.
    ///
    /// # Errors
    /// The first of `visit`.
    pub fn try_each<E>(&self, visit: impl FnMut(&C) -> Result<(), E>) -> Result<(), E> {
        self.queue.try_lock().map_or(Ok(()), |queue| queue.calls.iter().try_for_each(visit))
    }
}

impl<C> Default for Forwarded<C> {
    fn default() -> Self {
        Self::new()
    }
}

/// The right of a thread to make the calls. Calls that it leaves wait on.
pub struct Claim<'a, C> {
    forwarded: &'a Forwarded<C>,
    newest: u64,
    is_outermost: bool,
}

impl<C> Claim<'_, C> {
    /// The number of the newest call when the claim was made.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The next call, unless that has a higher number than `last`.
    #[must_use]
    pub fn next(&self, last: u64) -> Option<C> {
        let mut queue = self.forwarded.queue.lock();
        let taken = queue.added - queue.calls.len() as u64;
        if taken < last { queue.calls.pop_front() } else { None }
    }
}

impl<C> Drop for Claim<'_, C> {
    fn drop(&mut self) {
        if self.is_outermost {
            let mut queue = self.forwarded.queue.lock();
            queue.maker = None;
            self.forwarded.is_busy.store(!queue.calls.is_empty(), Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn make_all(forwarded: &Forwarded<u32>, last: u64) -> Vec<u32> {
        let claim = forwarded.claim().expect("nobody makes calls");
        std::iter::from_fn(|| claim.next(last)).collect()
    }

    #[test]
    fn a_number_stands_for_the_calls_up_to_it_that_were_not_made_before() {
        let forwarded = Forwarded::new();
        let numbers: Vec<_> = (0..4).map(|call| forwarded.add(call)).collect();
        assert!(forwarded.is_busy());
        assert_eq!(make_all(&forwarded, numbers[1]), [0, 1]);
        assert_eq!(make_all(&forwarded, numbers[0]), []);
        assert!(forwarded.is_busy());
        assert_eq!(make_all(&forwarded, numbers[3]), [2, 3]);
        assert!(!forwarded.is_busy());
    }

    #[test]
    fn a_call_that_leads_to_another_leaves_none_before_it() {
        let forwarded = Forwarded::new();
        forwarded.add(0);
        let newest = forwarded.add(1);
        let outer = forwarded.claim().expect("nobody makes calls");
        assert_eq!(outer.next(newest), Some(0));
        assert_eq!(make_all(&forwarded, newest), [1]);
        assert!(forwarded.is_busy(), "the outer call is being made");
        assert_eq!(outer.next(newest), None);
        drop(outer);
        assert!(!forwarded.is_busy());
    }

    #[test]
    fn calls_that_came_after_the_claim_are_not_before_the_call_that_claims() {
        let forwarded = Forwarded::new();
        forwarded.add(0);
        let claim = forwarded.claim().expect("nobody makes calls");
        forwarded.add(1);
        assert_eq!(claim.next(claim.newest()), Some(0));
        assert_eq!(claim.next(claim.newest()), None);
        drop(claim);
        assert!(forwarded.is_busy());
    }

    #[test]
    fn another_thread_makes_no_calls_meanwhile() {
        let forwarded = Forwarded::new();
        forwarded.add(0);
        let (claimed, asked) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                let claim = forwarded.claim().expect("nobody makes calls");
                claimed.wait();
                asked.wait();
                assert_eq!(claim.next(claim.newest()), Some(0));
            });
            claimed.wait();
            assert!(forwarded.claim().is_none());
            forwarded.add(1);
            asked.wait();
        });
        assert!(forwarded.is_busy());
        assert_eq!(make_all(&forwarded, u64::MAX), [1]);
    }

    #[test]
    fn the_newest_waiting_call_of_a_kind_is_found() {
        let forwarded = Forwarded::new();
        let is_even = |call: &u32| call.is_multiple_of(2).then_some(*call);
        assert_eq!(forwarded.newest(is_even), None);
        for call in [2, 4, 5] {
            forwarded.add(call);
        }
        assert_eq!(forwarded.newest(is_even), Some(4));
        assert_eq!(forwarded.take_all(), [2, 4, 5]);
        assert!(!forwarded.is_busy());
    }
}
