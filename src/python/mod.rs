//! The python ring: the PyO3 classes and what they schedule.
//!
//! | thing | file |
//! |---|---|
//! | the loop's methods, in asyncio's order | `event_loop` |
//! | one thread of the loop: queues, turn, run | `shard` |
//! | the other threads of a loop, and its runs | `crew`, `worker` |
//! | which shard something belongs to | `homes` |
//! | `Handle` and `TimerHandle` | `handle` |
//! | how futures and tasks are made | `tasks` |
//! | what a handle refers to its loop by | `owner` |
//! | `sock_recv` and the other `sock_*` methods | `sockets` |
//! | who waits for which descriptor | `watches` |
//! | what all transports share | `transports` |
//! | the stream transport | `stream` |
//! | the datagram transport | `datagram` |
//! | the pipe transports | `pipe` |
//! | TLS over any transport | `tls` |
//! | the fast TLS engine | `rustls` |
//! | bytes-like arguments | `buffer` |
//! | objects that the collector sees too early | `initialized` |
//! | Python classes that derive from native ones | `subclass` |
//! | exceptions for failed system calls | `error` |
//! | the end of the interpreter | `exit` |
//! | Python objects that Rust looks up by name | `imports` |
//! | C-API calls that PyO3 lacks (the unsafe fence) | `ffi` |
//!
//! Lock rule, for every file here: no lock is held while Python code may run. Python code runs when
//! something is called, and also when a reference is dropped.

pub(crate) mod buffer;
pub(crate) mod crew;
pub(crate) mod datagram;
pub(crate) mod error;
pub(crate) mod event_loop;
pub(crate) mod exit;
pub(crate) mod ffi;
pub(crate) mod handle;
pub(crate) mod homes;
pub(crate) mod imports;
pub(crate) mod initialized;
pub(crate) mod owner;
pub(crate) mod pipe;
pub(crate) mod rustls;
pub(crate) mod shard;
pub(crate) mod sockets;
pub(crate) mod stream;
pub(crate) mod subclass;
pub(crate) mod tasks;
pub(crate) mod tls;
pub(crate) mod transports;
pub(crate) mod watches;
pub(crate) mod worker;
