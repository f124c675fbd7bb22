//! The C-API fence, and what is built on it alone.
//!
//! | thing | file |
//! |---|---|
//! | C-API calls that `PyO3` lacks (the unsafe fence) | `ffi` |
//! | bytes-like arguments | `buffer` |
//! | exceptions for failed system calls | `error` |
//! | Python objects that Rust looks up by name | `imports` |
//! | the exceptions that leave an iteration | `interrupt` |
//! | methods of the program's objects that are called for each event | `method` |
//! | objects that the collector sees before they are complete | `initialized` |
//! | native methods of the classes that derive from native ones | `subclass` |
//!
//! Lock rule, for this module and all above it: no lock is held while Python code may run. Python code
//! runs when something is called, and also when a reference is dropped.

pub(crate) mod buffer;
pub(crate) mod error;
pub(crate) mod ffi;
pub(crate) mod imports;
pub(crate) mod initialized;
pub(crate) mod interrupt;
pub(crate) mod method;
pub(crate) mod subclass;
