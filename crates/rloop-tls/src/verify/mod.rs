//! Whether a peer's certificate is trusted, by OpenSSL's rules as far as these are stricter.
//!
//! # Theory of operation
//!
//! webpki builds and checks the path ([`chain`]). Some of what OpenSSL checks, webpki does not: the
//! validity and the extensions of the trusted certificate at the end, key usage, and what
//! `VERIFY_X509_STRICT` adds. Each candidate path goes through these as well ([`rules`], [`strict`]).
//! A certificate passes only if both sides would pass it, except that a trusted certificate may be
//! presented itself, which OpenSSL allows and webpki cannot express.
//!
//! # How a failure gets out
//!
//! rustls wants an error of its own, from which it makes the alert. OpenSSL's code is more precise, so
//! it is put aside in a thread-local ([`take_failure`]): rustls calls a verifier inside of
//! `process_tls_records`, and the session asks for it when that returns.

mod chain;
mod failure;
mod folder;
mod rules;
mod store;
mod strict;
#[cfg(test)]
mod tests;
mod verifiers;

pub use chain::{RevocationCheck, Trust, TrustOptions};
pub use failure::VerifyFailure;
pub(crate) use failure::take_failure;
pub(crate) use folder::Folders;
pub(crate) use verifiers::{AcceptAnyServer, ClientVerifier, ServerVerifier};

/// Whether a client accepts `leaf`, for any name, in 2030. For fuzzing.
#[cfg(fuzzing)]
#[must_use]
pub fn accepts(
    trusted: &[rustls_pki_types::CertificateDer<'static>],
    crls: &[rustls_pki_types::CertificateRevocationListDer<'_>],
    options: TrustOptions,
    leaf: &rustls_pki_types::CertificateDer<'_>,
) -> bool {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms;
    let now = std::time::Duration::from_secs(1_900_000_000);
    let now = rustls_pki_types::UnixTime::since_unix_epoch(now);
    Trust::new(trusted.iter().cloned(), Folders::default(), crls, options, algorithms)
        .is_ok_and(|trust| trust.check(leaf, &[], rules::Purpose::Server, now).is_ok())
}
