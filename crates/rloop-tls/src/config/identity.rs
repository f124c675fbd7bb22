//! Own certificates: which one is presented to whom.

use super::{IdentityPem, Refused, pem};
use rustls::SignatureAlgorithm;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};
use std::sync::Arc;

/// At most one certificate for each kind of key, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Identities(Vec<Arc<CertifiedKey>>);

impl Identities {
    pub(super) fn new(given: &[IdentityPem], provider: &CryptoProvider) -> Result<Self, Refused> {
        let mut identities: Vec<Arc<CertifiedKey>> = Vec::new();
        for identity in given {
            let chain = pem::read_chain(&identity.chain)?;
            let key = pem::read_key(&identity.key)?;
            let key = provider
                .key_provider
                .load_private_key(key)
                .map_err(|error| Refused::new(format!("rustls cannot use the key: {error}")))?;
            let certified = CertifiedKey::new(chain, key);
            match certified.keys_match() {
                Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
                Err(error) => return Err(error.into()),
            }
            let kind = certified.key.algorithm();
            identities.retain(|known| known.key.algorithm() != kind);
            identities.push(Arc::new(certified));
        }
        Ok(Self(identities))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first certificate that suits the peer, which can check these signatures.
    fn choose(
        &self,
        schemes: &[SignatureScheme],
        suits: impl Fn(SignatureAlgorithm) -> bool,
    ) -> Option<Arc<CertifiedKey>> {
        let chosen = self.0.iter().find(|known| {
            suits(known.key.algorithm()) && known.key.choose_scheme(schemes).is_some()
        });
        // If there is none, rustls says what is wrong with the first.
        chosen.or(self.0.first()).cloned()
    }
}

impl ResolvesClientCert for Identities {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.choose(schemes, |_| true)
    }

    fn has_certs(&self) -> bool {
        !self.is_empty()
    }
}

/// The certificates of a server: those for a name that the client asks for, or else the default.
#[derive(Debug)]
pub(super) struct ByServerName {
    pub(super) default: Identities,
    pub(super) named: Vec<(ServerPattern, Identities)>,
}

impl ByServerName {
    fn choose(&self, name: Option<&str>) -> &Identities {
        name.and_then(|name| self.named.iter().find(|(pattern, _)| pattern.matches(name)))
            .map_or(&self.default, |(_, identities)| identities)
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A client of TLS 1.2 may offer ciphers for one kind of key only.
        self.choose(hello.server_name())
            .choose(hello.signature_schemes(), |kind| offers(&hello, kind))
    }
}

/// True if the client offers a cipher that works with this kind of key.
fn offers(hello: &ClientHello<'_>, kind: SignatureAlgorithm) -> bool {
    use rustls::CipherSuite as Suite;
    hello.cipher_suites().iter().any(|suite| match suite {
        Suite::TLS13_AES_128_GCM_SHA256
        | Suite::TLS13_AES_256_GCM_SHA384
        | Suite::TLS13_CHACHA20_POLY1305_SHA256 => true,
        Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => kind == SignatureAlgorithm::RSA,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => kind != SignatureAlgorithm::RSA,
        _ => false,
    })
}

/// A host name, or all names one label below a domain (`*.example.org`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerPattern(Box<str>);

impl ServerPattern {
    pub(super) fn new(pattern: &str) -> Self {
        Self(pattern.to_ascii_lowercase().into())
    }

    fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix("*.") {
            None => self.0.eq_ignore_ascii_case(name),
            Some(domain) => name.split_once('.').is_some_and(|(label, rest)| {
                !label.is_empty() && rest.eq_ignore_ascii_case(domain)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_one_label() {
        let exact = ServerPattern::new("Example.org");
        assert!(exact.matches("example.ORG"));
        assert!(!exact.matches("www.example.org"));
        let wild = ServerPattern::new("*.example.org");
        assert!(wild.matches("www.Example.org"));
        assert!(!wild.matches("example.org"));
        assert!(!wild.matches("a.b.example.org"));
    }
}
