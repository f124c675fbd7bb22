//! What a send needs that differs between systems.

use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// What there is of a flag against blocking; macOS heeds it in receiving only, so a send blocks on a
/// blocking socket, as asyncio's does. There is none against `SIGPIPE`, which Python ignores.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT;

/// Sends what the kernel takes of `count` bytes of a file, from byte `offset` on; 0 at its end.
pub(crate) fn send_file(
    socket: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    offset: u64,
    count: usize,
) -> rustix::io::Result<usize> {
    let offset = offset.try_into().map_err(|_| Errno::OVERFLOW)?;
    let mut length = count.try_into().map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the kernel reads and writes `length`, which is borrowed mutably for the call, and there
    // are neither headers nor trailers.
    let status = unsafe {
        libc::sendfile(
            file.as_raw_fd(),
            socket.as_raw_fd(),
            offset,
            &raw mut length,
            ptr::null_mut(),
            0,
        )
    };
    // A call that ends early fails and tells nevertheless how much was sent.
    match usize::try_from(length) {
        Ok(sent) if status == 0 || sent > 0 => Ok(sent),
        _ => Err(super::last_error()),
    }
}
