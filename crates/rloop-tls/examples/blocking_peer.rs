//! A peer for `tests/tls/test_rustls_peers.py`: rustls as its documentation shows it, over blocking
//! sockets, without anything of this project's.
//!
//! Usage: `blocking_peer client|server ADDRESS VERSION ROOTS IDENTITY first|last CONNECTIONS`, with the
//! files in PEM and what is to be sent on standard input. It connects to the address, or listens there
//! and prints where. Both sides present a certificate and check the other's. Of two ends, `first` is the
//! one that ends a connection; `last` waits for the other to do so.
//!
//! Each connection prints version, application protocol, kind of handshake, and the hashes of the
//! peer's certificate and of what was received before its close notification. A stream that ends without
//! that notification is an error, as is anything else that goes wrong.

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
    ServerConnection, SideData, StreamOwned, SupportedProtocolVersion, version,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The name in the certificate of the other side.
const SERVER_NAME: &str = "www.example.org";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which of the two ends the connection.
#[derive(Clone, Copy, PartialEq)]
enum End {
    First,
    Last,
}

/// Who we are, and whom we trust.
struct Identity {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    versions: [&'static SupportedProtocolVersion; 1],
}

impl Identity {
    fn client(self) -> Outcome<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_protocol_versions(&self.versions)
            .with_root_certificates(self.roots)
            .with_client_auth_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    fn server(self) -> Outcome<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder_with_protocol_versions(&self.versions)
            .with_client_cert_verifier(WebPkiClientVerifier::builder(self.roots).build()?)
            .with_single_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config))
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [side, address, version, roots, identity, end, connections] = &arguments[..] else {
        return Err("seven arguments are expected".into());
    };
    let mut trusted = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots)? {
        trusted.add(root?)?;
    }
    let identity = Identity {
        roots: Arc::new(trusted),
        chain: CertificateDer::pem_file_iter(identity)?.collect::<Result<_, _>>()?,
        key: PrivateKeyDer::from_pem_file(identity)?,
        versions: match version.as_str() {
            "TLSv1.2" => [&version::TLS12],
            "TLSv1.3" => [&version::TLS13],
            _ => return Err("the version is TLSv1.2 or TLSv1.3".into()),
        },
    };
    let end = match end.as_str() {
        "first" => End::First,
        "last" => End::Last,
        _ => return Err("an end is first or last".into()),
    };
    let mut data = Vec::new();
    io::stdin().read_to_end(&mut data)?;
    let connections = connections.parse()?;
    match side.as_str() {
        "client" => connect(&identity.client()?, address, connections, &data, end),
        "server" => serve(&identity.server()?, address, connections, &data, end),
        _ => Err("a side is client or server".into()),
    }
}

fn connect(
    config: &Arc<ClientConfig>,
    address: &str,
    connections: usize,
    data: &[u8],
    end: End,
) -> Outcome<()> {
    for _ in 0..connections {
        let session = ClientConnection::new(config.clone(), ServerName::try_from(SERVER_NAME)?)?;
        converse(session, TcpStream::connect(address)?, data, end)?;
    }
    Ok(())
}

fn serve(
    config: &Arc<ServerConfig>,
    address: &str,
    connections: usize,
    data: &[u8],
    end: End,
) -> Outcome<()> {
    let listener = TcpListener::bind(address)?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    for _ in 0..connections {
        let (socket, _) = listener.accept()?;
        converse(ServerConnection::new(config.clone())?, socket, data, end)?;
    }
    Ok(())
}

/// Exchanges the data for as much of the other side's, and ends.
fn converse<C, S>(session: C, socket: TcpStream, data: &[u8], end: End) -> Outcome<()>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(session, socket);
    let mut received = vec![0; data.len()];
    if end == End::First {
        stream.read_exact(&mut received)?;
        stream.write_all(data)?;
        stream.conn.send_close_notify();
        stream.flush()?;
        stream.read_to_end(&mut received)?;
    } else {
        stream.write_all(data)?;
        received.clear();
        stream.read_to_end(&mut received)?;
        stream.conn.send_close_notify();
        stream.flush()?;
    }
    let session = &stream.conn;
    let peer = session.peer_certificates().and_then(<[_]>::first);
    writeln!(
        io::stdout(),
        "{:?} {} {:?} {:?} {:?}",
        session.protocol_version().ok_or("no version")?,
        session.alpn_protocol().map_or("none".into(), String::from_utf8_lossy),
        session.handshake_kind().ok_or("no handshake")?,
        digest(&SHA256, peer.ok_or("no certificate")?),
        digest(&SHA256, &received),
    )?;
    Ok(())
}
