//! The verifiers that rustls calls.

use super::chain::{Trust, check_name};
use super::rules::Purpose;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt;

/// The half of a verifier that is the same for all: the peer owns the key of its certificate.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

/// `ssl.CERT_REQUIRED` (and `CERT_OPTIONAL`, which is the same) of a client.
pub(crate) struct ServerVerifier {
    pub(crate) trust: Trust,
    pub(crate) check_hostname: bool,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// The path that a chain was accepted for at that moment; none if it was not.
    pub(crate) fn path(
        &self,
        chain: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Vec<CertificateDer<'static>> {
        path(&self.trust, chain, Purpose::Server, at)
    }
}

fn path(
    trust: &Trust,
    chain: &[CertificateDer<'_>],
    purpose: Purpose,
    at: UnixTime,
) -> Vec<CertificateDer<'static>> {
    let Some((leaf, sent)) = chain.split_first() else { return Vec::new() };
    trust.check(leaf, sent, purpose, at).unwrap_or_default()
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerVerifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust
            .check(end_entity, intermediates, Purpose::Server, now)
            .and_then(|_path| {
                if self.check_hostname { check_name(end_entity, server_name) } else { Ok(()) }
            })
            .map(|()| ServerCertVerified::assertion())
            .map_err(super::VerifyFailure::report)
    }

    handshake_signatures!();
}

/// `ssl.CERT_NONE` of a client: any certificate will do, but the peer must own its key.
#[derive(Debug)]
pub(crate) struct AcceptAnyServer {
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AcceptAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// `ssl.CERT_OPTIONAL` and `ssl.CERT_REQUIRED` of a server.
pub(crate) struct ClientVerifier {
    pub(crate) trust: Trust,
    pub(crate) is_mandatory: bool,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// The path that a chain was accepted for at that moment; none if it was not.
    pub(crate) fn path(
        &self,
        chain: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Vec<CertificateDer<'static>> {
        path(&self.trust, chain, Purpose::Client, at)
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientVerifier").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // As the ssl module does, which has no call to name them.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust
            .check(end_entity, intermediates, Purpose::Client, now)
            .map(|_path| ClientCertVerified::assertion())
            .map_err(super::VerifyFailure::report)
    }

    handshake_signatures!();
}
