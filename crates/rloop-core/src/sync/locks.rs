//! Locks, and the rule about them: **no lock is held while Python code may run.**
//!
//! Dropping a reference, building an exception and allocating an object that the collector tracks may
//! run Python code: a finalizer, `__del__`, a callback of a weak reference. Such code may call back
//! into this crate and need the same lock, on the same thread.
//!
//! [`Mutex`] is `parking_lot`'s, [`ThreadCell`] is `RefCell`, and [`Monitor`](super::Monitor) is the
//! standard library's mutex with its condition variable. A release build adds nothing to them.
//! A build with debug assertions keeps a list of what each thread holds. Taking a lock that the thread
//! holds already panics there instead of blocking, and the extension asks [`assert_nothing_is_held`] at
//! each call of Python's C API. `clippy.toml` forbids the wrapped types everywhere else.
#![expect(clippy::disallowed_types, reason = "this module wraps them")]

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

/// A mutual exclusion lock. It guards what its owner says it guards.
#[derive(Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

/// Access to the value of a [`Mutex`].
#[must_use]
pub struct MutexGuard<'a, T> {
    value: parking_lot::MutexGuard<'a, T>,
    _held: held::Held,
}

impl<T> Mutex<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Waits for the lock. The wait is short, because no holder runs Python code or blocks.
    ///
    /// # Panics
    /// With debug assertions, if this thread holds it.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = held::Held::new((&raw const self.0).cast());
        MutexGuard { value: self.0.lock(), _held: held }
    }

    /// The lock, if nobody holds it.
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let value = self.0.try_lock()?;
        Some(MutexGuard { value, _held: held::Held::new((&raw const self.0).cast()) })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// A value that each thread has for itself, in a `thread_local!`. Like a locked value, it is lent to
/// one operation at a time, which must not run Python code.
pub struct ThreadCell<T>(RefCell<T>);

impl<T> ThreadCell<T> {
    /// A value that is not lent.
    pub const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Lends the value of this thread.
    ///
    /// # Panics
    /// If it is lent already, which needs Python code in between.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub fn lend<R>(key: &'static LocalKey<Self>, operation: impl FnOnce(&mut T) -> R) -> R {
        let caller = held::caller();
        key.with(|cell| {
            let _held = held::Held::at((&raw const cell.0).cast(), caller);
            operation(&mut cell.0.borrow_mut())
        })
    }
}

/// What a thread holds, with debug assertions.
#[cfg(debug_assertions)]
pub(super) mod held {
    use std::cell::RefCell;
    use std::panic::Location;

    /// Where something was taken.
    pub(in crate::sync) type Caller = &'static Location<'static>;

    thread_local! {
        /// What this thread holds: its address, and where it was taken.
        static HELD: RefCell<Vec<(*const (), Caller)>> = const { RefCell::new(Vec::new()) };
    }

    /// Something that this thread holds while it lives.
    pub(in crate::sync) struct Held(*const ());

    impl Held {
        #[track_caller]
        pub(in crate::sync) fn new(address: *const ()) -> Self {
            Self::at(address, caller())
        }

        pub(super) fn at(address: *const (), caller: Caller) -> Self {
            let before = with(|held| {
                let before = held.iter().find(|(other, _)| *other == address).copied();
                if before.is_none() {
                    held.push((address, caller));
                }
                before
            });
            if let Some(Some((_, before))) = before {
                panic!("{caller}: this thread holds it already, since {before}");
            }
            Self(address)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            with(|held| {
                if let Some(index) = held.iter().rposition(|(address, _)| *address == self.0) {
                    held.remove(index);
                }
            });
        }
    }

    #[track_caller]
    pub(super) fn caller() -> Caller {
        Location::caller()
    }

    /// Where each thing that this thread holds was taken, oldest first.
    pub(super) fn all() -> Vec<Caller> {
        with(|held| held.iter().map(|(_, caller)| *caller).collect()).unwrap_or_default()
    }

    /// `None` at the end of the thread, when the list is gone.
    fn with<R>(operation: impl FnOnce(&mut Vec<(*const (), Caller)>) -> R) -> Option<R> {
        HELD.try_with(|held| operation(&mut held.borrow_mut())).ok()
    }
}

/// Nothing, without debug assertions.
#[cfg(not(debug_assertions))]
pub(super) mod held {
    pub(in crate::sync) struct Held;

    impl Held {
        #[inline]
        pub(in crate::sync) fn new(_address: *const ()) -> Self {
            Self
        }

        #[inline]
        pub(super) fn at(_address: *const (), _caller: ()) -> Self {
            Self
        }
    }

    #[inline]
    pub(super) fn caller() {}
}

/// Checks that this thread may run Python code.
///
/// # Panics
/// If it holds a lock or has borrowed the value of a [`ThreadCell`].
#[cfg(debug_assertions)]
pub fn assert_nothing_is_held(entry: &str) {
    let held = held::all();
    assert!(
        held.is_empty(),
        "{entry}() while this thread holds {}",
        held.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    );
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_listed_until_it_is_let_go_of() {
        let (one, other) = (Mutex::new(1), Mutex::new(2));
        let first = one.lock();
        let second = other.lock();
        drop(first);
        assert_eq!(held::all().len(), 1);
        drop(second);
        assert!(held::all().is_empty());
    }

    #[test]
    #[should_panic(expected = "holds it already")]
    fn taking_a_lock_twice_panics() {
        let lock = Mutex::new(());
        let _first = lock.lock();
        let _second = lock.lock();
    }
}
