//! The system fence: the one place where raw file descriptors are trusted, and where memory is lent
//! to the kernel, and the C library is told what must not happen to a thread.
//!
//! | thing | file |
//! |---|---|
//! | descriptor numbers, registration with tokio | `descriptors` |
//! | receiving datagrams | `datagrams` |
//! | sending without blocking, and of files | `sockets` |
//! | waits that tokio cannot do | `polling` |
//! | the clock behind `time.monotonic()` | `clock` |
//! | threads that must not be unwound | `thread_exit` |
//! | kqueue, on macOS | `kqueue` |
//!
//! All but `descriptors`, `polling` and `kqueue` are pairs of files with the same names in them, one of which is
//! compiled. `build.rs` refuses systems that have neither.
#![allow(unsafe_code, reason = "this module is one of the two fences")]

#[cfg_attr(target_os = "linux", path = "clock/linux.rs")]
#[cfg_attr(target_os = "macos", path = "clock/macos.rs")]
pub(crate) mod clock;
#[cfg_attr(target_os = "linux", path = "datagrams/linux.rs")]
#[cfg_attr(target_os = "macos", path = "datagrams/macos.rs")]
pub(crate) mod datagrams;
mod descriptors;
#[cfg(target_os = "macos")]
pub(crate) mod kqueue;
mod polling;
#[cfg_attr(target_os = "linux", path = "sockets/linux.rs")]
#[cfg_attr(target_os = "macos", path = "sockets/macos.rs")]
pub(crate) mod sockets;
mod thread_exit;

pub(crate) use descriptors::{Descriptor, disown, register, register_owned, with_descriptor};
pub(crate) use polling::{Polled, poll};
pub(crate) use thread_exit::hanging_at_exit;

/// Why the last system call of this thread failed.
fn last_error() -> rustix::io::Errno {
    let error = std::io::Error::last_os_error();
    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
}
