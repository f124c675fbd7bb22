//! The configuration of clients.

use super::{Refused, Settings, VerifyMode};
use crate::session::Negotiated;
use crate::verify::{AcceptAnyServer, ServerVerifier};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// What was asked of a client's context.
#[derive(Clone, Default)]
pub struct ClientSettings {
    /// What both sides have.
    pub common: Settings,
    /// The server's certificate must be for the name that was connected to.
    pub check_hostname: bool,
    /// Sessions are taken up again where the server allows it.
    pub resume: bool,
}

/// A client's configuration, shared by its connections.
pub struct ClientSetup {
    config: Arc<ClientConfig>,
    /// For connections without a server name, by which sessions are kept: it keeps none.
    nameless: Arc<ClientConfig>,
    verify: VerifyMode,
    /// None if nothing is checked.
    verifier: Option<Arc<ServerVerifier>>,
}

impl ClientSetup {
    /// Makes a configuration that does exactly what was asked.
    ///
    /// # Errors
    /// The reason why rustls cannot.
    pub fn new(settings: &ClientSettings) -> Result<Self, Refused> {
        let common = &settings.common;
        let provider = common.provider()?;
        let algorithms = provider.signature_verification_algorithms;
        let verifier = match common.verify {
            VerifyMode::None => None,
            VerifyMode::Optional | VerifyMode::Required => Some(Arc::new(ServerVerifier {
                trust: common.trust(&provider)?,
                check_hostname: settings.check_hostname,
                algorithms,
            })),
        };
        let deciding: Arc<dyn ServerCertVerifier> = match &verifier {
            None => Arc::new(AcceptAnyServer { algorithms }),
            Some(verifier) => Arc::<ServerVerifier>::clone(verifier),
        };
        let identities = common.identities(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&common.versions()?)?
            .dangerous()
            .with_custom_certificate_verifier(deciding);
        let mut config = if identities.is_empty() {
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_resolver(Arc::new(identities))
        };
        config.alpn_protocols.clone_from(&common.alpn);
        config.enable_secret_extraction = true;
        if let Some(key_log) = &common.key_log {
            config.key_log = Arc::clone(key_log);
        }
        let mut nameless = config.clone();
        nameless.resumption = Resumption::disabled();
        let nameless = Arc::new(nameless);
        let config = if settings.resume { Arc::new(config) } else { Arc::clone(&nameless) };
        Ok(Self { config, nameless, verify: common.verify, verifier })
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn nameless_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.nameless)
    }

    /// Whether the server's certificate is checked.
    #[must_use]
    pub fn verify_mode(&self) -> VerifyMode {
        self.verify
    }

    /// The path from the server's certificate to a trusted one; none if nothing was checked.
    #[must_use]
    pub fn verified_chain(&self, negotiated: &Negotiated) -> Vec<CertificateDer<'static>> {
        let verifier = self.verifier.as_ref().filter(|_| !negotiated.is_resumed());
        verifier.map_or_else(Vec::new, |verifier| {
            verifier.path(negotiated.peer_chain(), negotiated.finished_at())
        })
    }
}
