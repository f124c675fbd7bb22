//! TLS over any transport: what `asyncio.sslproto` does, in Rust.
//!
//! # Theory of operation
//!
//! A [`TlsProtocol`] is the protocol of the transport below and has a [`TlsTransport`] for the
//! application above, as `SSLProtocol` and `_SSLProtocolTransport` are in asyncio, whose states and
//! rules these are. An [`engine`](engine::Engine) between them turns ciphertext into plaintext and
//! back; it does no I/O.
//!
//! When the transport below is a [`StreamTransport`](crate::transport::stream::StreamTransport), bytes
//! pass between the two without a Python call. Any other transport (one of another loop, a
//! `TlsTransport` as in TLS inside TLS) finds the methods of `asyncio.BufferedProtocol`.
//!
//! The writes of one callback are encrypted together after it has returned, so that many small writes are
//! one record and one system call; the shard decides for how many callbacks they wait. They are encrypted
//! at once when they fill a record (while the application is told of received data, some records), before
//! an operation that shows whether they were sent (`is_closing()`, which `StreamWriter.drain()` calls, and
//! `get_write_buffer_size()`), and when no callback of the loop runs. While the transport below does not
//! want to be written to, plaintext waits, and counts as the application's write buffer.
//!
//! A connection lives on the shard of the transport below. Calls from other threads are forwarded
//! there, in order. No lock is held while the engine works: OpenSSL may call back into Python.
//!
//! # Where it differs from asyncio, on purpose
//!
//! - What was decrypted before a bad record is delivered before the failure is reported.
//! - The alert of a failure is sent before the connection closes (RFC 8446, 6.2).
//! - A peer that goes on sending after `close()` is not an error: what it sends is dropped until it
//!   ends its side or the shutdown times out, so that what was written before arrives.
//! - A write buffer that is empty is no reason to pause, even if the high-water mark is 0.
//!
//! | thing | file |
//! |---|---|
//! | what an engine has to do | `engine` |
//! | OpenSSL, through `ssl.SSLObject` | `openssl` |
//! | rustls, the fast engine | `rustls` |
//! | what a connection remembers | `state` |
//! | the transport below | `lower` |
//! | the protocol, as the transport below sees it | `protocol` |
//! | the transport, as the application sees it | `transport` |
//! | from the first byte to `connection_made()` | `handshake` |
//! | from ciphertext to `data_received()` | `reading` |
//! | from `write()` to ciphertext, and flow control | `writing` |
//! | close notifications, failures, `connection_lost()` | `closing` |

mod closing;
mod engine;
mod handshake;
mod lower;
mod openssl;
mod protocol;
mod reading;
pub(crate) mod rustls;
mod state;
mod transport;
mod writing;

pub(crate) use protocol::TlsProtocol;
pub(crate) use transport::{TlsTransport, Write};
