//! TLS on a stream: a rustls client without buffers of its own, over a non-blocking socket.
//!
//! Every server has to do the same work: one version, cipher and group are offered, and what was
//! agreed upon is checked and reported. The server's certificate is verified as a real client does.
//!
//! Received records are decrypted where they were received, so that the client costs less than the
//! servers that it measures.
#![expect(clippy::disallowed_types, reason = "no Python code runs here")]

use std::cell::RefCell;
use std::fs;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, HandshakeKind, RootCertStore, version};
use serde::Serialize;

/// The name in the certificates that `certificate` makes.
pub(crate) const SERVER_NAME: &str = "localhost";

/// Ciphertext that is received at a time; it leaves room for the rest of a record in the buffer.
const RECEIVE_SIZE: usize = 128 * 1024;

/// The longest record there is, header included.
const LONGEST_RECORD: usize = 5 + (1 << 14) + 256;

/// How connections are made, and what they agreed upon so far.
pub(crate) struct TlsClient {
    pub(crate) config: Arc<ClientConfig>,
    resumes: bool,
    agreed: RefCell<Agreed>,
}

/// What all handshakes agreed upon, and how many there were of each kind.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Agreed {
    version: String,
    cipher: String,
    group: String,
    full_handshakes: u64,
    resumed_handshakes: u64,
}

impl TlsClient {
    /// A client that trusts the certificates in the PEM file `roots`. With `resumes`, it takes up
    /// earlier sessions.
    pub(crate) fn new(roots: &Path, resumes: bool) -> io::Result<Self> {
        let mut trusted = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(roots).map_err(Error::other)? {
            trusted.add(certificate.map_err(Error::other)?).map_err(Error::other)?;
        }
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(Error::other)?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.resumption =
            if resumes { Resumption::in_memory_sessions(32) } else { Resumption::disabled() };
        Ok(Self { config: Arc::new(config), resumes, agreed: RefCell::default() })
    }

    /// The name that the server is asked for.
    pub(crate) fn server_name() -> ServerName<'static> {
        ServerName::try_from(SERVER_NAME).expect("it is a DNS name")
    }

    /// Takes note of a handshake; an error if it agreed upon something else than those before.
    pub(crate) fn note(&self, connection: &CommonState) -> io::Result<()> {
        let mut agreed = self.agreed.borrow_mut();
        match connection.handshake_kind() {
            Some(HandshakeKind::Full) => agreed.full_handshakes += 1,
            Some(HandshakeKind::Resumed) => agreed.resumed_handshakes += 1,
            kind => return Err(Error::other(format!("the server chose a handshake {kind:?}"))),
        }
        let version = connection.protocol_version().map(|version| format!("{version:?}"));
        let suite = connection.negotiated_cipher_suite().map(|it| format!("{:?}", it.suite()));
        let group = connection.negotiated_key_exchange_group().map(|it| format!("{:?}", it.name()));
        let (Some(version), Some(cipher), Some(group)) = (version, suite, group) else {
            return Err(Error::other("a handshake is over that agreed upon nothing"));
        };
        let before = (&agreed.version, &agreed.cipher, &agreed.group);
        if agreed.version.is_empty() {
            (agreed.version, agreed.cipher, agreed.group) = (version, cipher, group);
        } else if before != (&version, &cipher, &group) {
            return Err(Error::other("two handshakes agreed upon different parameters"));
        }
        Ok(())
    }

    /// What the handshakes agreed upon. Where sessions are to be taken up, only the first
    /// connections, of which there are `at_once`, may have done without.
    pub(crate) fn agreed(&self, at_once: usize) -> io::Result<Agreed> {
        let agreed = self.agreed.borrow().clone();
        let first = u64::try_from(at_once).unwrap_or(u64::MAX);
        if self.resumes && agreed.full_handshakes > first {
            return Err(Error::other(format!(
                "the server did not take up sessions: {} of {} handshakes were full",
                agreed.full_handshakes,
                agreed.full_handshakes + agreed.resumed_handshakes
            )));
        }
        Ok(agreed)
    }

    /// Writes what a server needs to be this client's into `folder`: `root.pem`, which the client
    /// trusts, and `certificate.pem` with its `key.pem`, an ECDSA key on P-256.
    pub(crate) fn write_certificates(folder: &Path) -> io::Result<()> {
        let (root, leaf, key) = make_certificates().map_err(Error::other)?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("root.pem"), root)?;
        fs::write(folder.join("certificate.pem"), leaf)?;
        fs::write(folder.join("key.pem"), key)
    }
}

/// Makes an authority and a server's certificate; returns both and the server's key in PEM.
fn make_certificates() -> Result<(String, String, String), rcgen::Error> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "an authority for one measurement");
    let root_certificate = root.self_signed(&root_key)?;
    let leaf_key = KeyPair::generate()?;
    let leaf = CertificateParams::new([SERVER_NAME.to_owned()])?
        .signed_by(&leaf_key, &Issuer::new(root, root_key))?;
    Ok((root_certificate.pem(), leaf.pem(), leaf_key.serialize_pem()))
}

/// A connection that moves plaintext, as a stream does.
pub(crate) struct TlsStream {
    pub(crate) socket: TcpStream,
    client: Rc<TlsClient>,
    session: UnbufferedClientConnection,
    /// Received and not yet decrypted is `received[start..end]`.
    received: Vec<u8>,
    start: usize,
    end: usize,
    /// The last receipt has emptied the socket.
    is_drained: bool,
    is_established: bool,
    /// Records, of which the first `sent` bytes are sent.
    records: Vec<u8>,
    sent: usize,
}

