//! Threads that `pthread_exit` must not end while this crate's frames are on their stack.
//!
//! Before 3.14, CPython ends a daemon thread with `pthread_exit` when it asks for the GIL of an
//! interpreter that is finalized. On macOS that unwinds nothing: the frames vanish, with whatever
//! they hold, and then the thread's own data are dropped, Python objects among them. So a thread that
//! drives a shard hangs instead, which is what 3.14 does to such threads.
//!
//! The means is a cleanup handler of pthreads that never returns: they run first. `pthread_cleanup_push`
//! is a macro there that links a record into a list of the thread, as the header `pthread.h` declares
//! both; programs that were compiled with it rely on their layout.

use std::cell::UnsafeCell;
use std::ffi::{c_long, c_void};
use std::marker::PhantomData;
use std::ptr;

/// A handler, as `pthread.h` declares it.
#[repr(C)]
struct Record {
    routine: extern "C" fn(*mut c_void),
    argument: *mut c_void,
    next: *mut Record,
}

/// A thread, as far as `pthread.h` declares it.
#[repr(C)]
struct Thread {
    signature: c_long,
    handlers: *mut Record,
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
        let list = handlers();
        // SAFETY: only the thread itself reads and writes its list.
        let next = unsafe { *list };
        let record = Record { routine: hang, argument: ptr::null_mut(), next };
        let record = Box::new(UnsafeCell::new(record));
        // SAFETY: as above, and the record stays where it is until `drop` takes it off the list.
        unsafe { *list = record.get() };
        Self { record, not_send: PhantomData }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // `push` put the record on the list of this thread, and `hanging_at_exit`, the only caller,
        // nests, so it is the first there.
        let next = self.record.get_mut().next;
        // SAFETY: only the thread itself reads and writes its list.
        unsafe { *handlers() = next };
    }
}

/// The list of the handlers of this thread, the newest first.
fn handlers() -> *mut *mut Record {
    // SAFETY: the function has no precondition.
    let thread = unsafe { libc::pthread_self() } as *mut Thread;
    // SAFETY: it returns a pointer to such a structure, which lives as long as its thread.
    unsafe { &raw mut (*thread).handlers }
}

extern "C" fn hang(_: *mut c_void) {
    loop {
        std::thread::park();
    }
}
