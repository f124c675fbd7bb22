//! Descriptor numbers that somebody else owns, and their registration with tokio.
//!
//! rustix and tokio ask their callers to promise that a descriptor is open. The promise is made
//! here, per function, from what the callers in `crate::runtime` guarantee.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor number that somebody else owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor(pub(crate) RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Runs `operation` on a descriptor that the caller was given by the user.
///
/// The user may have closed it, or may close it from another thread meanwhile. Then the kernel
/// answers `EBADF` or works on what now has that number, as with any number a Python program hands
/// to `select` or `os.read`. rustix only passes the number on.
pub(crate) fn with_descriptor<R>(
    fd: RawFd,
    operation: impl FnOnce(BorrowedFd<'_>) -> R,
) -> io::Result<R> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: `borrow_raw` forbids -1, which the test above excludes; that the number is open is
    // not relied upon for memory safety, see above.
    Ok(operation(unsafe { BorrowedFd::borrow_raw(fd) }))
}

/// Registers `fd` with the I/O driver of the current tokio runtime, for the events of `interest`.
///
/// The caller keeps the descriptor open until it has dropped the result: a transport holds an
/// `_io_refs` reference on its socket, which keeps `socket.close()` from closing it early, or owns
/// the pipe's file object.
pub(crate) fn register(fd: RawFd, interest: Interest) -> io::Result<AsyncFd<Descriptor>> {
    // SAFETY: `Descriptor` always returns the same number, and the caller keeps it open. A program
    // that closes the number behind Python's back (os.close) makes the deregistration fail, and so
    // does `disown`; then tokio keeps the memory that the kernel may still point to.
    let registered = unsafe { AsyncFd::register_with_interest(Descriptor(fd), interest) };
    registered.map_err(Into::into)
}

/// Makes the deregistration of a closed descriptor fail instead of hitting whatever has its number
/// by now.
///
/// The kernel removed the closed file from the epoll set, or will when its last duplicate is closed;
/// tokio keeps the memory that it may still point to for as long as the runtime lives.
pub(crate) fn disown(registered: &mut AsyncFd<Descriptor>) {
    *registered.get_mut() = Descriptor(-1);
}

/// Registers a descriptor that the result owns, and that is only ever readable: kqueue refuses to
/// watch a kqueue for anything else.
pub(crate) fn register_owned<T: AsRawFd + Into<std::os::fd::OwnedFd>>(
    fd: T,
) -> io::Result<AsyncFd<T>> {
    // SAFETY: `fd` is owned by the result, hence open for as long, and is not replaced in it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(Into::into)
}
