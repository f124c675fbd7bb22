//! Sessions against rustls' own connections, which buffer and protect every record themselves.

use super::*;
use crate::config::{ClientSettings, IdentityPem, ServerSettings, Settings, VerifyMode};
use proptest::prelude::*;
use rustls::ClientConnection;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::CertificateDer;
use std::io::{Read, Write};
use std::sync::LazyLock;

static ISSUED: LazyLock<(CertificateDer<'static>, IdentityPem)> = LazyLock::new(|| {
    let issued = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    let pem = IdentityPem {
        chain: issued.cert.pem().into(),
        key: issued.signing_key.serialize_pem().into(),
    };
    (issued.cert.der().clone(), pem)
});

const ALL_CIPHERS: [&str; 6] = [
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
];

fn settings(cipher: &str) -> Settings {
    let is_tls13 = cipher.starts_with("TLS_");
    Settings {
        tls12: !is_tls13,
        tls13: is_tls13,
        ciphers: vec![cipher.into()],
        ..Settings::default()
    }
}

fn client_setup(cipher: &str, alpn: &[&[u8]]) -> ClientSetup {
    let mut common = settings(cipher);
    common.trusted = vec![ISSUED.0.clone()];
    common.verify = VerifyMode::Required;
    common.alpn = alpn.iter().map(|name| name.to_vec()).collect();
    ClientSetup::new(&ClientSettings { common, check_hostname: true, resume: true }).unwrap()
}

fn server_setup(cipher: &str, alpn: &[&[u8]]) -> Arc<ServerSetup> {
    let mut common = settings(cipher);
    common.identities = vec![ISSUED.1.clone()];
    common.alpn = alpn.iter().map(|name| name.to_vec()).collect();
    let settings =
        ServerSettings { common, tickets: true, ticket_count: 2, ..ServerSettings::default() };
    Arc::new(ServerSetup::new(&settings).unwrap())
}

fn name() -> Option<ServerName<'static>> {
    ServerName::try_from("example.org").ok()
}

/// Gives the session `input` and returns the plaintext.
fn receive(session: &mut Session, input: &[u8]) -> Result<Vec<u8>, TlsError> {
    let mut output = vec![0xee; session.plaintext_bound(input)];
    let received = session.receive(input, &mut output);
    output.truncate(received.plaintext);
    received.outcome.map(|()| output)
}

fn send(session: &mut Session, plaintext: &[u8]) -> Vec<u8> {
    let mut output = vec![0; session.sealed_bound(plaintext.len())];
    let len = session.send(plaintext, &mut output).unwrap();
    output.truncate(len);
    output
}

/// Passes on what both sides have to say until they are silent; returns what each has read.
fn exchange(client: &mut Session, server: &mut Session) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let mut read = (Vec::new(), Vec::new());
    loop {
        let to_server = std::mem::take(client.outgoing());
        let to_client = std::mem::take(server.outgoing());
        if to_server.is_empty() && to_client.is_empty() {
            return Ok(read);
        }
        read.1.extend(receive(server, &to_server)?);
        read.0.extend(receive(client, &to_client)?);
    }
}

fn connected(cipher: &str) -> (Session, Session) {
    let mut client = Session::client(&client_setup(cipher, &[]), name()).unwrap();
    let mut server = Session::server(&server_setup(cipher, &[]));
    let read = exchange(&mut client, &mut server).unwrap();
    assert_eq!(read, (Vec::new(), Vec::new()));
    assert!(!client.is_handshaking() && !server.is_handshaking());
    (client, server)
}

/// A connected session, a server, and rustls' own client.
fn connected_to_rustls(cipher: &str) -> (Session, ClientConnection) {
    let mut peer =
        ClientConnection::new(client_setup(cipher, &[]).config(), name().unwrap()).unwrap();
    let mut session = Session::server(&server_setup(cipher, &[]));
    while peer.is_handshaking() || session.is_handshaking() {
        let mut bytes = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut bytes).unwrap();
        }
        receive(&mut session, &bytes).unwrap();
        feed(&mut peer, &std::mem::take(session.outgoing()));
    }
    (session, peer)
}

fn feed(peer: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).unwrap();
        peer.process_new_packets().unwrap();
    }
}