impl TlsStream {
    /// Starts to connect.
    pub(crate) fn connect(client: &Rc<TlsClient>, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let session =
            UnbufferedClientConnection::new(client.config.clone(), TlsClient::server_name());
        let mut stream = Self {
            socket,
            client: client.clone(),
            session: session.map_err(Error::other)?,
            received: vec![0; RECEIVE_SIZE + LONGEST_RECORD],
            start: 0,
            end: 0,
            is_drained: false,
            is_established: false,
            records: Vec::new(),
            sent: 0,
        };
        // Makes the ClientHello, which leaves when the socket is connected.
        stream.advance(&mut [])?;
        Ok(stream)
    }

    /// Receives plaintext, as `Read::read` does; `buffer` takes more than is received at a time.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if std::mem::take(&mut self.is_drained) {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.received.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let room = &mut self.received[self.end..];
            let length = self.socket.read(room)?;
            if length == 0 {
                return Ok(0);
            }
            self.is_drained = length < room.len();
            self.end += length;
            let plaintext = self.advance(buffer)?;
            self.flush()?;
            if plaintext > 0 {
                return Ok(plaintext);
            }
        }
    }

    /// True if nothing else has come than what the last receipt returned; told once.
    pub(crate) fn take_drained(&mut self) -> bool {
        std::mem::take(&mut self.is_drained)
    }

    /// Encrypts and sends all of `plaintext`, or nothing if the peer has to take or say something
    /// first.
    pub(crate) fn send(&mut self, plaintext: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if !self.is_established || !self.records.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let pending = &mut self.received[self.start..self.end];
        let UnbufferedStatus { discard, state } = self.session.process_tls_records(pending);
        self.start += discard;
        let ConnectionState::WriteTraffic(mut state) = state.map_err(Error::other)? else {
            return Err(Error::other("the server ended the connection"));
        };
        let mut room = plaintext.len() + LONGEST_RECORD;
        loop {
            self.records.resize(room, 0);
            match state.encrypt(plaintext, &mut self.records) {
                Ok(length) => break self.records.truncate(length),
                Err(EncryptError::InsufficientSize(error)) => room = error.required_size,
                Err(error @ EncryptError::EncryptExhausted) => return Err(Error::other(error)),
            }
        }
        self.flush()?;
        Ok(plaintext.len())
    }

    /// Sends the records there are, as far as the socket takes them.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.records.len() {
            match self.socket.write(&self.records[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Also before it is connected.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.records.clear();
        self.sent = 0;
        Ok(())
    }

    /// Says that nothing more is sent.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        let pending = &mut self.received[self.start..self.end];
        let UnbufferedStatus { discard, state } = self.session.process_tls_records(pending);
        self.start += discard;
        if let ConnectionState::WriteTraffic(mut state) = state.map_err(Error::other)? {
            let start = self.records.len();
            self.records.resize(start + LONGEST_RECORD, 0);
            let length =
                state.queue_close_notify(&mut self.records[start..]).map_err(Error::other)?;
            self.records.truncate(start + length);
        }
        self.flush()
    }

    /// Goes through what was received; returns how many bytes of plaintext are in `buffer`.
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut plaintext = 0;
        loop {
            let pending = &mut self.received[self.start..self.end];
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(pending);
            let mut goes_on = true;
            match state.map_err(Error::other)? {
                ConnectionState::ReadTraffic(mut state) => {
                    while let Some(record) = state.next_record() {
                        let record = record.map_err(Error::other)?;
                        discard += record.discard;
                        let target = &mut buffer[plaintext..][..record.payload.len()];
                        target.copy_from_slice(record.payload);
                        plaintext += record.payload.len();
                    }
                }
                ConnectionState::EncodeTlsData(mut state) => {
                    let start = self.records.len();
                    let mut room = 0;
                    loop {
                        self.records.resize(start + room, 0);
                        match state.encode(&mut self.records[start..]) {
                            Ok(length) => break self.records.truncate(start + length),
                            Err(EncodeError::InsufficientSize(error)) => room = error.required_size,
                            Err(error @ EncodeError::AlreadyEncoded) => {
                                return Err(Error::other(error));
                            }
                        }
                    }
                }
                // They leave before anything that is encrypted later.
                ConnectionState::TransmitTlsData(state) => state.done(),
                ConnectionState::BlockedHandshake => goes_on = false,
                ConnectionState::WriteTraffic(_) => {
                    goes_on = false;
                    if !self.is_established {
                        self.is_established = true;
                        self.client.note(&self.session)?;
                    }
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    return Err(Error::other("the server ended the connection"));
                }
                state => return Err(Error::other(format!("an unknown state: {state:?}"))),
            }
            self.start += discard;
            if !goes_on {
                return Ok(plaintext);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_trusted_by_the_client_they_are_made_for() {
        let (root, leaf, _) = make_certificates().unwrap();
        assert_ne!(root, leaf);
        let folder = std::env::temp_dir().join(format!("loadgen-{}", std::process::id()));
        TlsClient::write_certificates(&folder).unwrap();
        let client = TlsClient::new(&folder.join("root.pem"), true);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(client.unwrap().agreed(1).unwrap().full_handshakes, 0);
    }
}
