//! A check at each call of Python's C API: the thread holds no lock.
//!
//! Exists in builds with debug assertions on Linux on x86-64 (`build.rs` sets `python_entries_checked`).
//! There the linker redirects each function of `entries.txt` that this module or PyO3 calls to a few
//! instructions, which `build.rs` writes. They save the registers of the arguments, call [`check`],
//! and jump to the function. So calls, attribute access, allocations, drops of references, exceptions,
//! and attaching and detaching are all covered, whoever makes them.
//!
//! Two things escape. On an interpreter with the GIL, PyO3 decrements a count of references itself, and
//! only the drop of the last one is a call. And functions that never run Python code are left out, in
//! `UNCHECKED` of `tests/package/test_python_entries.py`, which also tells when `entries.txt` lacks one.

use rloop_core::sync;
use std::arch::global_asm;
use std::ffi::{CStr, c_char};

global_asm!(
    include_str!(concat!(env!("OUT_DIR"), "/entries.s")),
    check = sym check,
    options(att_syntax)
);

/// Aborts the process if this thread holds a lock: a panic cannot pass through the caller.
extern "C" fn check(entry: *const c_char) {
    // SAFETY: `entries.s` passes the address of a string constant that ends with a NUL.
    let entry = unsafe { CStr::from_ptr(entry) };
    sync::assert_nothing_is_held(&entry.to_string_lossy());
}
