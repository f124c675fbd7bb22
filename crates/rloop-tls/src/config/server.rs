//! The configuration of servers.

use super::identity::{ByServerName, Identities, ServerPattern};
use super::{IdentityPem, Refused, Settings, VerifyMode};
use crate::error::TlsError;
use crate::session::{Negotiated, alert};
use crate::verify::ClientVerifier;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, ClientHello, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// What was asked of a server's context.
#[derive(Clone, Default)]
pub struct ServerSettings {
    /// What both sides have.
    pub common: Settings,
    /// The order of our ciphers decides, not that of the client's.
    pub prefer_own_ciphers: bool,
    /// Sessions are kept by the clients, as tickets that only this configuration can read.
    pub tickets: bool,
    /// How many tickets a TLS 1.3 client gets.
    pub ticket_count: usize,
    /// Certificates for names that clients ask for, `*.example.org` included, first match first.
    pub named: Vec<(String, Vec<IdentityPem>)>,
}

/// A server's configuration, shared by its connections.
pub struct ServerSetup {
    config: Arc<ServerConfig>,
    /// For clients that offer no application protocol of ours: OpenSSL goes on without one, and
    /// rustls would end the connection.
    without_alpn: Option<Arc<ServerConfig>>,
    has_tls13: bool,
    verify: VerifyMode,
    /// None if clients are not asked for certificates.
    verifier: Option<Arc<ClientVerifier>>,
}

impl ServerSetup {
    /// Makes a configuration that does exactly what was asked.
    ///
    /// # Errors
    /// The reason why rustls cannot.
    pub fn new(settings: &ServerSettings) -> Result<Self, Refused> {
        let common = &settings.common;
        let provider = common.provider()?;
        let algorithms = provider.signature_verification_algorithms;
        let verifier = match common.verify {
            VerifyMode::None => None,
            mode => Some(Arc::new(ClientVerifier {
                trust: common.trust(&provider)?,
                is_mandatory: mode == VerifyMode::Required,
                algorithms,
            })),
        };
        let deciding: Arc<dyn ClientCertVerifier> = match &verifier {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(verifier) => Arc::<ClientVerifier>::clone(verifier),
        };
        let default = common.identities(&provider)?;
        if default.is_empty() {
            return Err(Refused::new("the server has no certificate"));
        }
        let named = settings
            .named
            .iter()
            .map(|(pattern, identities)| {
                let identities = Identities::new(identities, &provider)?;
                Ok((ServerPattern::new(pattern), identities))
            })
            .collect::<Result<_, Refused>>()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&common.versions()?)?
            .with_client_cert_verifier(deciding)
            .with_cert_resolver(Arc::new(ByServerName { default, named }));
        config.enable_secret_extraction = true;
        config.ignore_client_order = settings.prefer_own_ciphers;
        config.send_tls13_tickets = settings.ticket_count;
        if settings.tickets {
            config.ticketer = Ticketer::new()?;
        }
        if let Some(key_log) = &common.key_log {
            config.key_log = Arc::clone(key_log);
        }
        let without_alpn = (!common.alpn.is_empty()).then(|| Arc::new(config.clone()));
        config.alpn_protocols.clone_from(&common.alpn);
        Ok(Self {
            config: Arc::new(config),
            without_alpn,
            has_tls13: common.tls13,
            verify: common.verify,
            verifier,
        })
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Whether a client's certificate is asked for.
    #[must_use]
    pub fn verify_mode(&self) -> VerifyMode {
        self.verify
    }

    /// The path from the client's certificate to a trusted one; none if nothing was checked.
    #[must_use]
    pub fn verified_chain(&self, negotiated: &Negotiated) -> Vec<CertificateDer<'static>> {
        let verifier = self.verifier.as_ref().filter(|_| !negotiated.is_resumed());
        verifier.map_or_else(Vec::new, |verifier| {
            verifier.path(negotiated.peer_chain(), negotiated.finished_at())
        })
    }

    pub(crate) fn has_tls13(&self) -> bool {
        self.has_tls13
    }

    /// True if the configuration is chosen by what the client offers.
    pub(crate) fn depends_on_client(&self) -> bool {
        self.without_alpn.is_some()
    }

    /// Chooses when the client's offer is complete. `input` is what was received since the last call.
    pub(crate) fn choose(
        &self,
        acceptor: &mut Acceptor,
        mut input: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<Option<Arc<ServerConfig>>, TlsError> {
        loop {
            // Reads as much as the acceptor takes at once; nothing in here can fail to be read, but
            // an offer may be too long.
            let taken = acceptor
                .read_tls(&mut input)
                .map_err(|error| TlsError::from(rustls::Error::General(error.to_string())))?;
            match acceptor.accept() {
                Ok(None) if taken > 0 && !input.is_empty() => {}
                Ok(None) => return Ok(None),
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let chosen = if self.shares_protocol(&hello) {
                        &self.config
                    } else {
                        self.without_alpn.as_ref().unwrap_or(&self.config)
                    };
                    return Ok(Some(Arc::clone(chosen)));
                }
                Err((error, mut said)) => {
                    let start = outgoing.len();
                    // Writing to a Vec cannot fail.
                    let _written = said.write_all(outgoing);
                    alert::complete(&error, start, outgoing);
                    return Err(error.into());
                }
            }
        }
    }

    fn shares_protocol(&self, hello: &ClientHello<'_>) -> bool {
        hello.alpn().is_none_or(|mut offered| {
            offered.any(|protocol| self.config.alpn_protocols.iter().any(|own| own == protocol))
        })
    }
}
