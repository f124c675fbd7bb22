//! Which process made something: a child of `fork()` shares its parent's epoll sets.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often this process was forked off, counted along its line of ancestors.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Called in the child of a `fork()`, before any other code of this crate.
pub(crate) fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Remembers the process it was made in.
#[derive(Clone, Copy)]
pub(crate) struct Stamp(u64);

impl Stamp {
    pub(crate) fn new() -> Self {
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// True in the process that made the stamp.
    pub(crate) fn is_this(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}
