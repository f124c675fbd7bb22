//! Whether an object's native part was written yet.
//!
//! CPython 3.11 may collect garbage while it makes an instance of a Python subclass: it tracks the
//! object, then makes its `__dict__`, and only then is the native part written. Until then its
//! memory is zero, and `__traverse__` must not look at anything but this mark.

use std::sync::atomic::{AtomicBool, Ordering};

/// A mark that is set in every value and not set in memory that is zero.
pub(crate) struct Initialized(AtomicBool);

impl Initialized {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    /// False in memory that is zero. Not a constant: it is read from an atomic.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
