//! What a send needs that differs between systems.

use rustix::fs::sendfile;
use rustix::net::SendFlags;
use std::os::fd::BorrowedFd;

/// A send neither blocks nor raises `SIGPIPE`.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Sends what the kernel takes of `count` bytes of a file, from byte `offset` on; 0 at its end.
pub(crate) fn send_file(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    mut offset: u64,
    count: usize,
) -> rustix::io::Result<usize> {
    sendfile(socket, file, Some(&mut offset), count)
}
