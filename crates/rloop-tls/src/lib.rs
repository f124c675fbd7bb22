//! The TLS engine of `TokioLoop`: rustls without I/O and without Python.
//!
//! | question | module |
//! |---|---|
//! | what becomes of bytes | [`session`] |
//! | what a context asks for, and whether rustls can do it | [`config`] |
//! | whether a certificate is trusted | [`verify`] |
//! | what a certificate says | [`certificate`] |
//! | what went wrong, in OpenSSL's words | [`error`] |
#![forbid(unsafe_code)]

pub mod certificate;
pub mod config;
mod der;
pub mod error;
pub mod session;
pub mod verify;

pub use rustls_pki_types as pki_types;
