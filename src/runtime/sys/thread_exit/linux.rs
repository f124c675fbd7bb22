//! A cleanup handler, as glibc and musl keep it.
//!
//! glibc ends a thread by unwinding its stack, and Rust aborts the process when a function unwinds
//! that it took for a C function, which is what every call into Python is. Both C libraries run the
//! handlers whose record is older than the frame to be left before they unwind it; a record that is
//! not on the stack counts as older than every frame, so nothing is unwound at all.

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

/// A handler on the list of the thread. The newest is dropped first.
pub(super) struct Handler {
    record: Box<UnsafeCell<Record>>,
    not_send: PhantomData<*const ()>,
}

impl Handler {
    pub(super) fn push(routine: extern "C" fn(*mut c_void)) -> Self {
        let record = Box::new(UnsafeCell::new(Record::default()));
        // SAFETY: the record stays where it is until `drop` takes it off the list.
        unsafe { _pthread_cleanup_push(record.get(), routine, std::ptr::null_mut()) };
        Self { record, not_send: PhantomData }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // SAFETY: `push` put the record on the list of this thread, and it is the newest there.
        unsafe { _pthread_cleanup_pop(self.record.get(), 0) };
    }
}
