//! The system fence: the one place where raw file descriptors are trusted, and where memory is lent
//! to the kernel.
//!
//! | thing | file |
//! |---|---|
//! | descriptor numbers, registration with tokio | `descriptors` |
//! | receiving many datagrams with one call | `datagrams` |
#![allow(unsafe_code, reason = "this module is one of the two fences")]

pub(crate) mod datagrams;
mod descriptors;

pub(crate) use descriptors::{Descriptor, disown, register, register_owned, with_descriptor};
