//! Why a certificate was refused: OpenSSL's codes and texts, and the alert that goes with them.

use rustls::{CertificateError, Error, OtherError};
use std::cell::Cell;
use std::sync::Arc;

/// A refusal, as `ssl.SSLCertVerificationError` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyFailure {
    code: u16,
}

macro_rules! failures {
    ($($constant:ident = $code:literal, $message:literal;)+) => {
        #[allow(missing_docs, reason = "the names and the messages are OpenSSL's")]
        impl VerifyFailure {
            $(pub const $constant: Self = Self { code: $code };)+

            /// OpenSSL's text for the code.
            #[must_use]
            pub fn message(self) -> &'static str {
                match self.code {
                    $($code => $message,)+
                    _ => "unknown certificate verification error",
                }
            }
        }
    };
}

failures! {
    UNSPECIFIED = 1, "unspecified certificate verification error";
    UNABLE_TO_GET_CRL = 3, "unable to get certificate CRL";
    CERT_SIGNATURE_FAILURE = 7, "certificate signature failure";
    CRL_SIGNATURE_FAILURE = 8, "CRL signature failure";
    CERT_NOT_YET_VALID = 9, "certificate is not yet valid";
    CERT_HAS_EXPIRED = 10, "certificate has expired";
    CRL_HAS_EXPIRED = 12, "CRL has expired";
    ERROR_IN_CERT_NOT_BEFORE_FIELD = 13, "format error in certificate's notBefore field";
    DEPTH_ZERO_SELF_SIGNED_CERT = 18, "self-signed certificate";
    SELF_SIGNED_CERT_IN_CHAIN = 19, "self-signed certificate in certificate chain";
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY = 20, "unable to get local issuer certificate";
    CERT_CHAIN_TOO_LONG = 22, "certificate chain too long";
    CERT_REVOKED = 23, "certificate revoked";
    PATH_LENGTH_EXCEEDED = 25, "path length constraint exceeded";
    INVALID_PURPOSE = 26, "unsuitable certificate purpose";
    UNHANDLED_CRITICAL_EXTENSION = 34, "unhandled critical extension";
    KEYUSAGE_NO_CRL_SIGN = 35, "key usage does not include CRL signing";
    INVALID_EXTENSION = 41, "invalid or inconsistent certificate extension";
    DIFFERENT_CRL_SCOPE = 44, "different CRL scope";
    PERMITTED_VIOLATION = 47, "permitted subtree violation";
    HOSTNAME_MISMATCH = 62, "hostname mismatch";
    IP_ADDRESS_MISMATCH = 64, "IP address mismatch";
    EE_KEY_TOO_SMALL = 66, "EE certificate key too weak";
    CA_MD_TOO_WEAK = 68, "CA signature digest algorithm too weak";
    SIGNATURE_ALGORITHM_MISMATCH = 77, "subject signature algorithm and issuer public key algorithm mismatch";
    SIGNATURE_ALGORITHM_INCONSISTENCY = 78, "cert info signature and signature algorithm mismatch";
    INVALID_CA = 79, "invalid CA certificate";
    PATHLEN_INVALID_FOR_NON_CA = 80, "Path length invalid for non-CA cert";
    PATHLEN_WITHOUT_KU_KEY_CERT_SIGN = 81, "Path length given without key usage keyCertSign";
    KU_KEY_CERT_SIGN_INVALID_FOR_NON_CA = 82, "Key usage keyCertSign invalid for non-CA cert";
    ISSUER_NAME_EMPTY = 83, "Issuer name empty";
    SUBJECT_NAME_EMPTY = 84, "Subject name empty";
    MISSING_AUTHORITY_KEY_IDENTIFIER = 85, "Missing Authority Key Identifier";
    MISSING_SUBJECT_KEY_IDENTIFIER = 86, "Missing Subject Key Identifier";
    EMPTY_SUBJECT_ALT_NAME = 87, "Empty Subject Alternative Name extension";
    EMPTY_SUBJECT_SAN_NOT_CRITICAL = 88, "Subject empty and Subject Alt Name extension not critical";
    CA_BCONS_NOT_CRITICAL = 89, "Basic Constraints of CA cert not marked critical";
    AUTHORITY_KEY_IDENTIFIER_CRITICAL = 90, "Authority Key Identifier marked critical";
    SUBJECT_KEY_IDENTIFIER_CRITICAL = 91, "Subject Key Identifier marked critical";
    CA_CERT_MISSING_KEY_USAGE = 92, "CA cert does not include key usage extension";
    EXTENSIONS_REQUIRE_VERSION_3 = 93, "Using cert extension requires at least X509v3";
    EC_KEY_EXPLICIT_PARAMS = 94, "Certificate public key has explicit ECC parameters";
}

