//! Threads that `pthread_exit` must not end while this crate's frames are on their stack.
//!
//! Before 3.14, CPython ends a daemon thread with `pthread_exit` when it asks for the GIL of an
//! interpreter that is finalized. That takes frames of Rust away that never expected it. So a thread
//! that drives a shard hangs instead, which is what 3.14 does to such threads.
//!
//! The means is a cleanup handler of pthreads that never returns. How one is put on the list of a
//! thread is the C library's own business: its header has a macro for it.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
mod handler;

use handler::Handler;
use std::ffi::c_void;

/// Runs `operation`, during which `pthread_exit` hangs on this thread.
pub(crate) fn hanging_at_exit<R>(operation: impl FnOnce() -> R) -> R {
    // Calls nest, so the handler that is dropped is always the newest.
    let _handler = Handler::push(hang);
    operation()
}

extern "C" fn hang(_: *mut c_void) {
    loop {
        std::thread::park();
    }
}
