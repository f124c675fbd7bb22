//! The handshake: rustls, without buffers of its own, until both sides may send data.
//!
//! rustls gets one record at a time. When it reports the end of the handshake and holds nothing
//! back, no record of the next phase has been touched, so [`super::traffic`] can take over the keys.

use super::negotiated::Negotiated;
use super::record::{ContentType, Framed, HEADER_LEN, frame};
use super::traffic::{Kernel, Traffic, alert};
use crate::error::{Reason, TlsError};
use crate::verify;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

/// The rustls connection of one side.
pub(super) enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

const ALERT: u8 = 21;

/// What one look at the received bytes led to.
enum Step {
    /// Call again: there was something to send.
    Again,
    /// rustls waits for a record that it has not seen.
    NeedsRecord,
    /// Data may be sent.
    Done,
}

impl Step {
    /// A server may send before it has heard the end of the handshake, and we do not.
    fn unless(self, is_handshaking: bool) -> Self {
        match self {
            Self::Done if is_handshaking => Self::NeedsRecord,
            step => step,
        }
    }
}

/// How far the handshake is.
pub(super) enum Progress {
    /// More has to be received first.
    Waiting,
    /// It is over.
    Done,
}

impl Connection {
    /// Goes on with what is in `received`; `offered` is how much of it rustls has seen and kept.
    ///
    /// Used bytes are removed from `received`, and records to send are appended to `outgoing`, an
    /// alert included if this fails.
    pub(super) fn advance(
        &mut self,
        received: &mut Vec<u8>,
        offered: &mut usize,
        outgoing: &mut Vec<u8>,
    ) -> Result<Progress, TlsError> {
        loop {
            let (discard, step) = self.step(&mut received[..*offered], outgoing);
            received.drain(..discard);
            *offered -= discard;
            if is_refused_early_data(&received[..*offered]) {
                received.drain(..*offered);
                *offered = 0;
            }
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Done) if *offered == 0 => return Ok(Progress::Done),
                Ok(Step::NeedsRecord | Step::Done) => match frame(&received[*offered..]) {
                    Framed::Incomplete { .. } => return Ok(Progress::Waiting),
                    Framed::Record { kind, len } => {
                        let payload = &received[*offered + HEADER_LEN..*offered + len];
                        if is_close_notify(kind, payload) {
                            // rustls would wait for what does not come (RFC 8446, 6.1).
                            return Err(TlsError::Alert(alert::CLOSE_NOTIFY));
                        }
                        if kind == ContentType::Alert && payload.is_empty() && !self.has_keys() {
                            return Err(refuse_empty_alert(outgoing));
                        }
                        *offered += len;
                    }
                    // It is for rustls to refuse.
                    Framed::Malformed(_) => *offered = received.len(),
                },
                Err(error) => {
                    let error = verify::take_failure()
                        .map_or_else(|| TlsError::from(error), TlsError::Certificate);
                    let start = outgoing.len();
                    self.take_alert(outgoing);
                    if let [ALERT, _, _, 0, 2, _, description @ alert::CERTIFICATE_REQUIRED] =
                        &mut outgoing[start..]
                    {
                        // It is not encrypted, so this is TLS 1.2, which does not have it.
                        *description = alert::HANDSHAKE_FAILURE;
                    }
                    return Err(error);
                }
            }
        }
    }

    fn step(
        &mut self,
        received: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, rustls::Error>) {
        match self {
            Self::Client(connection) => {
                let (discard, step) = step(connection.process_tls_records(received), outgoing);
                (discard, step.map(|step| step.unless(connection.is_handshaking())))
            }
            Self::Server(connection) => {
                let (discard, step) = step(connection.process_tls_records(received), outgoing);
                (discard, step.map(|step| step.unless(connection.is_handshaking())))
            }
        }
    }

    /// Fetches the alert that a failed handshake leaves behind, and nothing else: rustls must not
    /// look at the input again.
    fn take_alert(&mut self, outgoing: &mut Vec<u8>) {
        while self.wants_write() {
            if self.step(&mut [], outgoing).1.is_err() {
                return;
            }
        }
    }

    /// True if an alert might have to be encrypted.
    fn has_keys(&self) -> bool {
        match self {
            Self::Client(connection) => connection.protocol_version().is_some(),
            Self::Server(connection) => connection.protocol_version().is_some(),
        }
    }

    fn wants_write(&self) -> bool {
        match self {
            Self::Client(connection) => connection.wants_write(),
            Self::Server(connection) => connection.wants_write(),
        }
    }

    /// What was agreed upon; the handshake must be over.
    pub(super) fn negotiated(&self) -> Negotiated {
        match self {
            Self::Client(connection) => Negotiated::of(connection),
            Self::Server(connection) => Negotiated::of(connection),
        }
    }

    /// Takes the keys out of rustls.
    pub(super) fn into_traffic(self) -> Result<Traffic, rustls::Error> {
        match self {
            Self::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                let suite = kernel.negotiated_cipher_suite();
                Traffic::new(Kernel::Client(kernel), &secrets, suite)
            }
            Self::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                let suite = kernel.negotiated_cipher_suite();
                Traffic::new(Kernel::Server(kernel), &secrets, suite)
            }
        }
    }
}

