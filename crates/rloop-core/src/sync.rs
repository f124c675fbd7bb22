//! The synchronisation primitives of this crate: the real ones, or loom's under `--cfg loom`.

#[cfg(not(loom))]
pub(crate) use {parking_lot::Mutex, std::sync::atomic::AtomicU8};

#[cfg(loom)]
pub(crate) use {loom::sync::atomic::AtomicU8, loom_mutex::Mutex};

/// loom's mutex behind `parking_lot`'s infallible `lock`.
#[cfg(loom)]
mod loom_mutex {
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("a loom model does not poison its locks")
        }
    }
}
