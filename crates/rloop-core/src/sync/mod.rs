//! The synchronisation primitives of the workspace: the real ones, or loom's under `--cfg loom`.

#[cfg(not(loom))]
mod locks;
#[cfg(loom)]
mod models;
mod monitor;

#[cfg(all(not(loom), debug_assertions))]
pub use locks::assert_nothing_is_held;
#[cfg(not(loom))]
pub use locks::{Mutex, MutexGuard, ThreadCell};
#[cfg(loom)]
pub use models::Mutex;
pub use monitor::Monitor;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicU8;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::AtomicU8;

/// Puts `value` in a place, if there is one. Hands back the value to drop once the lock was let go of: the
/// one that was there, or `value` itself.
#[must_use]
pub fn put<T>(place: Option<&mut T>, value: T) -> T {
    match place {
        Some(place) => std::mem::replace(place, value),
        None => value,
    }
}
