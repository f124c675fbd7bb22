//! poll(2), for waits that tokio cannot do.

use super::last_error;
use rustix::io::Errno;
use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// A descriptor that somebody else owns, what is awaited, and what came of it. One that was closed is ready.
#[repr(transparent)]
pub(crate) struct Polled(libc::pollfd);

impl Polled {
    pub(crate) fn readable(fd: RawFd) -> Self {
        Self(libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
    }

    pub(crate) fn writable(fd: RawFd) -> Self {
        Self(libc::pollfd { fd, events: libc::POLLOUT, revents: 0 })
    }

    /// True if what is awaited is possible, or will never be.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until one of `polled` is ready, `timeout` is over or a signal came.
pub(crate) fn poll(polled: &mut [Polled], timeout: Duration) -> io::Result<()> {
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    let milliseconds = c_int::try_from(milliseconds).unwrap_or(c_int::MAX);
    let count = libc::nfds_t::try_from(polled.len()).unwrap_or(libc::nfds_t::MAX);
    // SAFETY: `Polled` is a `pollfd` in memory, and the slice holds `count` of them, which nobody else
    // uses meanwhile.
    let ready = unsafe { libc::poll(polled.as_mut_ptr().cast(), count, milliseconds) };
    if ready >= 0 {
        return Ok(());
    }
    match last_error() {
        // The kernel may have written nothing.
        Errno::INTR => Ok(()),
        error => Err(error.into()),
    }
}
