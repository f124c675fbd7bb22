//! What the transports of every kind share.
//!
//! | thing | file |
//! |---|---|
//! | where a transport lives, and how events and calls find it | `place` |
//! | how calls from other threads get there | `forwarding` |
//! | what it tells its loop and its protocol | `endpoint` |
//! | its hold on a socket | `hold` |
//! | how one pauses, closes and fails | `polled` |
//! | where bytes are received | `read_buffer` |

mod endpoint;
mod forwarding;
mod hold;
mod place;
mod polled;
mod read_buffer;

pub(crate) use endpoint::{Endpoint, checked_limits, checked_limits_from, extra_info};
pub(crate) use forwarding::Forwarding;
pub(crate) use hold::SocketHold;
pub(crate) use place::{Call, Place, Transport};
pub(crate) use polled::{Polled, Queueing, warn_about_lost_write};
pub(crate) use read_buffer::{MAX_READ_SIZE, with_read_buffer, with_record_buffer};
