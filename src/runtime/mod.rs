//! The runtime that drives a shard: tokio, the clock, sockets and descriptors. It knows nothing of Python.
//! Unsafe code stands in `sys` only.

#[cfg_attr(target_os = "linux", path = "alarm/timerfd.rs")]
#[cfg_attr(target_os = "macos", path = "alarm/kqueue.rs")]
pub(crate) mod alarm;
pub(crate) mod clock;
pub(crate) mod datagram;
pub(crate) mod driver;
pub(crate) mod key_log;
pub(crate) mod pipe;
pub(crate) mod poller;
pub(crate) mod process;
pub(crate) mod registration;
pub(crate) mod reminder;
pub(crate) mod sockets;
pub(crate) mod stream;
pub(crate) mod sys;