fn records_of(peer: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn data_goes_both_ways_with_every_cipher() {
    for cipher in ALL_CIPHERS {
        let (mut client, mut server) = connected(cipher);
        let negotiated = server.negotiated().unwrap();
        assert_eq!(negotiated.cipher().0, cipher);
        assert_eq!(client.negotiated().unwrap().peer_chain()[0], ISSUED.0);
        let question: Vec<u8> = (0..100_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let records = send(&mut client, &question);
        assert_eq!(receive(&mut server, &records).unwrap(), question);
        let records = send(&mut server, b"answer");
        assert_eq!(receive(&mut client, &records).unwrap(), b"answer");
    }
}

#[test]
fn rustls_understands_every_cipher() {
    for cipher in ALL_CIPHERS {
        let (mut session, mut peer) = connected_to_rustls(cipher);
        peer.writer().write_all(&vec![7; 50_000]).unwrap();
        assert_eq!(receive(&mut session, &records_of(&mut peer)).unwrap(), vec![7; 50_000]);
        let records = send(&mut session, &[9; 10_000]);
        feed(&mut peer, &records);
        let mut read = vec![0; 20_000];
        let len = peer.reader().read(&mut read).unwrap();
        assert_eq!(read[..len], [9; 10_000]);
    }
}

#[test]
fn a_handshake_may_arrive_byte_by_byte() {
    for cipher in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        for alpn in [&[][..], &[b"h2".as_slice()]] {
            let mut client = Session::client(&client_setup(cipher, alpn), name()).unwrap();
            let mut server = Session::server(&server_setup(cipher, alpn));
            while client.is_handshaking() || server.is_handshaking() {
                for byte in std::mem::take(client.outgoing()) {
                    receive(&mut server, &[byte]).unwrap();
                }
                for byte in std::mem::take(server.outgoing()) {
                    receive(&mut client, &[byte]).unwrap();
                }
            }
            let records = send(&mut client, b"hello");
            let mut read = Vec::new();
            for byte in records {
                read.extend(receive(&mut server, &[byte]).unwrap());
            }
            assert_eq!(read, b"hello");
        }
    }
}

#[test]
fn a_server_without_a_common_protocol_goes_on_without_one() {
    type Protocols = &'static [&'static [u8]];
    let cases: [(Protocols, Protocols, Option<&[u8]>); 4] = [
        (&[b"h2", b"http/1.1"], &[b"http/1.1", b"h2"], Some(b"http/1.1")),
        (&[b"h2"], &[b"http/1.1"], None),
        (&[], &[b"http/1.1"], None),
        (&[b"h2"], &[], None),
    ];
    for cipher in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        for (offered, supported, chosen) in cases {
            let mut client = Session::client(&client_setup(cipher, offered), name()).unwrap();
            let mut server = Session::server(&server_setup(cipher, supported));
            exchange(&mut client, &mut server).unwrap();
            assert_eq!(client.negotiated().unwrap().alpn(), chosen);
            assert_eq!(server.negotiated().unwrap().alpn(), chosen);
        }
    }
}

#[test]
fn sessions_are_resumed() {
    for cipher in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        let (client_setup, server_setup) = (client_setup(cipher, &[]), server_setup(cipher, &[]));
        for is_resumed in [false, true] {
            let mut client = Session::client(&client_setup, name()).unwrap();
            let mut server = Session::server(&server_setup);
            exchange(&mut client, &mut server).unwrap();
            assert_eq!(client.negotiated().unwrap().is_resumed(), is_resumed);
            assert_eq!(server.negotiated().unwrap().is_resumed(), is_resumed);
            assert_eq!(client.negotiated().unwrap().peer_chain()[0], ISSUED.0);
        }
    }
}

#[test]
fn clients_without_a_server_name_do_not_resume() {
    for cipher in ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
        let mut common = settings(cipher);
        common.trusted = vec![ISSUED.0.clone()];
        common.verify = VerifyMode::Required;
        let settings = ClientSettings { common, check_hostname: false, resume: true };
        let client_setup = ClientSetup::new(&settings).unwrap();
        let server_setup = server_setup(cipher, &[]);
        let mut hellos = Vec::new();
        for _ in 0..2 {
            let mut client = Session::client(&client_setup, None).unwrap();
            let mut server = Session::server(&server_setup);
            hellos.push(client.outgoing().len());
            exchange(&mut client, &mut server).unwrap();
            assert!(!client.negotiated().unwrap().is_resumed());
        }
        // No ticket is shown to a server that may be another one.
        assert_eq!(hellos[0], hellos[1]);
    }
}

