//! Where bytes are received before their number is known, and records are made that leave at once.

use std::cell::RefCell;

/// The most one read takes, in bytes, as in asyncio.
pub(crate) const MAX_READ_SIZE: usize = 256 * 1024;

/// The kernel copies up to a fifth slower to where the memory of an allocator begins, 16 bytes behind
/// the boundary of a page.
const ALIGNMENT: usize = 4096;

/// Bytes that the records of [`MAX_READ_SIZE`] bytes of plaintext are longer than these, and more.
const ROOM_FOR_RECORDS: usize = 4096;

/// Memory that is used from `start` on.
struct ReadBuffer {
    memory: Box<[u8]>,
    start: usize,
}

impl ReadBuffer {
    #[cold]
    fn new() -> Self {
        let memory = vec![0; MAX_READ_SIZE + ROOM_FOR_RECORDS + ALIGNMENT].into_boxed_slice();
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }
}

thread_local! {
    static READ_BUFFER: RefCell<Option<ReadBuffer>> = const { RefCell::new(None) };
}

/// Runs `operation` on the thread's buffer of [`MAX_READ_SIZE`] bytes. It must not run Python code.
pub(crate) fn with_read_buffer<R>(operation: impl FnOnce(&mut [u8]) -> R) -> R {
    with_record_buffer(|buffer| operation(&mut buffer[..MAX_READ_SIZE]))
}

/// The same with room for the records of [`MAX_READ_SIZE`] bytes. The same memory serves, as what was
/// received is gone by then: it is still in the cache.
pub(crate) fn with_record_buffer<R>(operation: impl FnOnce(&mut [u8]) -> R) -> R {
    READ_BUFFER.with_borrow_mut(|buffer| {
        let ReadBuffer { memory, start } = buffer.get_or_insert_with(ReadBuffer::new);
        operation(&mut memory[*start..*start + MAX_READ_SIZE + ROOM_FOR_RECORDS])
    })
}
