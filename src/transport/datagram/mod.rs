//! `DatagramTransport`: UDP and Unix datagram sockets, as asyncio's selector transport behaves.
//!
//! # Theory of operation
//!
//! One event receives a batch of datagrams. They are delivered one after another, as long as the
//! protocol only uses the transport; once it schedules something, the next datagram waits behind
//! that, as it would in asyncio, which receives one datagram an iteration. So a task that the first
//! datagram woke has run before the second one comes.
//!
//! `sendto()` tries the socket at once when nothing is queued. Destinations that are numeric
//! addresses go to the kernel from here; any other goes through the socket object's own `sendto()`,
//! which knows what Python accepts.
//!
//! A failed system call goes to `error_received()` and the transport stays open. Everything else
//! is as for streams: home shard, forwarded calls, the hold on the socket (see `stream`).
//!
//! | thing | file |
//! |---|---|
//! | the object, and how calls from other threads reach it | `transport` |
//! | what Python sees | `methods` |
//! | from a read event to `datagram_received()` | `receiving` |
//! | from `sendto()` to the socket, and flow control | `sending` |
//! | failures, `close()`, `connection_lost()` | `closing` |
//! | what a transport remembers | `state` |
//! | addresses as Python has them | `addresses` |

mod addresses;
mod closing;
mod methods;
mod receiving;
mod sending;
mod state;
mod transport;

pub(crate) use transport::DatagramTransport;
