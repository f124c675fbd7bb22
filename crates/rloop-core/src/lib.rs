//! The pure logic of `TokioLoop`: what can be decided from its arguments alone.
//!
//! No I/O and no Python: the `rloop` crate puts sockets and
//! objects into these types. Everything here is tested without an interpreter, the concurrent
//! part ([`inbox`], [`commands`]) under loom as well.
#![forbid(unsafe_code)]

pub mod commands;
pub mod flow;
pub mod forwarded;
pub mod inbox;
pub mod lifecycle;
pub mod placement;
pub mod records;
pub mod signals;
pub mod steps;
pub mod sync;
pub mod timers;
pub mod watches;
pub mod write_queue;