/// A server's configuration that accepts early data, and gives out tickets for it.
fn early_data_server() -> Arc<rustls::ServerConfig> {
    let chain = vec![ISSUED.0.clone()];
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(&ISSUED.1.key).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.max_early_data_size = u32::MAX;
    Arc::new(config)
}

/// The first flight of a client that has a ticket of another server: early data in records of these
/// lengths follows its hello.
fn hello_with_early_data(cipher: &str, lengths: &[usize]) -> (Vec<u8>, ClientConnection) {
    let mut config = Arc::unwrap_or_clone(client_setup(cipher, &[]).config());
    config.enable_early_data = true;
    let config = Arc::new(config);
    let connect = || ClientConnection::new(Arc::clone(&config), name().unwrap()).unwrap();
    let mut client = connect();
    let mut server = rustls::ServerConnection::new(early_data_server()).unwrap();
    for _ in 0..4 {
        let mut hello = &records_of(&mut client)[..];
        while !hello.is_empty() {
            server.read_tls(&mut hello).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        feed(&mut client, &answer);
    }
    let mut client = connect();
    for len in lengths {
        let mut early = client.early_data().expect("the ticket allows early data");
        assert_eq!(early.write(&vec![b'x'; *len]).unwrap(), *len);
    }
    (records_of(&mut client), client)
}

/// Whether a handshake with early data that arrives in pieces of `size` bytes comes to its end.
fn takes_early_data(
    setup: &Arc<ServerSetup>,
    cipher: &str,
    lengths: &[usize],
    size: usize,
) -> bool {
    let (mut bytes, mut client) = hello_with_early_data(cipher, lengths);
    let mut session = Session::server(setup);
    for _ in 0..4 {
        for piece in bytes.chunks(size) {
            if receive(&mut session, piece).is_err() {
                return false;
            }
        }
        feed(&mut client, &std::mem::take(session.outgoing()));
        bytes = records_of(&mut client);
    }
    assert!(!session.is_handshaking() && !client.is_handshaking());
    true
}

/// rustls takes 16,384 bytes and counts whole encrypted records: content, its type and the tag.
#[test]
fn refused_early_data_counts_once_however_it_arrives() {
    const EXTRA: usize = 1 + 16;
    for cipher in &ALL_CIPHERS[..3] {
        let setup = server_setup(cipher, &[]);
        let mut other_group = settings(cipher);
        other_group.identities = vec![ISSUED.1.clone()];
        other_group.groups = Some(vec!["secp384r1".into()]);
        let settings = ServerSettings { common: other_group, ..ServerSettings::default() };
        // The client has to send its hello again, and its early data was sent in between.
        let asking_again = Arc::new(ServerSetup::new(&settings).unwrap());
        for setup in [setup, asking_again] {
            for size in [1, 100, 5_000, 1 << 20] {
                let takes = |lengths: &[usize]| takes_early_data(&setup, cipher, lengths, size);
                assert!(takes(&[1]));
                assert!(takes(&[(1 << 14) - EXTRA]));
                assert!(!takes(&[(1 << 14) - EXTRA + 1]));
                assert!(takes(&[(1 << 12) - EXTRA; 4]));
                assert!(!takes(&[(1 << 12) - EXTRA, (1 << 12) - EXTRA, 1 << 13]));
            }
        }
    }
}

#[test]
fn close_notify_ends_one_direction() {
    let (mut client, mut server) = connected("TLS_AES_128_GCM_SHA256");
    client.close();
    let mut farewell = std::mem::take(client.outgoing());
    farewell.extend(b"whatever comes after it");
    assert_eq!(receive(&mut server, &farewell).unwrap(), b"");
    assert!(server.peer_closed() && !client.peer_closed());
    let records = send(&mut server, b"still here");
    assert_eq!(receive(&mut client, &records).unwrap(), b"still here");
    client.close();
    assert!(client.outgoing().is_empty());
}

#[test]
fn keys_are_updated_when_they_have_protected_enough() {
    let (mut client, mut server) = connected("TLS_AES_128_GCM_SHA256");
    client.traffic().limit_sending_key_to(2);
    let sent: Vec<u8> = vec![3; 5 * 16_384];
    let records = send(&mut client, &sent);
    assert_eq!(receive(&mut server, &records).unwrap(), sent);
    let records = send(&mut server, b"back");
    assert_eq!(receive(&mut client, &records).unwrap(), b"back");
}

#[test]
fn a_key_that_cannot_be_updated_ends_the_connection() {
    let (mut client, _server) = connected("ECDHE-ECDSA-AES128-GCM-SHA256");
    client.traffic().limit_sending_key_to(1);
    let mut output = vec![0; client.sealed_bound(40_000)];
    assert!(client.send(&vec![1; 40_000], &mut output).is_err());
}

#[test]
fn a_peer_may_update_its_key_and_ask_for_ours() {
    let (mut session, mut peer) = connected_to_rustls("TLS_AES_256_GCM_SHA384");
    for round in 0..100_u8 {
        peer.refresh_traffic_keys().unwrap();
        peer.writer().write_all(&[round]).unwrap();
        assert_eq!(receive(&mut session, &records_of(&mut peer)).unwrap(), [round]);
        let records = send(&mut session, b"answer");
        feed(&mut peer, &records);
        let mut read = [0; 10];
        assert_eq!(peer.reader().read(&mut read).unwrap(), 6);
    }
}

#[test]
fn a_key_that_was_asked_for_often_is_renewed_once_before_the_next_data() {
    let (mut session, mut peer) = connected_to_rustls("TLS_AES_256_GCM_SHA384");
    let usual = session.sealed_bound(6);
    for _ in 0..20 {
        peer.refresh_traffic_keys().unwrap();
        assert_eq!(receive(&mut session, &records_of(&mut peer)).unwrap(), b"");
    }
    assert!(session.outgoing().is_empty());
    let records = send(&mut session, b"answer");
    assert_eq!(records.len(), usual + 5 + 5 + 17, "a key update in a record of its own");
    feed(&mut peer, &records);
    let mut read = [0; 10];
    assert_eq!(peer.reader().read(&mut read).unwrap(), 6);
    assert_eq!(send(&mut session, b"answer").len(), usual);
}

#[test]
fn a_flood_of_key_updates_is_refused() {
    let (mut session, mut peer) = connected_to_rustls("TLS_AES_128_GCM_SHA256");
    let mut outcome = Ok(Vec::new());
    for _ in 0..40 {
        peer.refresh_traffic_keys().unwrap();
        outcome = receive(&mut session, &records_of(&mut peer));
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(TlsError::Protocol { reason: Reason::UnexpectedMessage, .. })));
}

