//! A cleanup handler, as macOS keeps it.
//!
//! There, the end of a thread unwinds nothing: its frames vanish, with whatever they hold, and then
//! the data of the thread are dropped, Python objects among them. The handlers run before all that.
//!
//! The macro of `pthread.h` links a record into a list of the thread. The header declares both, and
//! every program that uses the macro was compiled with their layout.

use std::cell::UnsafeCell;
use std::ffi::{c_long, c_void};
use std::marker::PhantomData;
use std::ptr;

/// What is kept about a handler, as `pthread.h` declares it.
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

/// A handler on the list of the thread. The newest is dropped first.
pub(super) struct Handler {
    record: Box<UnsafeCell<Record>>,
    not_send: PhantomData<*const ()>,
}

impl Handler {
    pub(super) fn push(routine: extern "C" fn(*mut c_void)) -> Self {
        let list = handlers();
        // SAFETY: only the thread itself reads and writes its list.
        let next = unsafe { *list };
        let record = Record { routine, argument: ptr::null_mut(), next };
        let record = Box::new(UnsafeCell::new(record));
        // SAFETY: as above, and the record stays where it is until `drop` takes it off the list.
        unsafe { *list = record.get() };
        Self { record, not_send: PhantomData }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        let next = self.record.get_mut().next;
        // SAFETY: `push` put the record on the list of this thread, and it is the first there.
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
