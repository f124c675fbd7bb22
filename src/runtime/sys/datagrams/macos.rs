//! Receiving datagrams: one with each call, for macOS has none for many.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How many datagrams one call receives at most.
pub(crate) const BATCH: usize = 1;

/// The most bytes of a datagram that are received, as in `asyncio.selector_events`; the rest is lost.
/// Memory is touched by what comes only.
const MAX_SIZE: usize = 256 * 1024;

/// The size of `sockaddr_storage`: no address is longer.
const MAX_NAME: usize = 128;

/// Where datagrams are received.
pub(crate) struct Buffers {
    /// `MAX_SIZE` of them.
    bytes: Vec<u8>,
    /// The sender's address.
    name: [u8; MAX_NAME],
    /// How many bytes the last call received, and how many its sender's address has.
    received: Option<(usize, usize)>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; MAX_SIZE], name: [0; MAX_NAME], received: None }
    }

    /// Receives what has come, up to [`BATCH`] datagrams, without blocking; returns how many.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        self.received = None;
        #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
        let mut name_length = MAX_NAME as libc::socklen_t;
        // SAFETY: the kernel writes plain bytes to `bytes` and `name`, no more than their lengths, and
        // the length of the address to `name_length`; all are borrowed mutably for the call.
        let received = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                self.bytes.as_mut_ptr().cast(),
                self.bytes.len(),
                libc::MSG_DONTWAIT,
                self.name.as_mut_ptr().cast(),
                &raw mut name_length,
            )
        };
        let length = usize::try_from(received).map_err(|_| super::last_error())?;
        self.received = Some((length.min(MAX_SIZE), (name_length as usize).min(MAX_NAME)));
        Ok(BATCH)
    }

    /// The bytes and the address of a datagram of the last call.
    ///
    /// # Panics
    /// If it received fewer.
    pub(crate) fn datagram(&self, index: usize) -> (&[u8], &[u8]) {
        let received = self.received.filter(|_| index == 0);
        let (length, name_length) = received.expect("fewer datagrams were received");
        (&self.bytes[..length], &self.name[..name_length])
    }
}
