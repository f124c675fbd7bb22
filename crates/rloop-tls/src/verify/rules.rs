//! What OpenSSL checks of every path and webpki does not.

use super::failure::VerifyFailure;
use crate::certificate::{Certificate, extension, key_usage, seconds_since_epoch};
use crate::der::{Reader, bits, tag};

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Server,
    Client,
}

impl Purpose {
    /// The identifier in the extended key usage.
    fn oid(self) -> &'static [u8] {
        match self {
            Self::Server => &[0x2b, 6, 1, 5, 5, 7, 3, 1],
            Self::Client => &[0x2b, 6, 1, 5, 5, 7, 3, 2],
        }
    }

    /// One of these is needed of the peer's own key.
    fn key_usage(self) -> u16 {
        match self {
            Self::Server => {
                key_usage::DIGITAL_SIGNATURE
                    | key_usage::KEY_ENCIPHERMENT
                    | key_usage::KEY_AGREEMENT
            }
            Self::Client => key_usage::DIGITAL_SIGNATURE | key_usage::KEY_AGREEMENT,
        }
    }

    /// The bit of Netscape's certificate type.
    fn netscape(self) -> u16 {
        match self {
            Self::Server => 0x4000,
            Self::Client => 0x8000,
        }
    }
}

/// Checks that the peer's own certificate is for this purpose.
pub(super) fn check_end(leaf: &Certificate<'_>, purpose: Purpose) -> Result<(), VerifyFailure> {
    let key_permits = leaf.key_usage().is_none_or(|usage| usage & purpose.key_usage() != 0);
    let netscape_permits = leaf.extension(extension::NETSCAPE_TYPE).is_none_or(|found| {
        Reader::new(found.value)
            .expect(tag::BIT_STRING)
            .and_then(|value| bits(value.content))
            .is_some_and(|kinds| kinds & purpose.netscape() != 0)
    });
    if key_permits && netscape_permits && leaf.permits(purpose.oid()) {
        Ok(())
    } else {
        Err(VerifyFailure::INVALID_PURPOSE)
    }
}

/// Checks that an authority's certificate may sign others. `below` is the number of authorities
/// between it and the peer.
pub(super) fn check_authority(
    authority: &Certificate<'_>,
    purpose: Purpose,
    below: usize,
) -> Result<(), VerifyFailure> {
    let constraints = authority.basic_constraints();
    let is_authority = match constraints {
        Some(constraints) => constraints.is_authority,
        // Roots of version 1 cannot say what they are.
        None => {
            authority.version == 1 && authority.is_self_issued() && authority.extensions.is_empty()
        }
    };
    let may_sign = authority.key_usage().is_none_or(|usage| usage & key_usage::KEY_CERT_SIGN != 0);
    if !is_authority || !may_sign {
        return Err(VerifyFailure::INVALID_CA);
    }
    if !authority.permits(purpose.oid()) {
        return Err(VerifyFailure::INVALID_PURPOSE);
    }
    if constraints.and_then(|constraints| constraints.path_len).is_some_and(|len| below > len) {
        return Err(VerifyFailure::PATH_LENGTH_EXCEEDED);
    }
    Ok(())
}

/// Checks that `now`, in seconds since 1970, is in the certificate's time.
pub(super) fn check_time(certificate: &Certificate<'_>, now: u64) -> Result<(), VerifyFailure> {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let bound =
        |time| seconds_since_epoch(time).ok_or(VerifyFailure::ERROR_IN_CERT_NOT_BEFORE_FIELD);
    if now < bound(certificate.not_before)? {
        return Err(VerifyFailure::CERT_NOT_YET_VALID);
    }
    if now > bound(certificate.not_after)? {
        return Err(VerifyFailure::CERT_HAS_EXPIRED);
    }
    Ok(())
}