#[test]
fn renegotiation_is_refused_once_and_then_fatal() {
    let (mut client, mut server) = connected("ECDHE-ECDSA-AES128-GCM-SHA256");
    // A ClientHello in a protected record: all that is looked at is its type.
    let hello = client.seal_anything(22, &[1, 0, 0, 0]).unwrap();
    assert_eq!(receive(&mut server, &hello).unwrap(), b"");
    let refusal = std::mem::take(server.outgoing());
    assert_eq!(receive(&mut client, &refusal).unwrap(), b"", "a warning is no failure");
    let hello = client.seal_anything(22, &[1, 0, 0, 0]).unwrap();
    assert!(receive(&mut server, &hello).is_err());
}

#[test]
fn an_empty_alert_is_unexpected() {
    for cipher in ALL_CIPHERS {
        let (mut client, mut server) = connected(cipher);
        let empty = client.seal_anything(21, &[]).unwrap();
        let error = receive(&mut server, &empty).unwrap_err();
        assert!(matches!(error, TlsError::Protocol { reason: Reason::UnexpectedMessage, .. }));
        let answer = std::mem::take(server.outgoing());
        let error = receive(&mut client, &answer).unwrap_err();
        assert_eq!(error, TlsError::Alert(alert::UNEXPECTED_MESSAGE));
    }
    // Before there are keys, on both sides.
    let mut client = Session::client(&client_setup(ALL_CIPHERS[0], &[]), name()).unwrap();
    client.outgoing().clear();
    let server = Session::server(&server_setup(ALL_CIPHERS[0], &[b"h2"]));
    for mut session in [client, server] {
        receive(&mut session, &[21, 3, 3, 0, 0]).unwrap_err();
        assert_eq!(session.outgoing()[..], [21, 3, 3, 0, 2, 2, alert::UNEXPECTED_MESSAGE]);
    }
}

