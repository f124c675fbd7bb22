//! A server takes an honest client's hello in whatever records and pieces it arrives, whether or not
//! it chooses an application protocol.
//!
//! The first byte chooses the server, the second one how many protocols the client offers, by which
//! its hello grows. The others are the lengths of records and of pieces in turn; 0 is 256 of them.
#![no_main]

use rloop_tls::config::{
    ClientSettings, ClientSetup, IdentityPem, ServerSettings, ServerSetup, Settings,
};
use rloop_tls::pki_types::ServerName;
use rloop_tls::session::Session;
use std::sync::{Arc, LazyLock};

const CIPHERS: [&str; 2] = ["TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"];

const HEADER_LEN: usize = 5;

static SERVERS: LazyLock<[Arc<ServerSetup>; 2]> = LazyLock::new(|| {
    let issued = rcgen::generate_simple_self_signed(["fuzz.example".to_owned()])
        .expect("a certificate can be made");
    let identity = IdentityPem {
        chain: issued.cert.pem().into_bytes(),
        key: issued.signing_key.serialize_pem().into_bytes(),
    };
    [vec![], vec![b"h2".to_vec()]].map(|alpn| {
        let common = Settings { identities: vec![identity.clone()], alpn, ..common() };
        let settings = ServerSettings { common, ..ServerSettings::default() };
        Arc::new(ServerSetup::new(&settings).expect("the settings are good"))
    })
});

fn common() -> Settings {
    Settings {
        tls12: true,
        tls13: true,
        ciphers: CIPHERS.map(Into::into).to_vec(),
        ..Settings::default()
    }
}

/// The handshake message in records that are not encrypted.
fn message_of(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = records {
        let (fragment, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend(fragment);
        records = after;
    }
    message
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [choice, protocols, lengths @ ..] = input else { return };
    let mut alpn: Vec<Vec<u8>> = (0..*protocols).map(|number| vec![number; 200]).collect();
    alpn.push(b"h2".to_vec());
    let settings = ClientSettings { common: Settings { alpn, ..common() }, ..Default::default() };
    let setup = ClientSetup::new(&settings).expect("the settings are good");
    let name = ServerName::try_from("fuzz.example").ok();
    let mut client = Session::client(&setup, name).expect("the setup is good");
    let mut server = Session::server(&SERVERS[usize::from(choice & 1)]);

    let lengths = if lengths.is_empty() { &[0][..] } else { lengths };
    let mut lengths =
        lengths.iter().cycle().map(|len| if *len == 0 { 256 } else { usize::from(*len) });
    let mut next_len = || lengths.next().expect("the lengths repeat");
    let message = message_of(&std::mem::take(client.outgoing()));
    let (mut rest, mut records) = (&message[..], Vec::new());
    while !rest.is_empty() {
        let (fragment, after) = rest.split_at(next_len().min(rest.len()));
        records.extend([22, 3, 1, 0, 0]);
        let header = records.len() - HEADER_LEN;
        let len = u16::try_from(fragment.len()).expect("fragments are short");
        records[header + 3..].copy_from_slice(&len.to_be_bytes());
        records.extend(fragment);
        rest = after;
    }
    let mut rest = &records[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(next_len().min(rest.len()));
        let mut output = vec![0; server.plaintext_bound(piece)];
        server.receive(piece, &mut output).outcome.expect("the client is honest");
        rest = after;
    }
    for _ in 0..2 {
        for (from, to) in [(true, false), (false, true)] {
            let (from, to) = match (from, to) {
                (true, false) => (&mut server, &mut client),
                _ => (&mut client, &mut server),
            };
            let records = std::mem::take(from.outgoing());
            let mut output = vec![0; to.plaintext_bound(&records)];
            to.receive(&records, &mut output).outcome.expect("both sides are honest");
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
});
