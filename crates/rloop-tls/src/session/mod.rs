//! A TLS connection without I/O: bytes in, bytes out, state between.
//!
//! # Theory of operation
//!
//! The handshake is rustls' ([`handshake`]). When it is over, the keys move to [`traffic`], which
//! protects records straight from and into the caller's memory, and rustls keeps only what later
//! keys and tickets are derived from. An idle connection thus holds two keys and no buffer.
//!
//! [`Session::receive`] takes what arrived and writes plaintext; a record whose rest is still to come
//! waits in the session. Answers of the protocol collect in [`Session::outgoing`], and are to be sent
//! before what [`Session::send`] makes next; `send` puts them in front by itself.
//!
//! # What must hold
//!
//! Plaintext that arrived before a failure is delivered before the failure is reported, and a
//! failure is reported once. After it, nothing more is received.

pub(crate) mod alert;
mod handshake;
mod negotiated;
mod offer;
mod protection;
mod record;
#[cfg(test)]
mod tests;
mod traffic;

use crate::config::{ClientSetup, ServerSetup};
use crate::error::{Reason, TlsError};
use handshake::{Connection, Progress};
pub use negotiated::{Negotiated, cipher_name};
use offer::{Offer, is_fallback};
use record::{Framed, Malformed, frame};
use rustls::ServerConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};
use std::sync::Arc;
use traffic::Traffic;

/// What came of received bytes.
#[must_use]
#[derive(Debug)]
pub struct Received {
    /// Bytes of plaintext at the beginning of the output.
    pub plaintext: usize,
    /// Whether the connection goes on. The plaintext is good in either case.
    pub outcome: Result<(), TlsError>,
}

/// Where the connection is.
enum State {
    /// A server that waits for the client's offer.
    Accepting {
        setup: Arc<ServerSetup>,
        offer: Offer,
    },
    /// A server that chooses its configuration by the offer. The acceptor has seen `offered` bytes of
    /// the received ones.
    Choosing {
        setup: Arc<ServerSetup>,
        acceptor: Box<Acceptor>,
        offered: usize,
        refuses_tls12: bool,
    },
    Handshaking {
        connection: Connection,
        offered: usize,
    },
    Established {
        traffic: Box<Traffic>,
    },
    Failed,
}

/// One TLS connection, client or server.
pub struct Session {
    state: State,
    /// Received bytes that are not used yet: the beginning of a record.
    received: Vec<u8>,
    outgoing: Vec<u8>,
    negotiated: Option<Arc<Negotiated>>,
    peer_closed: bool,
    close_sent: bool,
}

