//! What can end a TLS connection, in the words that the `ssl` module has for it.
//!
//! Sessions return [`TlsError`]; the extension module makes `ssl.SSLError` and its subclasses of it.

use crate::verify::VerifyFailure;
use rustls::{CertificateError, InvalidMessage, PeerIncompatible, PeerMisbehaved};
use std::fmt;

/// Why a connection failed, by fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer's certificate was refused.
    Certificate(VerifyFailure),
    /// The peer ended the connection with an alert of this number.
    Alert(u8),
    /// The peer broke the protocol, or there is nothing that both sides support.
    Protocol {
        /// OpenSSL's name of the nearest kind of failure.
        reason: Reason,
        /// What exactly happened, for people.
        detail: Box<str>,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(failure) => write!(formatter, "{}", failure.message()),
            Self::Alert(description) => match alert_reason(*description) {
                Some(reason) => write!(formatter, "{}", spoken(reason)),
                None => write!(formatter, "alert {description}"),
            },
            Self::Protocol { reason, detail } => write!(formatter, "{reason} ({detail})"),
        }
    }
}

impl std::error::Error for TlsError {}

macro_rules! reasons {
    ($($variant:ident => $name:literal,)+) => {
        /// A kind of failure, as OpenSSL calls it. `ssl.SSLError.reason` is [`Self::name`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "the names are OpenSSL's")]
        pub enum Reason { $($variant,)+ }

        impl Reason {
            /// OpenSSL's name, such as `WRONG_VERSION_NUMBER`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    BadCertificate => "BAD_CERTIFICATE",
    BadLength => "BAD_LENGTH",
    BadRecordType => "BAD_RECORD_TYPE",
    BadSignature => "BAD_SIGNATURE",
    DataLengthTooLong => "DATA_LENGTH_TOO_LONG",
    DecryptionFailedOrBadRecordMac => "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
    EncryptedLengthTooLong => "ENCRYPTED_LENGTH_TOO_LONG",
    HttpRequest => "HTTP_REQUEST",
    InappropriateFallback => "INAPPROPRIATE_FALLBACK",
    InternalError => "INTERNAL_ERROR",
    NoApplicationProtocol => "NO_APPLICATION_PROTOCOL",
    NoSharedCipher => "NO_SHARED_CIPHER",
    NoSharedGroups => "NO_SHARED_GROUPS",
    NoSharedSignatureAlgorithms => "NO_SHARED_SIGNATURE_ALGORITHMS",
    NoSuitableSignatureAlgorithm => "NO_SUITABLE_SIGNATURE_ALGORITHM",
    PeerDidNotReturnACertificate => "PEER_DID_NOT_RETURN_A_CERTIFICATE",
    UnexpectedMessage => "UNEXPECTED_MESSAGE",
    UnknownAlertType => "UNKNOWN_ALERT_TYPE",
    UnsafeLegacyRenegotiationDisabled => "UNSAFE_LEGACY_RENEGOTIATION_DISABLED",
    UnsolicitedExtension => "UNSOLICITED_EXTENSION",
    UnsupportedProtocol => "UNSUPPORTED_PROTOCOL",
    WrongVersionNumber => "WRONG_VERSION_NUMBER",
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&spoken(self.name()))
    }
}

/// OpenSSL's words for one of its names.
#[must_use]
pub fn spoken(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', " ")
}

