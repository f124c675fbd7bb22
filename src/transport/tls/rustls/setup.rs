//! `RustlsSetup`: what was recorded of a context, as a configuration for connections.
//!
//! `rloop.tls` makes one when a context is first used on either side, and again after it changed.

use crate::runtime::key_log::KeyLogFile;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rloop_tls::config::{
    ClientSettings, ClientSetup, IdentityPem, Refused, ServerSettings, ServerSetup, Settings,
    VerifyMode, read_certificates,
};
use rloop_tls::pki_types::{CertificateDer, ServerName};
use rloop_tls::session::{Negotiated, Session};
use rloop_tls::verify::{RevocationCheck, TrustOptions};
use std::collections::HashSet;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;

/// A chain and a key, in PEM.
type Identity = (Vec<u8>, Vec<u8>);

/// What `rloop.tls` has recorded. The names are those of the dictionary's keys.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings, as the ssl module has them"
)]
struct Recorded {
    tls12: bool,
    tls13: bool,
    ciphers: Vec<String>,
    groups: Option<Vec<String>>,
    prefer_post_quantum: bool,
    alpn: Vec<Vec<u8>>,
    identities: Vec<Identity>,
    trusted: Vec<Vec<u8>>,
    folders: Vec<PathBuf>,
    /// How many certificates and revocation lists OpenSSL has; `None` if nothing is verified.
    stored: Option<(usize, usize)>,
    /// The authorities' certificates that OpenSSL has, if there are directories.
    stored_authorities: Vec<Vec<u8>>,
    verify_mode: u8,
    verify_flags: u64,
    key_log: Option<PathBuf>,
    check_hostname: bool,
    resume: bool,
    prefer_own_ciphers: bool,
    tickets: bool,
    ticket_count: usize,
    named: Vec<(String, Vec<Identity>)>,
}

/// Bits of `SSLContext.verify_flags`.
mod verify_flag {
    pub(super) const CRL_CHECK_LEAF: u64 = 0x4;
    pub(super) const CRL_CHECK_CHAIN: u64 = 0x8;
    pub(super) const X509_STRICT: u64 = 0x20;
    pub(super) const TRUSTED_FIRST: u64 = 0x8000;
    pub(super) const PARTIAL_CHAIN: u64 = 0x8_0000;
}

impl Recorded {
    fn settings(&self) -> Result<Settings, Refused> {
        let mut settings = Settings {
            tls12: self.tls12,
            tls13: self.tls13,
            ciphers: self.ciphers.clone(),
            groups: self.groups.clone(),
            prefer_post_quantum: self.prefer_post_quantum,
            alpn: self.alpn.clone(),
            identities: identities(&self.identities),
            trust: trust_options(self.verify_flags)?,
            verify: match self.verify_mode {
                0 => VerifyMode::None,
                1 => VerifyMode::Optional,
                _ => VerifyMode::Required,
            },
            folders: self.folders.clone(),
            ..Settings::default()
        };
        for content in &self.trusted {
            let mut found = read_certificates(content)?;
            settings.trusted.append(&mut found.certificates);
            settings.crls.append(&mut found.crls);
        }
        self.check_store(&settings)?;
        if let Some(path) = &self.key_log {
            let file = KeyLogFile::open(path)
                .map_err(|error| Refused::new(format!("the key log cannot be opened: {error}")))?;
            settings.key_log = Some(Arc::new(file));
        }
        Ok(settings)
    }

    /// Checks that OpenSSL has the certificates and lists that rustls is given, besides those that it
    /// has found in a directory.
    fn check_store(&self, settings: &Settings) -> Result<(), Refused> {
        let Some((certificates, crls)) = self.stored else { return Ok(()) };
        let further = certificates.checked_sub(distinct(&settings.trusted));
        let is_same = match further {
            _ if crls != distinct(&settings.crls) => false,
            None => false,
            Some(0) => true,
            Some(further) => {
                let authorities: Vec<_> =
                    self.stored_authorities.iter().map(|der| der.as_slice().into()).collect();
                settings.count_found(&authorities) == further
            }
        };
        if is_same {
            return Ok(());
        }
        Err(Refused::new("trusted certificates that its own methods have not loaded"))
    }
}

/// How many of them OpenSSL stores, which keeps one of each.
fn distinct<T: Eq + Hash>(items: &[T]) -> usize {
    items.iter().collect::<HashSet<_>>().len()
}

