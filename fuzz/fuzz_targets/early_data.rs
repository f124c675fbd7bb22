//! Early data that a server refuses counts once against the limit, in whatever records and pieces it
//! arrives: the handshake goes on as long as the records hold 16,384 bytes, and not with one more.
//!
//! The first byte chooses the cipher and whether the server asks for another hello; the second one is
//! the length of the pieces, in units of 64 bytes; each further pair is the length of a record.
#![no_main]

use rloop_tls::config::{IdentityPem, ServerSettings, ServerSetup, Settings};
use rloop_tls::pki_types::pem::PemObject;
use rloop_tls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rloop_tls::session::Session;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::io::Write;
use std::sync::{Arc, LazyLock};

const LIMIT: usize = 1 << 14;

/// The content type and the tag of a record, which count too.
const OVERHEAD: usize = 1 + 16;

const CIPHERS: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// What the connections with one cipher are made of.
struct Setups {
    client: Arc<ClientConfig>,
    /// Gives out tickets for early data.
    giving: Arc<ServerConfig>,
    /// Refuses early data, without and with a request for another hello.
    refusing: [Arc<ServerSetup>; 2],
}

static SETUPS: LazyLock<[Setups; 3]> = LazyLock::new(|| CIPHERS.map(setups));

fn setups(cipher: &str) -> Setups {
    let issued = rcgen::generate_simple_self_signed(["fuzz.example".to_owned()])
        .expect("a certificate can be made");
    let identity = IdentityPem {
        chain: issued.cert.pem().into_bytes(),
        key: issued.signing_key.serialize_pem().into_bytes(),
    };
    let certificate = CertificateDer::from(issued.cert.der().to_vec());
    let key = PrivateKeyDer::from_pem_slice(&identity.key).expect("the key can be read");
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| format!("{:?}", suite.suite()) == cipher_of_rustls(cipher));
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("the certificate can be trusted");
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the cipher is of TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_early_data = true;
    let mut giving = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the cipher is of TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the identity is good");
    giving.max_early_data_size = u32::MAX;
    let refusing = [None, Some(vec!["secp384r1".to_owned()])].map(|groups| {
        let common = Settings {
            tls13: true,
            ciphers: vec![cipher.to_owned()],
            groups,
            identities: vec![identity.clone()],
            ..Settings::default()
        };
        let settings = ServerSettings { common, ..ServerSettings::default() };
        Arc::new(ServerSetup::new(&settings).expect("the settings are good"))
    });
    Setups { client: Arc::new(client), giving: Arc::new(giving), refusing }
}

fn cipher_of_rustls(cipher: &str) -> String {
    cipher.replacen("TLS_", "TLS13_", 1)
}

fn records_of(client: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut records).expect("a Vec takes everything");
    }
    records
}

fn feed(client: &mut ClientConnection, mut records: &[u8]) {
    while !records.is_empty() {
        client.read_tls(&mut records).expect("a slice can be read");
        client.process_new_packets().expect("the server is honest");
    }
}

fn connect(setups: &Setups) -> ClientConnection {
    let name = ServerName::try_from("fuzz.example").expect("the name is good");
    ClientConnection::new(Arc::clone(&setups.client), name).expect("the configuration is good")
}

/// Has the client keep a ticket for early data.
fn get_ticket(setups: &Setups) {
    let mut client = connect(setups);
    let mut server =
        ServerConnection::new(Arc::clone(&setups.giving)).expect("the configuration is good");
    for _ in 0..4 {
        let mut hello = &records_of(&mut client)[..];
        while !hello.is_empty() {
            server.read_tls(&mut hello).expect("a slice can be read");
            server.process_new_packets().expect("the client is honest");
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).expect("a Vec takes everything");
        }
        feed(&mut client, &answer);
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, piece, lengths @ ..] = input else { return };
    let setups = &SETUPS[usize::from(choice >> 1) % SETUPS.len()];
    get_ticket(setups);
    let mut client = connect(setups);
    // The client's buffer is bounded, so it is emptied after each record.
    let mut sent = records_of(&mut client);
    let mut total = 0;
    for pair in lengths.chunks_exact(2).take(16) {
        let len = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % (LIMIT + 1);
        if len == 0 {
            continue;
        }
        let mut early = client.early_data().expect("the ticket is for early data");
        early.write_all(&vec![b'x'; len]).expect("the ticket has no limit");
        total += len + OVERHEAD;
        sent.extend(records_of(&mut client));
    }
    let mut session = Session::server(&setups.refusing[usize::from(choice & 1)]);
    let mut is_taken = true;
    'handshake: for _ in 0..4 {
        for piece in sent.chunks(64 * (1 + usize::from(*piece))) {
            let mut output = vec![0; session.plaintext_bound(piece)];
            let received = session.receive(piece, &mut output);
            assert_eq!(received.plaintext, 0, "nobody has sent data that counts");
            if received.outcome.is_err() {
                is_taken = false;
                break 'handshake;
            }
        }
        feed(&mut client, &std::mem::take(session.outgoing()));
        sent = records_of(&mut client);
    }
    assert_eq!(is_taken, total <= LIMIT, "{total} bytes of early data");
    assert_eq!(is_taken, !session.is_handshaking() && !client.is_handshaking());
});
