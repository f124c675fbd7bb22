//! `recvmmsg`: many datagrams with one system call.
//!
//! rustix has no wrapper for it. One call that asks for more than one datagram also tells whether the
//! socket is drained, which a call for one does not: it costs a lone datagram one system call less.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, ptr};

/// How many datagrams one call receives at most.
pub(crate) const BATCH: usize = 16;

/// The most bytes of a datagram that are received, as in `asyncio.selector_events`; the rest is lost.
/// Memory is touched by what comes only.
const MAX_SIZE: usize = 256 * 1024;

/// The size of `sockaddr_storage`: no address is longer.
const MAX_NAME: usize = 128;

/// Where datagrams are received.
pub(crate) struct Buffers {
    /// `BATCH` times `MAX_SIZE`.
    bytes: Vec<u8>,
    /// `BATCH` addresses.
    names: Vec<[u8; MAX_NAME]>,
    /// One for each datagram: a pointer into `bytes`. Never resized.
    vectors: Vec<libc::iovec>,
    /// One for each datagram: pointers into `names` and `vectors`.
    headers: Vec<libc::mmsghdr>,
    /// How many datagrams the last call received.
    received: usize,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        let mut bytes = vec![0; BATCH * MAX_SIZE];
        let mut names = vec![[0; MAX_NAME]; BATCH];
        let mut vectors: Vec<_> = bytes
            .chunks_exact_mut(MAX_SIZE)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: MAX_SIZE })
            .collect();
        let headers = vectors
            .iter_mut()
            .zip(&mut names)
            .map(|(vector, name)| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = name.as_mut_ptr().cast();
                header.msg_hdr.msg_namelen = name_capacity();
                header.msg_hdr.msg_iov = ptr::from_mut(vector);
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self { bytes, names, vectors, headers, received: 0 }
    }

    /// Receives what has come, up to [`BATCH`] datagrams, without blocking; returns how many.
    ///
    /// A failure after the first datagram is kept by the kernel for the next call.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<usize, Errno> {
        for header in &mut self.headers[..self.received] {
            // The kernel has put the length of the address there.
            header.msg_hdr.msg_namelen = name_capacity();
        }
        self.received = 0;
        debug_assert_eq!(self.vectors.len(), self.headers.len());
        // Not through libc's function, which is a cancellation point (decision 4).
        // SAFETY: the headers point to memory that `self` owns and does not move or shrink: the
        // elements of `bytes`, `names` and `vectors`, with their lengths. It is borrowed mutably for
        // the call, and the kernel writes plain bytes to it.
        let received = unsafe {
            libc::syscall(
                libc::SYS_recvmmsg,
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len(),
                libc::MSG_DONTWAIT,
                ptr::null_mut::<libc::timespec>(),
            )
        };
        match usize::try_from(received) {
            Ok(received) => {
                self.received = received.min(BATCH);
                Ok(self.received)
            }
            Err(_) => Err(super::last_error()),
        }
    }

    /// The bytes and the address of a datagram of the last call.
    ///
    /// # Panics
    /// If it received fewer.
    pub(crate) fn datagram(&self, index: usize) -> (&[u8], &[u8]) {
        assert!(index < self.received, "fewer datagrams were received");
        let header = &self.headers[index];
        let length = (header.msg_len as usize).min(MAX_SIZE);
        let name_length = (header.msg_hdr.msg_namelen as usize).min(MAX_NAME);
        let start = index * MAX_SIZE;
        (&self.bytes[start..start + length], &self.names[index][..name_length])
    }
}

/// A header for no memory. Zeroed as a whole, because musl's has private padding, which the kernel
/// reads as the upper halves of lengths.
fn empty_header() -> libc::mmsghdr {
    // SAFETY: the type has integers and raw pointers only; all zero bytes are a value of each.
    unsafe { mem::zeroed() }
}

#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const fn name_capacity() -> libc::socklen_t {
    MAX_NAME as libc::socklen_t
}
