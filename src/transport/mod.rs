//! The transports: core, and one module per kind.
//!
//! | thing | module |
//! |---|---|
//! | the parts that all transports have | `core` |
//! | TCP and Unix stream connections | `stream` |
//! | UDP and Unix datagram endpoints | `datagram` |
//! | pipes | `pipe` |
//! | TLS over any transport, and its engines | `tls` |

pub(crate) mod core;
pub(crate) mod datagram;
pub(crate) mod pipe;
pub(crate) mod stream;
pub(crate) mod tls;