thread_local! {
    static LAST: Cell<Option<VerifyFailure>> = const { Cell::new(None) };
}

/// Takes what the last verification on this thread failed for.
pub(crate) fn take_failure() -> Option<VerifyFailure> {
    LAST.take()
}

impl VerifyFailure {
    /// `ssl.SSLCertVerificationError.verify_code`
    #[must_use]
    pub fn code(self) -> u16 {
        self.code
    }

    /// Puts the failure aside for [`take_failure`]. Returns an error for which rustls sends the alert
    /// that OpenSSL sends, which is `bad_certificate` for `BadEncoding`.
    pub(crate) fn report(self) -> Error {
        LAST.set(Some(self));
        Error::InvalidCertificate(match self {
            Self::CERT_HAS_EXPIRED | Self::CRL_HAS_EXPIRED => CertificateError::Expired,
            Self::CERT_REVOKED => CertificateError::Revoked,
            Self::DEPTH_ZERO_SELF_SIGNED_CERT
            | Self::SELF_SIGNED_CERT_IN_CHAIN
            | Self::UNABLE_TO_GET_ISSUER_CERT_LOCALLY
            | Self::UNABLE_TO_GET_CRL
            | Self::CERT_CHAIN_TOO_LONG
            | Self::PATH_LENGTH_EXCEEDED
            | Self::INVALID_CA => CertificateError::UnknownIssuer,
            Self::INVALID_PURPOSE => CertificateError::InvalidPurpose,
            Self::CERT_SIGNATURE_FAILURE | Self::CRL_SIGNATURE_FAILURE => {
                CertificateError::BadSignature
            }
            Self::CERT_NOT_YET_VALID
            | Self::ERROR_IN_CERT_NOT_BEFORE_FIELD
            | Self::HOSTNAME_MISMATCH
            | Self::IP_ADDRESS_MISMATCH
            | Self::EE_KEY_TOO_SMALL
            | Self::CA_MD_TOO_WEAK => CertificateError::BadEncoding,
            _ => CertificateError::Other(OtherError(Arc::new(self))),
        })
    }
}

impl std::fmt::Display for VerifyFailure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.message())
    }
}

impl std::error::Error for VerifyFailure {}

impl From<&webpki::Error> for VerifyFailure {
    fn from(error: &webpki::Error) -> Self {
        use webpki::Error;
        match error {
            Error::CertExpired { .. } => Self::CERT_HAS_EXPIRED,
            Error::CertNotValidYet { .. } => Self::CERT_NOT_YET_VALID,
            Error::CertRevoked | Error::CertDistrusted => Self::CERT_REVOKED,
            Error::UnknownRevocationStatus => Self::UNABLE_TO_GET_CRL,
            Error::CrlExpired { .. } => Self::CRL_HAS_EXPIRED,
            Error::InvalidCrlSignatureForPublicKey
            | Error::UnsupportedCrlSignatureAlgorithmContext(_)
            | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
                Self::CRL_SIGNATURE_FAILURE
            }
            Error::IssuerNotCrlSigner => Self::KEYUSAGE_NO_CRL_SIGN,
            Error::UnsupportedCrlIssuingDistributionPoint
            | Error::UnsupportedDeltaCrl
            | Error::UnsupportedIndirectCrl
            | Error::UnsupportedRevocationReasonsPartitioning => Self::DIFFERENT_CRL_SCOPE,
            Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
                Self::INVALID_PURPOSE
            }
            Error::InvalidSignatureForPublicKey => Self::CERT_SIGNATURE_FAILURE,
            Error::SignatureAlgorithmMismatch => Self::SIGNATURE_ALGORITHM_INCONSISTENCY,
            Error::UnsupportedSignatureAlgorithmContext(_) => Self::CA_MD_TOO_WEAK,
            Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                Self::SIGNATURE_ALGORITHM_MISMATCH
            }
            Error::PathLenConstraintViolated => Self::PATH_LENGTH_EXCEEDED,
            Error::MaximumPathDepthExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumSignatureChecksExceeded => Self::CERT_CHAIN_TOO_LONG,
            Error::CaUsedAsEndEntity | Error::EndEntityUsedAsCa => Self::INVALID_CA,
            Error::NameConstraintViolation | Error::MalformedNameConstraint => {
                Self::PERMITTED_VIOLATION
            }
            Error::UnsupportedCriticalExtension => Self::UNHANDLED_CRITICAL_EXTENSION,
            Error::BadDerTime | Error::InvalidCertValidity => Self::ERROR_IN_CERT_NOT_BEFORE_FIELD,
            Error::ExtensionValueInvalid | Error::MalformedExtensions => Self::INVALID_EXTENSION,
            Error::UnknownIssuer => Self::UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            _ => Self::UNSPECIFIED,
        }
    }
}