fn identities(recorded: &[Identity]) -> Vec<IdentityPem> {
    recorded
        .iter()
        .map(|(chain, key)| IdentityPem { chain: chain.clone(), key: key.clone() })
        .collect()
}

fn trust_options(flags: u64) -> Result<TrustOptions, Refused> {
    let known = verify_flag::CRL_CHECK_LEAF
        | verify_flag::CRL_CHECK_CHAIN
        | verify_flag::X509_STRICT
        | verify_flag::TRUSTED_FIRST
        | verify_flag::PARTIAL_CHAIN;
    if flags & !known != 0 {
        return Err(Refused::new(format!("verify_flags {:#x}", flags & !known)));
    }
    Ok(TrustOptions {
        partial_chain: flags & verify_flag::PARTIAL_CHAIN != 0,
        strict: flags & verify_flag::X509_STRICT != 0,
        revocation: if flags & verify_flag::CRL_CHECK_CHAIN != 0 {
            RevocationCheck::Chain
        } else if flags & verify_flag::CRL_CHECK_LEAF != 0 {
            RevocationCheck::Leaf
        } else {
            RevocationCheck::Off
        },
    })
}

/// The configuration of one side.
#[derive(Clone)]
pub(super) enum Side {
    Client(Arc<ClientSetup>),
    Server(Arc<ServerSetup>),
}

impl Side {
    pub(super) fn verify_mode(&self) -> VerifyMode {
        match self {
            Self::Client(setup) => setup.verify_mode(),
            Self::Server(setup) => setup.verify_mode(),
        }
    }

    /// The path from the peer's certificate to a trusted one, as far as it was checked.
    pub(super) fn verified_chain(&self, negotiated: &Negotiated) -> Vec<CertificateDer<'static>> {
        match self {
            Self::Client(setup) => setup.verified_chain(negotiated),
            Self::Server(setup) => setup.verified_chain(negotiated),
        }
    }
}

/// A configuration that connections share.
#[pyclass(frozen, module = "rloop._rloop")]
pub(crate) struct RustlsSetup {
    side: Side,
}

impl RustlsSetup {
    pub(super) fn side(&self) -> &Side {
        &self.side
    }

    /// A new connection. `name` is the server's, for a client that has one to ask for.
    ///
    /// # Errors
    /// `ValueError` with the reason why rustls does not take the name.
    pub(super) fn session(&self, name: Option<&str>) -> PyResult<Session> {
        match &self.side {
            Side::Server(setup) => Ok(Session::server(setup)),
            Side::Client(setup) => {
                let name = name.map(parse_name).transpose()?;
                Session::client(setup, name)
                    .map_err(|error| PyValueError::new_err(error.to_string()))
            }
        }
    }
}

/// A name as rustls knows it.
///
/// # Errors
/// `ValueError` for a name that OpenSSL may treat in another way.
fn parse_name(name: &str) -> PyResult<ServerName<'static>> {
    let refused = || PyValueError::new_err(format!("rustls cannot check the name {name:?}"));
    if name.ends_with('.') {
        // OpenSSL compares the dot, rustls drops it.
        return Err(refused());
    }
    ServerName::try_from(name.to_owned()).map_err(|_| refused())
}

#[pymethods]
impl RustlsSetup {
    /// Makes a configuration of what was recorded.
    ///
    /// Raises `ValueError` with the reason if rustls cannot do what was asked.
    #[new]
    fn new(py: Python<'_>, server_side: bool, recorded: &Bound<'_, PyAny>) -> PyResult<Self> {
        let recorded: Recorded = recorded.extract()?;
        py.detach(|| {
            let common = recorded.settings()?;
            let side = if server_side {
                let settings = ServerSettings {
                    common,
                    prefer_own_ciphers: recorded.prefer_own_ciphers,
                    tickets: recorded.tickets,
                    ticket_count: recorded.ticket_count,
                    named: recorded
                        .named
                        .iter()
                        .map(|(pattern, named)| (pattern.clone(), identities(named)))
                        .collect(),
                };
                Side::Server(Arc::new(ServerSetup::new(&settings)?))
            } else {
                let settings = ClientSettings {
                    common,
                    check_hostname: recorded.check_hostname,
                    resume: recorded.resume,
                };
                Side::Client(Arc::new(ClientSetup::new(&settings)?))
            };
            Ok(Self { side })
        })
        .map_err(|refused: Refused| PyValueError::new_err(refused.to_string()))
    }
}
