//! From what a user asked for to a rustls configuration, or to the reason why there is none.
//!
//! The extension module records the settings of an `ssl.SSLContext` in [`Settings`]. The rule: **never
//! weaker than asked**. What rustls cannot honour entirely is a [`Refused`], and the context is then
//! OpenSSL's. What it honours by being stricter is listed in docs/tls.md.

mod client;
mod identity;
mod pem;
mod server;

use crate::certificate::Certificate;
use crate::session::cipher_name;
use crate::verify::{Folders, Trust, TrustOptions};
pub use client::{ClientSettings, ClientSetup};
use identity::Identities;
pub(crate) use pem::read_chain;
pub use pem::{Certificates, read_certificates};
pub use rustls::KeyLog;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{NamedGroup, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
pub use server::{ServerSettings, ServerSetup};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Why rustls does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(Box<str>);

impl Refused {
    /// A refusal for this reason.
    #[must_use]
    pub fn new(reason: impl Into<Box<str>>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl From<rustls::Error> for Refused {
    fn from(error: rustls::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Whether the peer's certificate is asked for and checked: `SSLContext.verify_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyMode {
    /// `ssl.CERT_NONE`
    #[default]
    None,
    /// `ssl.CERT_OPTIONAL`
    Optional,
    /// `ssl.CERT_REQUIRED`
    Required,
}

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub struct IdentityPem {
    /// The certificate, then those that lead to a root.
    pub chain: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

/// What was asked of a context, as far as both sides have it.
#[derive(Clone, Default)]
pub struct Settings {
    /// TLS 1.2 may be negotiated.
    pub tls12: bool,
    /// TLS 1.3 may be negotiated.
    pub tls13: bool,
    /// The permitted ciphers by OpenSSL's names, best first.
    pub ciphers: Vec<String>,
    /// The permitted key exchange groups by OpenSSL's names; `None` for the default.
    pub groups: Option<Vec<String>>,
    /// The hybrid key exchange with ML-KEM is preferred, as OpenSSL does from 3.5 on.
    pub prefer_post_quantum: bool,
    /// The application protocols, best first.
    pub alpn: Vec<Vec<u8>>,
    /// Own certificates; of those with keys of one kind, the last one counts.
    pub identities: Vec<IdentityPem>,
    /// Trusted certificates.
    pub trusted: Vec<CertificateDer<'static>>,
    /// Directories of further ones, under OpenSSL's hashed names.
    pub folders: Vec<PathBuf>,
    /// Certificate revocation lists.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// How these two are used.
    pub trust: TrustOptions,
    /// Whether they are used at all.
    pub verify: VerifyMode,
    /// Where the secrets of connections are logged to.
    pub key_log: Option<Arc<dyn KeyLog>>,
}

impl Settings {
    /// How many of `certificates` are not trusted by themselves, and are found in a directory.
    #[must_use]
    pub fn count_found(&self, certificates: &[CertificateDer<'_>]) -> usize {
        let folders = Folders::new(self.folders.clone());
        let is_found = |der: &&CertificateDer<'_>| {
            !self.trusted.contains(der)
                && Certificate::parse(der)
                    .is_some_and(|parsed| folders.find(parsed.subject).contains(der))
        };
        certificates.iter().filter(is_found).count()
    }

    fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>, Refused> {
        let mut versions = Vec::new();
        if self.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if self.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        if versions.is_empty() {
            return Err(Refused::new("no version of TLS is enabled"));
        }
        Ok(versions)
    }

    fn provider(&self) -> Result<Arc<CryptoProvider>, Refused> {
        let mut provider = aws_lc_rs::default_provider();
        let all = std::mem::take(&mut provider.cipher_suites);
        provider.cipher_suites = self
            .ciphers
            .iter()
            .filter_map(|name| {
                all.iter().copied().find(|suite| cipher_name(suite.suite()) == Some(name.as_str()))
            })
            .collect();
        for (is_enabled, version) in
            [(self.tls12, &rustls::version::TLS12), (self.tls13, &rustls::version::TLS13)]
        {
            let has_suite = provider.cipher_suites.iter().any(|suite| suite.version() == version);
            if is_enabled && !has_suite {
                return Err(Refused::new(format!(
                    "rustls has none of the permitted ciphers for {:?}",
                    version.version
                )));
            }
        }
        provider.kx_groups = self.groups()?;
        Ok(Arc::new(provider))
    }

    fn groups(&self) -> Result<Vec<&'static dyn SupportedKxGroup>, Refused> {
        let all = aws_lc_rs::ALL_KX_GROUPS;
        let find = |wanted: NamedGroup| all.iter().copied().find(|group| group.name() == wanted);
        let classic = [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1];
        let wanted: Vec<NamedGroup> = match &self.groups {
            Some(names) => names
                .iter()
                .map(|name| {
                    group_of(name)
                        .ok_or_else(|| Refused::new(format!("rustls has no key exchange {name}")))
                })
                .collect::<Result<_, _>>()?,
            None if self.prefer_post_quantum => {
                std::iter::once(NamedGroup::X25519MLKEM768).chain(classic).collect()
            }
            None => classic.into_iter().chain([NamedGroup::X25519MLKEM768]).collect(),
        };
        Ok(wanted.into_iter().filter_map(find).collect())
    }

    fn trust(&self, provider: &CryptoProvider) -> Result<Trust, Refused> {
        Trust::new(
            self.trusted.iter().cloned(),
            Folders::new(self.folders.clone()),
            &self.crls,
            self.trust,
            provider.signature_verification_algorithms,
        )
        .map_err(Refused::new)
    }

    fn identities(&self, provider: &CryptoProvider) -> Result<Identities, Refused> {
        Identities::new(&self.identities, provider)
    }
}

/// The group that OpenSSL calls by one of these names.
fn group_of(name: &str) -> Option<NamedGroup> {
    Some(match name.to_ascii_lowercase().as_str() {
        "x25519" => NamedGroup::X25519,
        "prime256v1" | "secp256r1" | "p-256" => NamedGroup::secp256r1,
        "secp384r1" | "p-384" => NamedGroup::secp384r1,
        "x25519mlkem768" => NamedGroup::X25519MLKEM768,
        _ => return None,
    })
}
