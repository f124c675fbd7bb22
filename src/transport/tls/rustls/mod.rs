//! The fast TLS engine, as Python and the rest of this ring see it.
//!
//! | thing | file |
//! |---|---|
//! | what a context asks for, and whether rustls can do it | `setup` |
//! | one connection, and what the application may ask of it | `object` |
//! | certificates in the `ssl` module's shape | `certificate` |
//! | failures as the `ssl` module's exceptions | `error` |

mod certificate;
mod error;
mod object;
mod setup;

pub(crate) use object::RustlsObject;
pub(crate) use setup::RustlsSetup;
