//! The handshake: rustls, without buffers of its own, until both sides may send data.
//!
//! rustls gets one record at a time. When it reports the end of the handshake and holds nothing
//! back, no record of the next phase has been touched, so [`super::traffic`] can take over the keys.

use super::alert;
use super::negotiated::Negotiated;
use super::record::{ContentType, Framed, HEADER_LEN, frame};
use super::traffic::{Kernel, Traffic};
use crate::error::TlsError;
use crate::verify;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{Error, InvalidMessage, PeerMisbehaved, ProtocolVersion};

/// The rustls connection of one side.
enum Rustls {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// A connection in its handshake.
pub(super) struct Connection {
    rustls: Rustls,
    said: Said,
    /// TLS 1.2 is not to be negotiated.
    refuses_tls12: bool,
}

/// What was said to the peer, as far as it decides whether an alert has to be encrypted.
#[derive(Default)]
struct Said {
    anything: bool,
    change_cipher_spec: bool,
}

impl Said {
    fn note(&mut self, mut records: &[u8]) {
        self.anything |= !records.is_empty();
        while let Framed::Record { kind, len } = frame(records) {
            self.change_cipher_spec |= kind == ContentType::ChangeCipherSpec;
            records = &records[len..];
        }
    }
}

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
    pub(super) fn client(connection: UnbufferedClientConnection) -> Self {
        let rustls = Rustls::Client(Box::new(connection));
        Self { rustls, said: Said::default(), refuses_tls12: false }
    }

    /// With `refuses_tls12`, TLS 1.2 is not to be negotiated: the client falls back to it although
    /// this server has TLS 1.3 (RFC 7507).
    pub(super) fn server(connection: UnbufferedServerConnection, refuses_tls12: bool) -> Self {
        let rustls = Rustls::Server(Box::new(connection));
        Self { rustls, said: Said::default(), refuses_tls12 }
    }

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
            let start = outgoing.len();
            let (discard, step) = self.step(&mut received[..*offered], outgoing);
            received.drain(..discard);
            *offered -= discard;
            if is_refused_early_data(&received[..*offered]) {
                received.drain(..*offered);
                *offered = 0;
            }
            let step = match step {
                Ok(step) => step,
                Err(error) => return Err(self.failed(error, start, outgoing)),
            };
            if self.refuses_tls12 && self.version() == Some(ProtocolVersion::TLSv1_2) {
                outgoing.truncate(start);
                let fallback = PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported;
                return Err(self.refused(fallback.into(), alert::INAPPROPRIATE_FALLBACK, outgoing));
            }
            self.said.note(&outgoing[start..]);
            match step {
                Step::Again => {}
                Step::Done if *offered == 0 => return Ok(Progress::Done),
                Step::NeedsRecord | Step::Done => match frame(&received[*offered..]) {
                    Framed::Incomplete { .. } => return Ok(Progress::Waiting),
                    Framed::Record { kind, len } => {
                        let payload = &received[*offered + HEADER_LEN..*offered + len];
                        if is_close_notify(kind, payload) {
                            // rustls would wait for what does not come (RFC 8446, 6.1).
                            return Err(TlsError::Alert(alert::CLOSE_NOTIFY));
                        }
                        if kind == ContentType::Alert && payload.is_empty() && self.is_plain() {
                            let empty = InvalidMessage::UnexpectedMessage("an empty alert");
                            return Err(self.refused(
                                empty.into(),
                                alert::UNEXPECTED_MESSAGE,
                                outgoing,
                            ));
                        }
                        *offered += len;
                    }
                    // It is for rustls to refuse.
                    Framed::Malformed(_) => *offered = received.len(),
                },
            }
        }
    }

    /// Has the alert of a failure follow what was said: rustls' own, as far as it has one and it is
    /// the right one. Whether it is can only be seen of one that is not encrypted.
    fn failed(&mut self, error: Error, start: usize, outgoing: &mut Vec<u8>) -> TlsError {
        let after = outgoing.len();
        self.take_alert(outgoing);
        match &mut outgoing[after..] {
            [] if self.is_plain() => alert::append(alert::of(&error), outgoing),
            [alert::ALERT, _, _, 0, 2, _, description] => {
                *description = alert::better(&error, *description, self.version());
            }
            _ => {}
        }
        self.said.note(&outgoing[start..]);
        verify::take_failure().map_or_else(|| TlsError::from(error), TlsError::Certificate)
    }

    fn refused(&self, error: Error, description: u8, outgoing: &mut Vec<u8>) -> TlsError {
        alert::append(Some(description), outgoing);
        TlsError::from(error)
    }

    fn version(&self) -> Option<ProtocolVersion> {
        match &self.rustls {
            Rustls::Client(connection) => connection.protocol_version(),
            Rustls::Server(connection) => connection.protocol_version(),
        }
    }

    /// True if an alert is certainly not to be encrypted.
    fn is_plain(&self) -> bool {
        match self.version() {
            None => true,
            Some(ProtocolVersion::TLSv1_2) => !self.said.change_cipher_spec,
            Some(_) => matches!(self.rustls, Rustls::Server(_)) && !self.said.anything,
        }
    }

    fn step(
        &mut self,
        received: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Step, Error>) {
        match &mut self.rustls {
            Rustls::Client(connection) => {
                let (discard, step) = step(connection.process_tls_records(received), outgoing);
                (discard, step.map(|step| step.unless(connection.is_handshaking())))
            }
            Rustls::Server(connection) => {
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

    fn wants_write(&self) -> bool {
        match &self.rustls {
            Rustls::Client(connection) => connection.wants_write(),
            Rustls::Server(connection) => connection.wants_write(),
        }
    }

    /// What was agreed upon; the handshake must be over.
    pub(super) fn negotiated(&self) -> Negotiated {
        match &self.rustls {
            Rustls::Client(connection) => Negotiated::of(connection),
            Rustls::Server(connection) => Negotiated::of(connection),
        }
    }

    /// Takes the keys out of rustls.
    pub(super) fn into_traffic(self) -> Result<Traffic, Error> {
        match self.rustls {
            Rustls::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                let suite = kernel.negotiated_cipher_suite();
                Traffic::new(Kernel::Client(kernel), &secrets, suite)
            }
            Rustls::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                let suite = kernel.negotiated_cipher_suite();
                Traffic::new(Kernel::Server(kernel), &secrets, suite)
            }
        }
    }
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
) -> (usize, Result<Step, Error>) {
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
        Ok(state) => Err(Error::General(format!("{state:?} in the handshake"))),
    };
    (discard, step)
}

fn encode<S: Side>(mut state: EncodeTlsData<'_, S>, outgoing: &mut Vec<u8>) -> Result<Step, Error> {
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
                return Err(Error::General(error.to_string()));
            }
        }
    }
}
