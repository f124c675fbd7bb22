//! loom's mutex behind `parking_lot`'s infallible `lock`.

/// A mutual exclusion lock of a model.
#[derive(Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock that nobody holds.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().expect("a loom model does not poison its locks")
    }
}

/// Nothing: models enter no Python code.
pub(super) mod held {
    pub(in crate::sync) struct Held;

    impl Held {
        pub(in crate::sync) fn new(_address: *const ()) -> Self {
            Self
        }
    }
}