/// OpenSSL's name for a fatal alert that was received, such as `TLSV1_ALERT_UNKNOWN_CA`.
#[must_use]
pub fn alert_reason(description: u8) -> Option<&'static str> {
    Some(match description {
        10 => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        20 => "SSLV3_ALERT_BAD_RECORD_MAC",
        21 => "TLSV1_ALERT_DECRYPTION_FAILED",
        22 => "TLSV1_ALERT_RECORD_OVERFLOW",
        30 => "SSLV3_ALERT_DECOMPRESSION_FAILURE",
        40 => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        41 => "SSLV3_ALERT_NO_CERTIFICATE",
        42 => "SSLV3_ALERT_BAD_CERTIFICATE",
        43 => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        44 => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        45 => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        46 => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        47 => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        48 => "TLSV1_ALERT_UNKNOWN_CA",
        49 => "TLSV1_ALERT_ACCESS_DENIED",
        50 => "TLSV1_ALERT_DECODE_ERROR",
        51 => "TLSV1_ALERT_DECRYPT_ERROR",
        60 => "TLSV1_ALERT_EXPORT_RESTRICTION",
        70 => "TLSV1_ALERT_PROTOCOL_VERSION",
        71 => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        80 => "TLSV1_ALERT_INTERNAL_ERROR",
        86 => "TLSV1_ALERT_INAPPROPRIATE_FALLBACK",
        90 => "TLSV1_ALERT_USER_CANCELLED",
        100 => "TLSV1_ALERT_NO_RENEGOTIATION",
        109 => "TLSV13_ALERT_MISSING_EXTENSION",
        110 => "TLSV1_UNSUPPORTED_EXTENSION",
        111 => "TLSV1_CERTIFICATE_UNOBTAINABLE",
        112 => "TLSV1_UNRECOGNIZED_NAME",
        113 => "TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE",
        114 => "TLSV1_BAD_CERTIFICATE_HASH_VALUE",
        115 => "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY",
        116 => "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        120 => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => return None,
    })
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        if let rustls::Error::AlertReceived(description) = error {
            return Self::Alert(description.into());
        }
        Self::Protocol { reason: reason_of(&error), detail: error.to_string().into() }
    }
}

fn reason_of(error: &rustls::Error) -> Reason {
    use rustls::Error;
    match error {
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            Reason::UnexpectedMessage
        }
        Error::InvalidMessage(message) => reason_of_invalid(message),
        Error::NoCertificatesPresented => Reason::PeerDidNotReturnACertificate,
        Error::DecryptError => Reason::DecryptionFailedOrBadRecordMac,
        Error::PeerIncompatible(incompatible) => reason_of_incompatible(incompatible),
        Error::PeerMisbehaved(misbehaved) => reason_of_misbehaved(misbehaved),
        Error::PeerSentOversizedRecord => Reason::EncryptedLengthTooLong,
        Error::NoApplicationProtocol => Reason::NoApplicationProtocol,
        Error::InvalidCertificate(
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => Reason::BadSignature,
        Error::InvalidCertificate(_) => Reason::BadCertificate,
        _ => Reason::InternalError,
    }
}

fn reason_of_invalid(message: &InvalidMessage) -> Reason {
    match message {
        InvalidMessage::InvalidContentType
        | InvalidMessage::UnknownProtocolVersion
        | InvalidMessage::UnsupportedCompression => Reason::WrongVersionNumber,
        InvalidMessage::MessageTooLarge => Reason::EncryptedLengthTooLong,
        InvalidMessage::UnexpectedMessage(_) => Reason::UnexpectedMessage,
        _ => Reason::BadLength,
    }
}

fn reason_of_incompatible(incompatible: &PeerIncompatible) -> Reason {
    match incompatible {
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::UncompressedEcPointsRequired => Reason::NoSharedGroups,
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            Reason::NoSharedSignatureAlgorithms
        }
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic => Reason::UnsupportedProtocol,
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => {
            Reason::UnsafeLegacyRenegotiationDisabled
        }
        _ => Reason::NoSharedCipher,
    }
}

fn reason_of_misbehaved(misbehaved: &PeerMisbehaved) -> Reason {
    match misbehaved {
        PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported => {
            Reason::InappropriateFallback
        }
        PeerMisbehaved::UnsolicitedServerHelloExtension
        | PeerMisbehaved::UnsolicitedEncryptedExtension
        | PeerMisbehaved::UnsolicitedCertExtension => Reason::UnsolicitedExtension,
        PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme
        | PeerMisbehaved::SignedKxWithWrongAlgorithm => Reason::NoSuitableSignatureAlgorithm,
        _ => Reason::UnexpectedMessage,
    }
}
