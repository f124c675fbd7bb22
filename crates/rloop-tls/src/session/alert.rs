//! Alerts: their numbers on the wire (RFC 8446, 6), and which one tells of a failed handshake.
//!
//! rustls sends most alerts by itself. It leaves some failures without one, and uses another one than
//! the RFCs ask for in a few cases.

use rustls::{Error, InvalidMessage, PeerIncompatible, ProtocolVersion};

pub(crate) const CLOSE_NOTIFY: u8 = 0;
pub(crate) const UNEXPECTED_MESSAGE: u8 = 10;
pub(crate) const BAD_RECORD_MAC: u8 = 20;
pub(crate) const RECORD_OVERFLOW: u8 = 22;
pub(crate) const HANDSHAKE_FAILURE: u8 = 40;
const BAD_CERTIFICATE: u8 = 42;
pub(crate) const ILLEGAL_PARAMETER: u8 = 47;
pub(crate) const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
pub(crate) const INTERNAL_ERROR: u8 = 80;
pub(crate) const INAPPROPRIATE_FALLBACK: u8 = 86;
pub(crate) const USER_CANCELED: u8 = 90;
pub(crate) const NO_RENEGOTIATION: u8 = 100;
const MISSING_EXTENSION: u8 = 109;
const CERTIFICATE_REQUIRED: u8 = 116;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// The level of an alert that does not end the connection.
pub(crate) const WARNING: u8 = 1;

/// The level of one that does.
pub(crate) const FATAL: u8 = 2;

/// Appends a fatal alert that is not encrypted, if there is one to send.
pub(super) fn append(description: Option<u8>, outgoing: &mut Vec<u8>) {
    if let Some(description) = description {
        outgoing.extend([ALERT, 3, 3, 0, 2, FATAL, description]);
    }
}

/// Has the right alert be at `start`, where rustls has put its own or none. It is not encrypted.
pub(crate) fn complete(error: &Error, start: usize, outgoing: &mut Vec<u8>) {
    match &mut outgoing[start..] {
        [] => append(of(error), outgoing),
        [ALERT, _, _, 0, 2, _, description] => *description = better(error, *description, None),
        _ => {}
    }
}

/// The first byte of a record with an alert.
pub(super) const ALERT: u8 = 21;

/// The alert for a failure that rustls has none for. An alert is not answered.
pub(super) fn of(error: &Error) -> Option<u8> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            UNEXPECTED_MESSAGE
        }
        Error::InvalidMessage(message) => of_invalid(message).unwrap_or(DECODE_ERROR),
        Error::DecryptError => BAD_RECORD_MAC,
        Error::PeerSentOversizedRecord => RECORD_OVERFLOW,
        Error::PeerIncompatible(_) | Error::NoCertificatesPresented => HANDSHAKE_FAILURE,
        Error::PeerMisbehaved(_) => ILLEGAL_PARAMETER,
        Error::InvalidCertificate(_) => BAD_CERTIFICATE,
        Error::NoApplicationProtocol => NO_APPLICATION_PROTOCOL,
        _ => INTERNAL_ERROR,
    })
}

fn of_invalid(message: &InvalidMessage) -> Option<u8> {
    match message {
        // RFC 8446, 5
        InvalidMessage::InvalidContentType | InvalidMessage::UnexpectedMessage(_) => {
            Some(UNEXPECTED_MESSAGE)
        }
        InvalidMessage::UnknownProtocolVersion => Some(PROTOCOL_VERSION),
        InvalidMessage::MessageTooLarge => Some(RECORD_OVERFLOW),
        // RFC 8446, 4.2.11
        InvalidMessage::PreSharedKeyIsNotFinalExtension => Some(ILLEGAL_PARAMETER),
        _ => None,
    }
}

/// The alert in place of the one that rustls sends for a failure.
pub(super) fn better(error: &Error, description: u8, version: Option<ProtocolVersion>) -> u8 {
    match (error, version) {
        (Error::InvalidMessage(message), _) => of_invalid(message).unwrap_or(description),
        // RFC 8446, 9.2
        (
            Error::PeerIncompatible(
                PeerIncompatible::KeyShareExtensionRequired
                | PeerIncompatible::NamedGroupsExtensionRequired
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            ),
            Some(ProtocolVersion::TLSv1_3),
        ) => MISSING_EXTENSION,
        // What is not encrypted at that point is TLS 1.2, which does not have it.
        _ if description == CERTIFICATE_REQUIRED => HANDSHAKE_FAILURE,
        _ => description,
    }
}
