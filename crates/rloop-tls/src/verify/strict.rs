//! What `ssl.VERIFY_X509_STRICT` adds, in the order in which OpenSSL 3 checks it.

use super::failure::VerifyFailure;
use crate::certificate::{Certificate, extension, key_usage};
use crate::der::{Reader, tag};

/// Checks a path of at least two certificates, the peer's own first and the trusted one last.
pub(super) fn check_path(path: &[&Certificate<'_>]) -> Result<(), VerifyFailure> {
    let Some((anchor, rest)) = path.split_last() else { return Ok(()) };
    for certificate in rest {
        check(certificate, false)?;
    }
    check(anchor, true)
}

fn check(certificate: &Certificate<'_>, is_anchor: bool) -> Result<(), VerifyFailure> {
    let constraints = certificate.basic_constraints();
    let is_authority = constraints.is_some_and(|constraints| constraints.is_authority);
    let usage = certificate.key_usage();
    let signs_certificates = usage.is_none_or(|usage| usage & key_usage::KEY_CERT_SIGN != 0);
    if certificate.is_self_issued() && !is_authority {
        // RFC 6818, 2: the rules of RFC 5280 are not for these.
        return Ok(());
    }
    if let Some(constraints) = constraints {
        if constraints.path_len.is_some() && !is_authority {
            return Err(VerifyFailure::PATHLEN_INVALID_FOR_NON_CA);
        }
        if constraints.path_len.is_some() && !signs_certificates {
            return Err(VerifyFailure::PATHLEN_WITHOUT_KU_KEY_CERT_SIGN);
        }
        if is_authority && !constraints.is_critical {
            return Err(VerifyFailure::CA_BCONS_NOT_CRITICAL);
        }
    }
    if is_authority && usage.is_none() {
        return Err(VerifyFailure::CA_CERT_MISSING_KEY_USAGE);
    }
    if !is_authority && usage.is_some_and(|usage| usage & key_usage::KEY_CERT_SIGN != 0) {
        return Err(VerifyFailure::KU_KEY_CERT_SIGN_INVALID_FOR_NON_CA);
    }
    check_names(certificate, is_authority)?;
    if certificate.inner_algorithm != certificate.outer_algorithm {
        return Err(VerifyFailure::SIGNATURE_ALGORITHM_INCONSISTENCY);
    }
    check_key_identifiers(certificate, is_authority, is_anchor)
}

fn check_names(certificate: &Certificate<'_>, is_authority: bool) -> Result<(), VerifyFailure> {
    if certificate.issuer.is_empty() {
        return Err(VerifyFailure::ISSUER_NAME_EMPTY);
    }
    let signs_crls = certificate.key_usage().is_some_and(|usage| usage & key_usage::CRL_SIGN != 0);
    let alternative = certificate.extension(extension::SUBJECT_ALTERNATIVE_NAME);
    if certificate.subject.is_empty() {
        match alternative {
            _ if is_authority || signs_crls => return Err(VerifyFailure::SUBJECT_NAME_EMPTY),
            None => return Err(VerifyFailure::SUBJECT_NAME_EMPTY),
            Some(extension) if !extension.is_critical => {
                return Err(VerifyFailure::EMPTY_SUBJECT_SAN_NOT_CRITICAL);
            }
            Some(_) => {}
        }
    }
    let is_empty = |value: &[u8]| {
        Reader::new(value).expect(tag::SEQUENCE).is_none_or(|list| list.content.is_empty())
    };
    if alternative.is_some_and(|extension| is_empty(extension.value)) {
        return Err(VerifyFailure::EMPTY_SUBJECT_ALT_NAME);
    }
    Ok(())
}

fn check_key_identifiers(
    certificate: &Certificate<'_>,
    is_authority: bool,
    is_anchor: bool,
) -> Result<(), VerifyFailure> {
    let is_critical = |id| certificate.extension(id).is_some_and(|found| found.is_critical);
    if is_critical(extension::AUTHORITY_KEY) {
        return Err(VerifyFailure::AUTHORITY_KEY_IDENTIFIER_CRITICAL);
    }
    if is_critical(extension::SUBJECT_KEY) {
        return Err(VerifyFailure::SUBJECT_KEY_IDENTIFIER_CRITICAL);
    }
    if certificate.version < 3 {
        return if certificate.extensions.is_empty() {
            Ok(())
        } else {
            Err(VerifyFailure::EXTENSIONS_REQUIRE_VERSION_3)
        };
    }
    if !is_anchor && certificate.authority_key().is_none() {
        return Err(VerifyFailure::MISSING_AUTHORITY_KEY_IDENTIFIER);
    }
    if is_authority && certificate.subject_key().is_none() {
        return Err(VerifyFailure::MISSING_SUBJECT_KEY_IDENTIFIER);
    }
    Ok(())
}
