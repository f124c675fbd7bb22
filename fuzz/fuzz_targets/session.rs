//! Whatever a peer sends, in whatever pieces, a session does not panic and invents no plaintext.
//!
//! The first byte chooses the side, and how much of an honest peer's conversation comes before the
//! input; the rest is sent in pieces whose lengths it gives itself. After the handshake a piece may
//! also be what the peer protects, of any kind: it has the keys, and breaks every other rule.
#![no_main]

use rloop_tls::config::{
    ClientSettings, ClientSetup, IdentityPem, ServerSettings, ServerSetup, Settings, VerifyMode,
    read_certificates,
};
use rloop_tls::pki_types::ServerName;
use rloop_tls::session::Session;
use std::sync::{Arc, LazyLock};

const APPLICATION_DATA: u8 = 23;

const CIPHERS: [&str; 2] = ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"];

struct Setups {
    client: ClientSetup,
    server: Arc<ServerSetup>,
}

static SETUPS: LazyLock<[Setups; 2]> = LazyLock::new(|| [setups(true), setups(false)]);

fn setups(tls13: bool) -> Setups {
    let issued = rcgen::generate_simple_self_signed(["fuzz.example".to_owned()])
        .expect("a certificate can be made");
    let chain = issued.cert.pem().into_bytes();
    let key = issued.signing_key.serialize_pem().into_bytes();
    let common = Settings {
        tls12: !tls13,
        tls13,
        ciphers: CIPHERS.map(Into::into).to_vec(),
        alpn: vec![b"h2".to_vec()],
        identities: vec![IdentityPem { chain: chain.clone(), key }],
        trusted: read_certificates(&chain).expect("the identity is good").certificates,
        verify: VerifyMode::Optional,
        ..Settings::default()
    };
    let client = ClientSettings { common: common.clone(), ..ClientSettings::default() };
    let server = ServerSettings { common, tickets: true, ticket_count: 1, ..Default::default() };
    Setups {
        client: ClientSetup::new(&client).expect("the settings are good"),
        server: Arc::new(ServerSetup::new(&server).expect("the settings are good")),
    }
}

/// Gives a session what a peer sent; returns how much plaintext came of it.
fn receive(session: &mut Session, input: &[u8]) -> usize {
    let mut output = vec![0; session.plaintext_bound(input)];
    session.receive(input, &mut output).plaintext
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&choice, mut input)) = input.split_first() else { return };
    let setups = &SETUPS[usize::from(choice & 1)];
    let name = ServerName::try_from("fuzz.example").ok();
    let mut client = Session::client(&setups.client, name).expect("the setup is good");
    let mut server = Session::server(&setups.server);
    // How many turns of an honest conversation come first.
    for _ in 0..choice >> 2 & 7 {
        receive(&mut server, &std::mem::take(client.outgoing()));
        receive(&mut client, &std::mem::take(server.outgoing()));
    }
    let (session, peer) =
        if choice & 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
    while let Some((&kind, rest)) = input.split_first() {
        let Some((&len, rest)) = rest.split_first() else { return };
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(len)));
        input = rest;
        match peer.seal_anything(kind, piece) {
            Some(record) => {
                let plaintext = receive(session, &record);
                assert!(plaintext == 0 || (kind == APPLICATION_DATA && plaintext == piece.len()));
            }
            None => {
                let plaintext = receive(session, piece);
                assert_eq!(plaintext, 0, "nobody who knows the keys has sent that");
            }
        }
        let answer = std::mem::take(session.outgoing());
        if kind & 0x80 != 0 {
            receive(peer, &answer);
        }
    }
    session.close();
    let _records = std::mem::take(session.outgoing());
});