impl Session {
    /// A client that connects to `name`, which is sent and verified as the setup says. Without a name,
    /// none is sent, certificates for any are refused if the setup checks it, and no session is
    /// resumed.
    ///
    /// # Errors
    /// What rustls says about a configuration that cannot work.
    pub fn client(
        setup: &ClientSetup,
        name: Option<ServerName<'static>>,
    ) -> Result<Self, TlsError> {
        let connection = match name {
            Some(name) => UnbufferedClientConnection::new(setup.config(), name),
            // rustls sends no addresses, and no certificate is for this one.
            None => UnbufferedClientConnection::new(
                setup.nameless_config(),
                ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4]))),
            ),
        }?;
        let mut session = Self::new(State::Handshaking {
            connection: Connection::client(connection),
            offered: 0,
        });
        // Makes the ClientHello.
        session.shake_hands()?;
        Ok(session)
    }

    /// A server.
    #[must_use]
    pub fn server(setup: &Arc<ServerSetup>) -> Self {
        Self::new(State::Accepting { setup: Arc::clone(setup), offer: Offer::default() })
    }

    fn new(state: State) -> Self {
        Self {
            state,
            received: Vec::new(),
            outgoing: Vec::new(),
            negotiated: None,
            peer_closed: false,
            close_sent: false,
        }
    }

    /// True until both sides may send data, or the connection failed.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        matches!(
            self.state,
            State::Accepting { .. } | State::Choosing { .. } | State::Handshaking { .. }
        )
    }

    /// What the handshake agreed upon, once it is over.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.negotiated.as_ref()
    }

    /// True once the peer has said that it sends no more.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// True once [`Self::close`] was called.
    #[must_use]
    pub fn close_sent(&self) -> bool {
        self.close_sent
    }

    /// Bytes of room that [`Self::receive`] needs when it gets `input`: one more than the plaintext
    /// that is in it, as a rule.
    #[must_use]
    pub fn plaintext_bound(&self, input: &[u8]) -> usize {
        match &self.state {
            State::Failed => 0,
            // What comes behind the handshake is looked at when it is there.
            State::Accepting { .. } | State::Choosing { .. } | State::Handshaking { .. } => {
                self.received.len() + input.len()
            }
            State::Established { .. } if self.peer_closed => 0,
            State::Established { traffic } => self.opened_bound(traffic, input),
        }
    }

    fn opened_bound(&self, traffic: &Traffic, input: &[u8]) -> usize {
        let (mut bound, mut rest) = (0, input);
        let mut add = |len| bound += traffic.opened_len(len).saturating_sub(traffic.spare_len());
        if !self.received.is_empty() {
            let Some(len) = self.begun_record_len(input) else { return 0 };
            let Some((_, after)) = rest.split_at_checked(len - self.received.len()) else {
                return 0;
            };
            add(len);
            rest = after;
        }
        while let Framed::Record { len, .. } = frame(rest) {
            add(len);
            rest = &rest[len..];
        }
        bound + traffic.spare_len()
    }

    /// The length of the record that has begun, if its header is complete with `input`.
    fn begun_record_len(&self, input: &[u8]) -> Option<usize> {
        let mut header = [0; record::HEADER_LEN];
        let known = self.received.iter().chain(input);
        let mut count = 0;
        for (byte, value) in header.iter_mut().zip(known) {
            *byte = *value;
            count += 1;
        }
        match frame(&header[..count]) {
            Framed::Record { len, .. } | Framed::Incomplete { wanted: len }
                if count == record::HEADER_LEN =>
            {
                Some(len)
            }
            _ => None,
        }
    }

    /// Takes bytes of the peer, and writes their plaintext to the beginning of `output`.
    ///
    /// Bytes that come after the end of the connection are ignored.
    ///
    /// # Panics
    /// If `output` is shorter than [`Self::plaintext_bound`].
    pub fn receive(&mut self, input: &[u8], output: &mut [u8]) -> Received {
        debug_assert!(output.len() >= self.plaintext_bound(input), "the output is too short");
        let mut plaintext = 0;
        let outcome = self.try_receive(input, output, &mut plaintext);
        if outcome.is_err() {
            self.state = State::Failed;
            self.received = Vec::new();
        }
        Received { plaintext, outcome }
    }

    /// Records that are to be sent before anything else. The caller empties it.
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    /// Bytes of room that [`Self::send`] needs when it gets `plaintext` bytes: as many as it fills,
    /// as a rule.
    #[must_use]
    pub fn sealed_bound(&self, plaintext: usize) -> usize {
        let State::Established { traffic } = &self.state else { return self.outgoing.len() };
        self.outgoing.len() + traffic.sealed_len(plaintext)
    }

    /// Encrypts all of `plaintext` after what [`Self::outgoing`] holds, which it empties. Returns how
    /// many bytes of `output` are to be sent.
    ///
    /// # Errors
    /// If the keys are used up, which only TLS 1.2 cannot mend, or the connection is not established.
    ///
    /// # Panics
    /// If `output` is shorter than [`Self::sealed_bound`].
    pub fn send(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, TlsError> {
        let State::Established { traffic } = &mut self.state else {
            return Err(TlsError::Protocol {
                reason: Reason::InternalError,
                detail: "the connection is not established".into(),
            });
        };
        let start = self.outgoing.len();
        output[..start].copy_from_slice(&self.outgoing);
        self.outgoing.clear();
        Ok(start + traffic.seal(plaintext, &mut output[start..])?)
    }

    /// Says that we send no more data, in [`Self::outgoing`]. There is no word for it during the
    /// handshake.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.close_sent, true) {
            return;
        }
        if let State::Established { traffic } = &mut self.state {
            traffic.close(&mut self.outgoing);
        }
    }

    fn try_receive(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        plaintext: &mut usize,
    ) -> Result<(), TlsError> {
        match self.state {
            State::Failed => return Ok(()),
            State::Established { .. } if self.received.is_empty() => {
                let used = self.open_records(input, output, plaintext)?;
                self.keep(&input[used..]);
                return Ok(());
            }
            State::Established { .. } => return self.continue_record(input, output, plaintext),
            State::Accepting { .. } | State::Choosing { .. } | State::Handshaking { .. } => {}
        }
        self.received.extend_from_slice(input);
        self.shake_hands()?;
        if let State::Established { .. } = self.state {
            let rest = std::mem::take(&mut self.received);
            let used = self.open_records(&rest, output, plaintext)?;
            self.keep(&rest[used..]);
        }
        Ok(())
    }

    /// Completes the record that has begun, then goes on with the rest of `input`.
    fn continue_record(
        &mut self,
        mut input: &[u8],
        output: &mut [u8],
        plaintext: &mut usize,
    ) -> Result<(), TlsError> {
        while let Framed::Incomplete { wanted } = frame(&self.received) {
            let missing = wanted - self.received.len();
            let (part, rest) = input.split_at(missing.min(input.len()));
            self.received.extend_from_slice(part);
            input = rest;
            if part.len() < missing {
                return Ok(());
            }
        }
        // Nothing is kept between records, so that an idle connection holds no buffer.
        let record = std::mem::take(&mut self.received);
        self.open_records(&record, output, plaintext)?;
        let used = self.open_records(input, output, plaintext)?;
        self.keep(&input[used..]);
        Ok(())
    }

    /// Opens the whole records that `input` begins with; returns how many bytes they are.
    fn open_records(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        plaintext: &mut usize,
    ) -> Result<usize, TlsError> {
        let State::Established { traffic } = &mut self.state else { return Ok(input.len()) };
        let mut used = 0;
        while !self.peer_closed {
            match frame(&input[used..]) {
                Framed::Incomplete { .. } => return Ok(used),
                Framed::Record { kind, len } => {
                    let record = &input[used..used + len];
                    used += len;
                    let room = &mut output[*plaintext..];
                    *plaintext += traffic.open(kind, record, room, &mut self.outgoing)?;
                    self.peer_closed = traffic.peer_closed();
                }
                Framed::Malformed(malformed) => {
                    let (alert, reason) = match malformed {
                        Malformed::Header => {
                            (alert::UNEXPECTED_MESSAGE, Reason::WrongVersionNumber)
                        }
                        Malformed::TooLong => {
                            (alert::RECORD_OVERFLOW, Reason::EncryptedLengthTooLong)
                        }
                    };
                    return Err(traffic.refuse_record(alert, reason, &mut self.outgoing));
                }
            }
        }
        // "Any data received after a closure alert has been received MUST be ignored" (RFC 8446, 6.1).
        Ok(input.len())
    }

    fn keep(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            // A record that has begun will be of the length it says; one allocation holds it.
            if let Framed::Incomplete { wanted } = frame(rest) {
                self.received.reserve_exact(wanted);
            }
            self.received.extend_from_slice(rest);
        }
    }

    /// Goes on with the handshake, as far as the received bytes go.
    fn shake_hands(&mut self) -> Result<(), TlsError> {
        self.accept()?;
        let State::Handshaking { connection, offered } = &mut self.state else { return Ok(()) };
        match connection.advance(&mut self.received, offered, &mut self.outgoing)? {
            Progress::Waiting => Ok(()),
            Progress::Done => self.establish(),
        }
    }

    /// Begins the server's side of the handshake, once the client's offer is there.
    fn accept(&mut self) -> Result<(), TlsError> {
        if let State::Accepting { setup, offer } = &mut self.state {
            if !offer.gather(&mut self.received, &mut self.outgoing)? {
                return Ok(());
            }
            let refuses_tls12 = setup.has_tls13() && is_fallback(&self.received);
            if !setup.depends_on_client() {
                self.state = Self::answering(setup.config(), refuses_tls12)?;
                return Ok(());
            }
            let setup = Arc::clone(setup);
            let acceptor = Box::default();
            self.state = State::Choosing { setup, acceptor, offered: 0, refuses_tls12 };
        }
        let State::Choosing { setup, acceptor, offered, refuses_tls12 } = &mut self.state else {
            return Ok(());
        };
        let refuses_tls12 = *refuses_tls12;
        let offer = &self.received[*offered..];
        *offered = self.received.len();
        if let Some(config) = setup.choose(acceptor, offer, &mut self.outgoing)? {
            self.state = Self::answering(config, refuses_tls12)?;
        }
        Ok(())
    }

    fn answering(config: Arc<ServerConfig>, refuses_tls12: bool) -> Result<State, TlsError> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(State::Handshaking {
            connection: Connection::server(connection, refuses_tls12),
            offered: 0,
        })
    }

    fn establish(&mut self) -> Result<(), TlsError> {
        let state = std::mem::replace(&mut self.state, State::Failed);
        let State::Handshaking { connection, .. } = state else { return Ok(()) };
        self.negotiated = Some(Arc::new(connection.negotiated()));
        self.state = State::Established { traffic: Box::new(connection.into_traffic()?) };
        Ok(())
    }

    /// Seals any content as a record of the kind that `kind` stands for on the wire, as no honest side
    /// does; `None` before the handshake is over.
    #[cfg(any(test, fuzzing))]
    pub fn seal_anything(&mut self, kind: u8, content: &[u8]) -> Option<Vec<u8>> {
        let State::Established { traffic } = &mut self.state else { return None };
        Some(traffic.seal_anything(record::ContentType::from_byte(kind)?, content))
    }

    #[cfg(test)]
    fn traffic(&mut self) -> &mut Traffic {
        match &mut self.state {
            State::Established { traffic } => traffic,
            _ => panic!("the handshake is not over"),
        }
    }
}
