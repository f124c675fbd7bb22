//! System calls on sockets that the program owns. None of them blocks, whatever the socket's mode, as
//! far as the system can promise that: see [`sys::sockets`].

use crate::runtime::sys;
use rustix::buffer::Buffer;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::SockRef;
use std::io;
use std::os::fd::RawFd;

/// Receives into `buffer`; `None` if there is nothing yet.
pub(crate) fn receive<B: Buffer<u8>>(fd: RawFd, buffer: B) -> io::Result<Option<B::Output>> {
    unless_not_ready(sys::with_descriptor(fd, |fd| {
        rustix::net::recv(fd, buffer, RecvFlags::DONTWAIT).map(|(received, _)| received)
    })?)
}

/// Sends what the kernel takes of `data`; `None` if it takes nothing yet.
pub(crate) fn send(fd: RawFd, data: &[u8]) -> io::Result<Option<usize>> {
    unless_not_ready(sys::with_descriptor(fd, |fd| {
        rustix::net::send(fd, data, sys::sockets::SEND)
    })?)
}

/// Sends what the kernel takes of `count` bytes of a file, from byte `offset` on; `None` if it takes
/// nothing yet, 0 at the end of the file.
pub(crate) fn send_file(
    fd: RawFd,
    file: RawFd,
    offset: u64,
    count: usize,
) -> io::Result<Option<usize>> {
    let sent = sys::with_descriptor(fd, |fd| {
        sys::with_descriptor(file, |file| sys::sockets::send_file(fd, file, offset, count))
    })??;
    unless_not_ready(sent)
}

/// Has small writes sent without waiting for the acknowledgement of those before (`TCP_NODELAY`).
///
/// Sockets of other kinds than TCP have no such option, and macOS refuses it to a connection that was
/// reset meanwhile: reading will tell. Neither is a failure.
pub(crate) fn disable_nagle(fd: RawFd) -> io::Result<()> {
    match sys::with_descriptor(fd, |fd| SockRef::from(&fd).set_tcp_nodelay(true))? {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        set => set,
    }
}

fn unless_not_ready<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