#[test]
fn a_changed_record_is_not_delivered() {
    for cipher in ALL_CIPHERS {
        let (mut client, mut server) = connected(cipher);
        let good = send(&mut client, b"good");
        let mut bad = send(&mut client, b"bad");
        *bad.last_mut().unwrap() ^= 1;
        let both = [good, bad].concat();
        let mut output = vec![0; server.plaintext_bound(&both)];
        let received = server.receive(&both, &mut output);
        assert_eq!(&output[..received.plaintext], b"good");
        let expected = Reason::DecryptionFailedOrBadRecordMac;
        assert!(matches!(
            received.outcome,
            Err(TlsError::Protocol { reason, .. }) if reason == expected
        ));
        let alert = std::mem::take(server.outgoing());
        assert_eq!(receive(&mut client, &alert), Err(TlsError::Alert(20)));
    }
}

#[test]
fn records_cannot_be_replayed_or_reordered() {
    let (mut client, mut server) = connected("TLS_CHACHA20_POLY1305_SHA256");
    let first = send(&mut client, b"first");
    let second = send(&mut client, b"second");
    assert_eq!(receive(&mut server, &first).unwrap(), b"first");
    assert!(receive(&mut server, &first).is_err());
    let (mut client, mut server) = connected("TLS_CHACHA20_POLY1305_SHA256");
    let _first = send(&mut client, b"first");
    assert!(receive(&mut server, &second).is_err());
}

#[test]
fn what_is_not_tls_is_told_so() {
    let mut server = Session::server(&server_setup("TLS_AES_128_GCM_SHA256", &[]));
    assert!(receive(&mut server, b"GET / HTTP/1.0\r\n\r\n").is_err());
    let (_client, mut server) = connected("TLS_AES_128_GCM_SHA256");
    let outcome = receive(&mut server, &[23, 3, 3, 0xff, 0xff, 0]);
    let expected = Reason::EncryptedLengthTooLong;
    assert!(matches!(outcome, Err(TlsError::Protocol { reason, .. }) if reason == expected));
    assert!(!server.outgoing().is_empty(), "the peer is told");
    assert_eq!(receive(&mut server, b"more").unwrap(), b"", "a failure is reported once");
}

#[test]
fn a_server_name_that_does_not_match_is_refused() {
    let setup = client_setup("TLS_AES_128_GCM_SHA256", &[]);
    let other = ServerName::try_from("example.com").ok();
    let mut client = Session::client(&setup, other).unwrap();
    let mut server = Session::server(&server_setup("TLS_AES_128_GCM_SHA256", &[]));
    let outcome = exchange(&mut client, &mut server);
    let expected = crate::verify::VerifyFailure::HOSTNAME_MISMATCH;
    assert_eq!(outcome, Err(TlsError::Certificate(expected)));
    let alert = std::mem::take(client.outgoing());
    assert_eq!(receive(&mut server, &alert), Err(TlsError::Alert(42)));
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let (mut client, mut server) = connected("TLS_AES_128_GCM_SHA256");
    let records = send(&mut client, &vec![1; 30_000]);
    let (begin, end) = records.split_at(20_000);
    receive(&mut server, begin).unwrap();
    assert!(server.received.capacity() > 0);
    receive(&mut server, end).unwrap();
    assert_eq!(server.received.capacity(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn data_survives_every_fragmentation(
        lengths in prop::collection::vec(0usize..40_000, 1..6),
        cuts in prop::collection::vec(1usize..20_000, 1..40),
        cipher in prop::sample::select(&ALL_CIPHERS[..]),
    ) {
        let (mut client, mut server) = connected(cipher);
        let mut records = Vec::new();
        let mut sent = Vec::new();
        for (number, len) in lengths.into_iter().enumerate() {
            let message = vec![u8::try_from(number).unwrap(); len];
            records.extend(send(&mut client, &message));
            sent.extend(message);
        }
        let mut rest = &records[..];
        let mut read = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, after) = rest.split_at((*cut).min(rest.len()));
            read.extend(receive(&mut server, part).unwrap());
            rest = after;
        }
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn garbage_never_panics(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        is_established in any::<bool>(),
    ) {
        let mut session = if is_established {
            connected("TLS_AES_128_GCM_SHA256").1
        } else {
            Session::server(&server_setup("TLS_AES_128_GCM_SHA256", &[b"h2"]))
        };
        if let Ok(plaintext) = receive(&mut session, &garbage) {
            prop_assert!(plaintext.is_empty());
        }
    }
}
