//! Where bytes are received before their number is known.

use std::cell::RefCell;

/// The most one read takes, in bytes, as in asyncio.
pub(crate) const MAX_READ_SIZE: usize = 256 * 1024;

/// Aligned to a page, because the kernel copies up to a fifth slower to where the memory of an
/// allocator begins, 16 bytes behind a boundary.
#[repr(align(4096))]
struct ReadBuffer([u8; MAX_READ_SIZE]);

impl ReadBuffer {
    #[cold]
    fn new() -> Box<Self> {
        Box::new(Self([0; MAX_READ_SIZE]))
    }
}

thread_local! {
    static READ_BUFFER: RefCell<Option<Box<ReadBuffer>>> = const { RefCell::new(None) };
}

/// Runs `operation` on the thread's buffer of [`MAX_READ_SIZE`] bytes. It must not run Python code.
pub(crate) fn with_read_buffer<R>(operation: impl FnOnce(&mut [u8]) -> R) -> R {
    READ_BUFFER
        .with_borrow_mut(|buffer| operation(&mut buffer.get_or_insert_with(ReadBuffer::new).0))
}
