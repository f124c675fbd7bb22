//! What happens after the handshake: data, alerts, key updates, tickets, and the refusal of the rest.
//!
//! [`super::Session`] hands over whole records. The rules are rustls' own for this phase (its states
//! `ExpectTraffic`), with the same limits on what a peer may send without any effect.

use super::alert;
use super::protection::{KeyExhausted, OpenError, Protection};
use super::record::{ContentType, MAX_PLAINTEXT};
use crate::error::{Reason, TlsError};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, SupportedCipherSuite};

/// Handshake messages that may come after the handshake are short; tickets are the longest.
const MAX_HANDSHAKE_MESSAGE: usize = 1 << 16;

const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;

/// What rustls keeps after the handshake: the secrets that later keys are derived from.
pub(super) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl Kernel {
    fn next_sending_secrets(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_receiving_secrets(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// How often a peer may send what has no effect: the numbers are rustls'.
struct Patience {
    warnings: u8,
    renegotiations: u8,
    key_updates: u8,
    empty_records: u8,
}

impl Patience {
    const KEY_UPDATES: u8 = 32;
    const EMPTY_RECORDS: u8 = 32;

    fn new() -> Self {
        Self {
            warnings: 4,
            renegotiations: 1,
            key_updates: Self::KEY_UPDATES,
            empty_records: Self::EMPTY_RECORDS,
        }
    }

    /// Takes one from `left`; an error when nothing is left.
    fn lose(left: &mut u8, detail: &'static str) -> Result<(), Fatal> {
        *left = left.checked_sub(1).ok_or(Fatal {
            alert: alert::UNEXPECTED_MESSAGE,
            reason: Reason::UnexpectedMessage,
            detail,
        })?;
        Ok(())
    }
}

/// Why the connection ends, and what the peer is told.
struct Fatal {
    alert: u8,
    reason: Reason,
    detail: &'static str,
}

impl Fatal {
    const UNEXPECTED: Self = Self {
        alert: alert::UNEXPECTED_MESSAGE,
        reason: Reason::UnexpectedMessage,
        detail: "a message that has no place after the handshake",
    };
    const MALFORMED: Self = Self {
        alert: alert::DECODE_ERROR,
        reason: Reason::BadLength,
        detail: "a message that cannot be parsed",
    };

    fn internal(_: &rustls::Error) -> Self {
        Self {
            alert: alert::INTERNAL_ERROR,
            reason: Reason::InternalError,
            detail: "new keys could not be derived",
        }
    }
}

/// What the peer has asked for, and gets before the next data, however often it asked (RFC 8446,
/// 4.6.3): answers must not pile up for a peer that does not read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    KeyUpdate,
}

/// Both directions of an established connection.
pub(super) struct Traffic {
    kernel: Kernel,
    receiving: Protection,
    sending: Protection,
    key_limit: u64,
    is_tls13: bool,
    patience: Patience,
    /// The beginning of a handshake message whose rest is in a later record.
    handshake: Vec<u8>,
    /// The peer has said that it sends no more.
    peer_closed: bool,
    /// We have said that we send no more, or that the connection failed.
    closed: bool,
    owed: Owed,
}

impl Traffic {
    pub(super) fn new(
        kernel: Kernel,
        secrets: &ExtractedSecrets,
        suite: SupportedCipherSuite,
    ) -> Result<Self, rustls::Error> {
        let (is_tls13, key_limit) = match suite {
            SupportedCipherSuite::Tls13(suite) => (true, suite.common.confidentiality_limit),
            SupportedCipherSuite::Tls12(suite) => (false, suite.common.confidentiality_limit),
        };
        let protection = |direction: &(u64, ConnectionTrafficSecrets)| {
            Protection::new(&direction.1, direction.0, key_limit, is_tls13)
        };
        Ok(Self {
            kernel,
            receiving: protection(&secrets.rx)?,
            sending: protection(&secrets.tx)?,
            key_limit,
            is_tls13,
            patience: Patience::new(),
            handshake: Vec::new(),
            peer_closed: false,
            closed: false,
            owed: Owed::Nothing,
        })
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Bytes that `plaintext` becomes when it is sent: exactly, unless the key is renewed.
    pub(super) fn sealed_len(&self, plaintext: usize) -> usize {
        let records = plaintext.div_ceil(MAX_PLAINTEXT);
        let renewal = if self.sending.suffices_for(records) && self.owed == Owed::Nothing {
            0
        } else {
            self.sending.overhead() + KEY_UPDATE_LEN
        };
        plaintext + records * self.sending.overhead() + renewal
    }

    /// Room that a record of `len` bytes, header included, is opened into.
    pub(super) fn opened_len(&self, len: usize) -> usize {
        self.receiving.opened_len(len)
    }

    /// Bytes of that room that are not content.
    pub(super) fn spare_len(&self) -> usize {
        self.receiving.spare_len()
    }

    /// Opens one whole record into `output`; returns how many bytes of data it brought.
    ///
    /// Answers of the protocol are appended to `control`.
    pub(super) fn open(
        &mut self,
        kind: ContentType,
        record: &[u8],
        output: &mut [u8],
        control: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        self.open_record(kind, record, output, control).map_err(|failure| match failure {
            Refusal::Ours(fatal) => self.fail(&fatal, control),
            Refusal::Theirs(description) => {
                self.closed = true;
                TlsError::Alert(description)
            }
        })
    }

    /// Encrypts all of `plaintext`; returns the length of the records in `output`.
    ///
    /// # Panics
    /// If `output` is shorter than [`Self::sealed_len`].
    pub(super) fn seal(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, TlsError> {
        let mut len = 0;
        for content in plaintext.chunks(MAX_PLAINTEXT) {
            if self.owed == Owed::KeyUpdate || self.sending.is_exhausted() {
                len += self.renew_sending_key(&mut output[len..])?;
            }
            len += self
                .sending
                .seal(ContentType::ApplicationData, content, &mut output[len..])
                .map_err(|KeyExhausted| exhausted())?;
        }
        Ok(len)
    }

    /// Says that we send no more; nothing if that, or a failure, was said before.
    pub(super) fn close(&mut self, control: &mut Vec<u8>) {
        if !self.closed {
            self.send_alert(alert::WARNING, alert::CLOSE_NOTIFY, control);
            self.closed = true;
        }
    }

    /// Ends the connection for `reason` and tells the peer.
    pub(super) fn refuse_record(
        &mut self,
        alert: u8,
        reason: Reason,
        control: &mut Vec<u8>,
    ) -> TlsError {
        self.fail(&Fatal { alert, reason, detail: "what came is not a record" }, control)
    }

    fn fail(&mut self, fatal: &Fatal, control: &mut Vec<u8>) -> TlsError {
        if !self.closed {
            self.send_alert(alert::FATAL, fatal.alert, control);
            self.closed = true;
        }
        TlsError::Protocol { reason: fatal.reason, detail: fatal.detail.into() }
    }

    fn open_record(
        &mut self,
        kind: ContentType,
        record: &[u8],
        output: &mut [u8],
        control: &mut Vec<u8>,
    ) -> Result<usize, Refusal> {
        if self.is_tls13 && kind != ContentType::ApplicationData {
            // Everything is encrypted by now, and looks like data from outside.
            return Err(Fatal::UNEXPECTED.into());
        }
        let (kind, len) = self.receiving.open(kind, record, output).map_err(Fatal::from)?;
        if kind != ContentType::Handshake && !self.handshake.is_empty() {
            return Err(Fatal::UNEXPECTED.into());
        }
        if len == 0 {
            Patience::lose(&mut self.patience.empty_records, "too many empty records")?;
        } else {
            self.patience.empty_records = Patience::EMPTY_RECORDS;
        }
        match kind {
            ContentType::ApplicationData => {
                if len > 0 {
                    self.patience.key_updates = Patience::KEY_UPDATES;
                }
                Ok(len)
            }
            ContentType::Alert => self.alert_received(&output[..len]).map(|()| 0),
            ContentType::Handshake => self.handshake_received(&output[..len], control).map(|()| 0),
            ContentType::ChangeCipherSpec => Err(Fatal::UNEXPECTED.into()),
        }
    }

    fn alert_received(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        let &[level, description] = payload else {
            // "Zero-length fragments of Alert types" are forbidden, whatever they say (RFC 8446, 5.1).
            return Err(
                if payload.is_empty() { Fatal::UNEXPECTED } else { Fatal::MALFORMED }.into()
            );
        };
        match (level, description) {
            (alert::WARNING | alert::FATAL, alert::CLOSE_NOTIFY) => {
                self.peer_closed = true;
                Ok(())
            }
            (alert::WARNING, _) if !self.is_tls13 || description == alert::USER_CANCELED => {
                Ok(Patience::lose(&mut self.patience.warnings, "too many warnings")?)
            }
            // In TLS 1.3 every other alert is fatal, whatever its level says.
            (alert::WARNING | alert::FATAL, _) => Err(Refusal::Theirs(description)),
            _ => Err(Fatal {
                alert: alert::ILLEGAL_PARAMETER,
                reason: Reason::UnknownAlertType,
                detail: "an alert of an unknown level",
            }
            .into()),
        }
    }

    fn handshake_received(
        &mut self,
        fragment: &[u8],
        control: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if fragment.is_empty() {
            return Err(Fatal::UNEXPECTED.into());
        }
        self.handshake.extend_from_slice(fragment);
        let mut messages = std::mem::take(&mut self.handshake);
        let mut start = 0;
        while let Some(&[kind, a, b, c]) = messages[start..].first_chunk::<4>() {
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            if len > MAX_HANDSHAKE_MESSAGE {
                return Err(Fatal::MALFORMED.into());
            }
            let body = start + 4;
            let Some(message) = messages.get(body..body + len) else { break };
            start = body + len;
            let is_last = start == messages.len();
            self.message_received(kind, message, is_last, control)?;
        }
        messages.drain(..start);
        self.handshake = messages;
        Ok(())
    }

    fn message_received(
        &mut self,
        kind: u8,
        message: &[u8],
        is_last: bool,
        control: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        match (&mut self.kernel, kind) {
            (_, KEY_UPDATE) if self.is_tls13 => self.key_update_received(message, is_last),
            (Kernel::Client(kernel), NEW_SESSION_TICKET) if self.is_tls13 => {
                kernel.handle_new_session_ticket(message).map_err(|_| Fatal::MALFORMED.into())
            }
            (Kernel::Client(_), HELLO_REQUEST) | (Kernel::Server(_), CLIENT_HELLO)
                if !self.is_tls13 =>
            {
                // Renegotiation is refused, and asked for once at most.
                Patience::lose(&mut self.patience.renegotiations, "too many renegotiations")?;
                self.send_alert(alert::WARNING, alert::NO_RENEGOTIATION, control);
                Ok(())
            }
            _ => Err(Fatal::UNEXPECTED.into()),
        }
    }

    fn key_update_received(&mut self, message: &[u8], is_last: bool) -> Result<(), Refusal> {
        let is_answer_wanted = match message {
            [0] => false,
            [1] => true,
            [_] => {
                return Err(Fatal { alert: alert::ILLEGAL_PARAMETER, ..Fatal::MALFORMED }.into());
            }
            _ => return Err(Fatal::MALFORMED.into()),
        };
        if !is_last {
            // What follows in the record was sent with the old key (RFC 8446, 5.1).
            return Err(Fatal::UNEXPECTED.into());
        }
        Patience::lose(&mut self.patience.key_updates, "too many key updates")?;
        let (sequence, secrets) =
            self.kernel.next_receiving_secrets().map_err(|error| Fatal::internal(&error))?;
        self.receiving = Protection::new(&secrets, sequence, self.key_limit, true)
            .map_err(|error| Fatal::internal(&error))?;
        if is_answer_wanted {
            self.owed = Owed::KeyUpdate;
        }
        Ok(())
    }

    /// Writes a key update to `output` and uses the next key from then on.
    fn renew_sending_key(&mut self, output: &mut [u8]) -> Result<usize, TlsError> {
        if !self.is_tls13 {
            return Err(exhausted());
        }
        let (sequence, secrets) = self.kernel.next_sending_secrets().map_err(TlsError::from)?;
        // The old key is at its limit when it is renewed for that reason; this last record is what
        // the limit leaves room for.
        let len = self.sending.seal_last(ContentType::Handshake, &[KEY_UPDATE, 0, 0, 1, 0], output);
        self.sending = Protection::new(&secrets, sequence, self.key_limit, true)?;
        self.owed = Owed::Nothing;
        Ok(len)
    }

    fn send_alert(&mut self, level: u8, description: u8, control: &mut Vec<u8>) {
        let start = control.len();
        control.resize(start + 2 + self.sending.overhead(), 0);
        let len = self.sending.seal_last(
            ContentType::Alert,
            &[level, description],
            &mut control[start..],
        );
        control.truncate(start + len);
    }

    /// Seals any content as a record of any kind, as no honest side does.
    #[cfg(any(test, fuzzing))]
    pub(super) fn seal_anything(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let mut record = vec![0; content.len() + self.sending.overhead()];
        let _len = self.sending.seal_last(kind, content, &mut record);
        record
    }

    #[cfg(test)]
    pub(super) fn limit_sending_key_to(&mut self, records: u64) {
        self.sending.limit_to(records);
    }
}

/// The content of a key update record.
const KEY_UPDATE_LEN: usize = 5;

const EXHAUSTED: Fatal = Fatal {
    alert: alert::INTERNAL_ERROR,
    reason: Reason::InternalError,
    detail: "the keys of this connection have protected all they may",
};

fn exhausted() -> TlsError {
    TlsError::Protocol { reason: EXHAUSTED.reason, detail: EXHAUSTED.detail.into() }
}

/// Who ends the connection.
enum Refusal {
    Ours(Fatal),
    Theirs(u8),
}

impl From<Fatal> for Refusal {
    fn from(fatal: Fatal) -> Self {
        Self::Ours(fatal)
    }
}

impl From<OpenError> for Fatal {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotAuthentic => Self {
                alert: alert::BAD_RECORD_MAC,
                reason: Reason::DecryptionFailedOrBadRecordMac,
                detail: "a record is not authentic",
            },
            OpenError::TooLong => Self {
                alert: alert::RECORD_OVERFLOW,
                reason: Reason::DataLengthTooLong,
                detail: "a record holds too much",
            },
            OpenError::NoContentType => Self {
                alert: alert::UNEXPECTED_MESSAGE,
                reason: Reason::BadRecordType,
                detail: "a record has no content type",
            },
        }
    }
}
