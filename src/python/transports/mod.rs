//! What the transports of every kind share.
//!
//! | thing | file |
//! |---|---|
//! | where a transport lives, and how events and calls find it | `place` |
//! | what it tells its loop and its protocol | `endpoint` |
//! | protocol methods that are called per packet | `packet_method` |

mod endpoint;
mod packet_method;
mod place;

pub(crate) use endpoint::{Endpoint, hold_socket, release_socket};
pub(crate) use packet_method::PacketMethod;
pub(crate) use place::{Call, Place, Transport};
