//! Where bytes are received before their number is known.

use std::cell::RefCell;

/// The most one read takes, as in asyncio.
pub(crate) const MAX_READ_SIZE: usize = 256 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `operation` on the thread's buffer of [`MAX_READ_SIZE`] bytes. It must not run Python code.
pub(crate) fn with_read_buffer<R>(operation: impl FnOnce(&mut [u8]) -> R) -> R {
    READ_BUFFER.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            buffer.resize(MAX_READ_SIZE, 0);
        }
        operation(buffer)
    })
}
