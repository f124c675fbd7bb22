//! Threads that `pthread_exit` must not end while this crate's frames are on their stack.
//!
//! Before 3.14, CPython ends a daemon thread with `pthread_exit` when it asks for the GIL of an
//! interpreter that is finalized. glibc does that by unwinding the stack, and Rust aborts the process
//! when a function unwinds that it took for a C function, which is what every call into Python is.
//! So a thread that drives a shard hangs instead, which is what 3.14 does to such threads.
//!
//! The means is a cleanup handler of pthreads that never returns. C libraries run those whose record is
//! older than the frame to be left before they unwind it; a record that is not on the stack counts as
//! older than every frame, so nothing is unwound at all.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;

/// Room for what the C library keeps about a handler: four words in glibc, three in musl.
type Record = [usize; 4];

unsafe extern "C" {
    fn _pthread_cleanup_push(
        record: *mut Record,
        routine: extern "C" fn(*mut c_void),
        argument: *mut c_void,
    );
    fn _pthread_cleanup_pop(record: *mut Record, execute: c_int);
}

/// Runs `operation`, during which `pthread_exit` hangs on this thread.
pub(crate) fn hanging_at_exit<R>(operation: impl FnOnce() -> R) -> R {
    let _handler = Handler::push();
    operation()
}

/// The handler is on the list of the thread.
struct Handler {
    record: Box<UnsafeCell<Record>>,
    not_send: PhantomData<*const ()>,
}

impl Handler {
    fn push() -> Self {
        let record = Box::new(UnsafeCell::new(Record::default()));
        // SAFETY: the record stays where it is until `drop` takes it off the list.
        unsafe { _pthread_cleanup_push(record.get(), hang, std::ptr::null_mut()) };
        Self { record, not_send: PhantomData }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: `push` put the record on the list of this thread, and `hanging_at_exit`, the only
        // caller, nests, so it is the newest there.
        unsafe { _pthread_cleanup_pop(self.record.get(), 0) };
    }
}

extern "C" fn hang(_: *mut c_void) {
    loop {
        std::thread::park();
    }
}
