//! `ReadPipeTransport` and `WritePipeTransport`: ends of pipes, fifos, terminals and sockets, as
//! asyncio's Unix pipe transports behave.
//!
//! They differ from the stream transport in what they promise: an error of `data_received()` does not
//! end them, the end of the stream does, and a write pipe is closed once its reader is gone. The write
//! queue, flow control, the home shard and forwarded calls are the same.
//!
//! The descriptor is that of a Python file, which the user may reach and the transport closes. Unlike
//! a socket, a file has no second reference to hold: whoever closes it under the transport is noticed
//! at the end, so that nothing is done to the number, which may be another's by then.
//!
//! | thing | file |
//! |---|---|
//! | the end that is read | `read` |
//! | the end that is written | `write`, `write_events` |
//! | what Python sees of them | `read_methods`, `write_methods` |
//! | the Python objects of an open transport | `objects` |

mod objects;
mod read;
mod read_methods;
mod write;
mod write_events;
mod write_methods;

pub(crate) use read::ReadPipeTransport;
pub(crate) use write::WritePipeTransport;
