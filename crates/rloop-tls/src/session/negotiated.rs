//! What a handshake agreed upon, in the names that OpenSSL and the `ssl` module use.

use crate::certificate;
use rustls::crypto::SupportedKxGroup;
use rustls::{CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion};
use rustls_pki_types::{CertificateDer, UnixTime};

/// The outcome of a handshake; it does not change afterwards.
#[derive(Clone, Debug)]
pub struct Negotiated {
    version: ProtocolVersion,
    suite: CipherSuite,
    group: Option<NamedGroup>,
    alpn: Option<Box<[u8]>>,
    peer_chain: Box<[CertificateDer<'static>]>,
    is_resumed: bool,
    finished_at: UnixTime,
}

impl Negotiated {
    /// Reads it from a connection whose handshake is over.
    pub(super) fn of(connection: &CommonState) -> Self {
        // Both are set long before the handshake is over.
        let version = connection.protocol_version().unwrap_or(ProtocolVersion::Unknown(0));
        let suite = connection.negotiated_cipher_suite();
        Self {
            version,
            suite: suite.map_or(CipherSuite::Unknown(0), |suite| suite.suite()),
            group: connection.negotiated_key_exchange_group().map(SupportedKxGroup::name),
            alpn: connection.alpn_protocol().map(Into::into),
            peer_chain: connection
                .peer_certificates()
                .unwrap_or_default()
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            finished_at: UnixTime::now(),
        }
    }

    /// The version, as `SSLObject.version()` gives it.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self.version {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLSv1.3",
        }
    }

    /// The cipher's name, its protocol and its bits, as `SSLObject.cipher()` gives them.
    #[must_use]
    pub fn cipher(&self) -> (&'static str, &'static str, u16) {
        let name = cipher_name(self.suite).unwrap_or("(NONE)");
        let bits = if name.contains("128") { 128 } else { 256 };
        (name, self.version(), bits)
    }

    /// The group of the key exchange, as `SSLObject.group()` gives it from CPython 3.15 on.
    #[must_use]
    pub fn group(&self) -> Option<&'static str> {
        group_name(self.group?)
    }

    /// The application protocol both sides have chosen.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// The certificates that the peer presented, its own first.
    #[must_use]
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        &self.peer_chain
    }

    /// True if this handshake took up an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// When the handshake was over.
    #[must_use]
    pub fn finished_at(&self) -> UnixTime {
        self.finished_at
    }

    /// The channel binding `tls-server-end-point` (RFC 5929) over the server's certificate.
    #[must_use]
    pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
        certificate::end_point_digest(certificate)
    }
}

/// OpenSSL's name of a key exchange group that rustls has.
fn group_name(group: NamedGroup) -> Option<&'static str> {
    Some(match group {
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => return None,
    })
}

/// OpenSSL's name of a cipher suite that rustls has.
#[must_use]
pub fn cipher_name(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}
