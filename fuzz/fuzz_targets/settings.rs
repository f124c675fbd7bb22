//! Whatever is in a file of certificates, reading it ends and does not panic, and trust can be built
//! of what was read.
#![no_main]

use rloop_tls::config::{ClientSettings, ClientSetup, Settings, VerifyMode, read_certificates};
use rloop_tls::verify::{RevocationCheck, TrustOptions};

libfuzzer_sys::fuzz_target!(|content: &[u8]| {
    let Ok(found) = read_certificates(content) else { return };
    let common = Settings {
        tls13: true,
        ciphers: vec!["TLS_AES_128_GCM_SHA256".into()],
        trusted: found.certificates,
        crls: found.crls,
        trust: TrustOptions {
            partial_chain: true,
            strict: true,
            revocation: RevocationCheck::Chain,
        },
        verify: VerifyMode::Required,
        ..Settings::default()
    };
    let _setup = ClientSetup::new(&ClientSettings { common, ..ClientSettings::default() });
});
