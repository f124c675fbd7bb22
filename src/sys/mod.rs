//! The system fence: the one place where raw file descriptors are trusted, and where memory is lent
//! to the kernel, and the C library is told what must not happen to a thread.
//!
//! | thing | file |
//! |---|---|
//! | descriptor numbers, registration with tokio | `descriptors` |
//! | receiving many datagrams with one call | `datagrams` |
//! | threads that must not be unwound | `thread_exit` |
#![allow(unsafe_code, reason = "this module is one of the two fences")]

pub(crate) mod datagrams;
mod descriptors;
mod thread_exit;

pub(crate) use descriptors::{Descriptor, disown, register, register_owned, with_descriptor};
pub(crate) use thread_exit::hanging_at_exit;
