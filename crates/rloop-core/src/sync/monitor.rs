//! `Monitor`: a value that one thread changes and another waits for.
//!
//! It stands on the locks of the standard library, which are a word of memory each. Those of
//! `parking_lot` share one table of waiting threads in the whole process: `fork()`, called while a
//! thread is about to wait, would leave the child with a table that is locked. A thread that waits here
//! is detached from Python, so nothing keeps `fork()` from that moment.
#![cfg_attr(not(loom), expect(clippy::disallowed_types, reason = "this module wraps them"))]

#[cfg(not(loom))]
use super::locks::held;
#[cfg(loom)]
use super::models::held;
#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::{
    sync::{Condvar, Mutex, MutexGuard},
    time::Instant,
};

struct Guarded<T> {
    value: T,
    /// How many threads wait. To notify nobody would cost a system call.
    waiting: usize,
}

/// A value under a lock, with a notification of every change.
pub struct Monitor<T> {
    guarded: Mutex<Guarded<T>>,
    changed: Condvar,
}

impl<T> Monitor<T> {
    /// A monitor of `value`.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self { guarded: Mutex::new(Guarded { value, waiting: 0 }), changed: Condvar::new() }
    }

    /// A monitor of `value`.
    #[cfg(loom)]
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { guarded: Mutex::new(Guarded { value, waiting: 0 }), changed: Condvar::new() }
    }

    /// Whether a panic interrupted an operation does not matter: each leaves a valid value at any time.
    fn lock(&self) -> MutexGuard<'_, Guarded<T>> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> held::Held {
        held::Held::new((&raw const self.guarded).cast())
    }

    /// Looks at the value. `operation` is short and runs no foreign code.
    pub fn read<R>(&self, operation: impl FnOnce(&T) -> R) -> R {
        let _held = self.held();
        operation(&self.lock().value)
    }

    /// Changes the value and wakes all that wait. `operation` is short and runs no foreign code.
    pub fn change<R>(&self, operation: impl FnOnce(&mut T) -> R) -> R {
        let (result, waiting) = {
            let _held = self.held();
            let mut guarded = self.lock();
            (operation(&mut guarded.value), guarded.waiting)
        };
        if waiting > 0 {
            self.changed.notify_all();
        }
        result
    }

    /// Blocks until `operation` returns something. It is asked again after each change.
    pub fn wait_for<R>(&self, mut operation: impl FnMut(&mut T) -> Option<R>) -> R {
        let _held = self.held();
        let mut guarded = self.lock();
        loop {
            if let Some(result) = operation(&mut guarded.value) {
                return result;
            }
            guarded.waiting += 1;
            guarded = self.changed.wait(guarded).unwrap_or_else(PoisonError::into_inner);
            guarded.waiting -= 1;
        }
    }

    /// The same, until `deadline` at the latest; `None` once that has passed.
    #[cfg(not(loom))]
    pub fn wait_until<R>(
        &self,
        deadline: Instant,
        mut operation: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<R> {
        let _held = self.held();
        let mut guarded = self.lock();
        loop {
            if let Some(result) = operation(&mut guarded.value) {
                return Some(result);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            guarded.waiting += 1;
            let waited = self.changed.wait_timeout(guarded, left);
            guarded = waited.unwrap_or_else(PoisonError::into_inner).0;
            guarded.waiting -= 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wait_ends_with_the_change_that_it_waits_for() {
        let monitor = Monitor::new(0);
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| monitor.wait_for(|value| (*value == 3).then_some("three")));
            for _ in 0..3 {
                monitor.change(|value| *value += 1);
            }
            assert_eq!(waiting.join().ok(), Some("three"));
        });
    }

    #[test]
    fn a_wait_with_a_deadline_ends_there() {
        let monitor = Monitor::new(0);
        let deadline = Instant::now() + Duration::from_millis(1);
        assert_eq!(monitor.wait_until(deadline, |value| (*value == 1).then_some(())), None);
        assert!(Instant::now() >= deadline);
        monitor.change(|value| *value = 1);
        assert_eq!(monitor.wait_until(deadline, |value| (*value == 1).then_some(())), Some(()));
    }

    #[test]
    fn a_panic_in_an_operation_leaves_the_monitor_usable() {
        let monitor = Monitor::new(1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            monitor.change(|_| panic!("for the test"));
        }));
        assert!(panicked.is_err());
        assert_eq!(monitor.read(|value| *value), 1);
    }
}
