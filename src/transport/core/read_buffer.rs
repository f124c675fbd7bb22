//! Where bytes are received before their number is known, and records are made that leave at once.

use std::cell::Cell;

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
    /// The buffer that the next use takes.
    static READ_BUFFER: Cell<Option<ReadBuffer>> = const { Cell::new(None) };
}

/// Runs `operation` on a buffer of [`MAX_READ_SIZE`] bytes.
pub(crate) fn with_read_buffer<R>(operation: impl FnOnce(&mut [u8]) -> R) -> R {
    with_record_buffer(|buffer| operation(&mut buffer[..MAX_READ_SIZE]))
}

/// The same with room for the records of [`MAX_READ_SIZE`] bytes. The same memory serves, as what was
/// received is gone by then: it is still in the cache.
///
/// The buffer is taken out of its thread meanwhile, not borrowed: the operation may run Python code, for
/// example when it detaches and attaches again, and that code may come here. It gets a new buffer.
pub(crate) fn with_record_buffer<R>(operation: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut buffer = READ_BUFFER.take().unwrap_or_else(ReadBuffer::new);
    let start = buffer.start;
    let result = operation(&mut buffer.memory[start..start + MAX_READ_SIZE + ROOM_FOR_RECORDS]);
    READ_BUFFER.set(Some(buffer));
    result
}
