//! `StreamTransport`: TCP and Unix stream connections, as asyncio's selector transport behaves.
//!
//! # Theory of operation
//!
//! The transport belongs to one shard. Events of its socket arrive there as work of an iteration, each
//! protocol callback runs there, in a context, and failures go where asyncio sends them: a failed
//! system call to `connection_lost(exc)`, a failed protocol method to the exception handler *and*
//! `connection_lost(exc)`. A method called on another thread while the shard runs is forwarded to
//! it, in order.
//!
//! The shard keeps the transport alive from its first event until `connection_lost()`, as a
//! selector would.
//!
//! The socket stays a Python object, which the user may reach. The transport holds one of its
//! `_io_refs`, as `socket.makefile()` does: `sock.close()` by somebody else then takes effect when
//! the transport has closed, and the number is never reused under it.
//!
//! | thing | file |
//! |---|---|
//! | the object, and how calls from other threads reach it | `transport` |
//! | what Python sees | `methods` |
//! | from a read event to `data_received()` | `reading` |
//! | from `write()` to the socket, and flow control | `writing` |
//! | failures, `close()`, `connection_lost()` | `closing` |
//! | what a transport remembers, and transitions without Python code | `state` |

mod closing;
mod methods;
mod reading;
mod state;
mod transport;
mod writing;

pub(crate) use methods::Write;
pub(crate) use state::Written;
pub(crate) use transport::StreamTransport;