/// Refuses an alert without content, before there are keys. RFC 8446, 5.1, forbids it, and rustls
/// would answer with `decode_error`.
pub(super) fn refuse_empty_alert(outgoing: &mut Vec<u8>) -> TlsError {
    let alert = [alert::FATAL, alert::UNEXPECTED_MESSAGE];
    outgoing.extend([ContentType::Alert.byte(), 3, 3, 0, 2]);
    outgoing.extend(alert);
    TlsError::Protocol { reason: Reason::UnexpectedMessage, detail: "an empty alert".into() }
}

/// True of a record that rustls could not open, and has not refused: early data that the server does
/// not take. rustls would try it again with each call, and count it again against its limit.
///
/// A record that was not authentic was filled with zeros when it was opened in place. One that was
/// opened ends in its content type, which is not zero.
fn is_refused_early_data(offered: &[u8]) -> bool {
    match frame(offered) {
        Framed::Record { kind: ContentType::ApplicationData, len } if len == offered.len() => {
            let payload = &offered[HEADER_LEN..];
            let content = &payload[..payload.len().saturating_sub(TAG_LEN)];
            !content.is_empty() && content.iter().all(|byte| *byte == 0)
        }
        _ => false,
    }
}

/// Every cipher of TLS 1.3 that rustls has ends a record with a tag of this length.
const TAG_LEN: usize = 16;

/// True of a close notification that is not encrypted; an encrypted one is longer.
fn is_close_notify(kind: ContentType, payload: &[u8]) -> bool {
    kind == ContentType::Alert && matches!(payload, [_, alert::CLOSE_NOTIFY])
}

/// The two sides of rustls have the same states in different types.
trait Side {}
impl Side for ClientConnectionData {}
impl Side for ServerConnectionData {}

fn step<S: Side>(
    status: UnbufferedStatus<'_, '_, S>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(state)) => encode(state, outgoing),
        Ok(ConnectionState::TransmitTlsData(state)) => {
            // What was encoded is in the caller's hands; it is sent before anything else.
            state.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::NeedsRecord),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(state) => Err(rustls::Error::General(format!("{state:?} in the handshake"))),
    };
    (discard, step)
}

fn encode<S: Side>(
    mut state: EncodeTlsData<'_, S>,
    outgoing: &mut Vec<u8>,
) -> Result<Step, rustls::Error> {
    let start = outgoing.len();
    let mut room = 0;
    loop {
        outgoing.resize(start + room, 0);
        match state.encode(&mut outgoing[start..]) {
            Ok(len) => {
                outgoing.truncate(start + len);
                return Ok(Step::Again);
            }
            Err(EncodeError::InsufficientSize(error)) => room = error.required_size,
            Err(error @ EncodeError::AlreadyEncoded) => {
                return Err(rustls::Error::General(error.to_string()));
            }
        }
    }
}
