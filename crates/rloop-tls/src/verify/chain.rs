//! Paths from a peer's certificate to a trusted one.

use super::failure::VerifyFailure;
use super::folder::Folders;
use super::rules::{self, Purpose};
use super::store::Store;
use super::strict;
use crate::certificate::{Certificate, extension, seconds_since_epoch};
use crate::der::{Reader, Value, tag};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use std::cell::Cell;
use std::cmp::Reverse;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

/// Which certificates of a path are looked up in the revocation lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevocationCheck {
    /// None: the lists are not used.
    #[default]
    Off,
    /// The peer's own (`ssl.VERIFY_CRL_CHECK_LEAF`).
    Leaf,
    /// All (`ssl.VERIFY_CRL_CHECK_CHAIN`).
    Chain,
}

/// How trusted certificates are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrustOptions {
    /// A path may end at any trusted certificate, not just at one that signed itself
    /// (`ssl.VERIFY_X509_PARTIAL_CHAIN`).
    pub partial_chain: bool,
    /// `ssl.VERIFY_X509_STRICT`
    pub strict: bool,
    /// Use of the revocation lists.
    pub revocation: RevocationCheck,
}

/// A revocation list, and from when on it is valid, in seconds since 1970.
struct Crl {
    list: CertRevocationList<'static>,
    this_update: i64,
}

/// What a peer's certificate is checked against.
pub struct Trust {
    options: TrustOptions,
    store: Store,
    crls: Vec<Crl>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// # Errors
    /// A reason if a revocation list cannot be used, because a certificate on it would else be
    /// accepted.
    pub(crate) fn new(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
        folders: Folders,
        crls: &[CertificateRevocationListDer<'_>],
        options: TrustOptions,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, String> {
        let mut found = Vec::new();
        if options.revocation != RevocationCheck::Off {
            found = crls.iter().map(read_crl).collect::<Result<_, _>>()?;
            // webpki takes the first list of an issuer, and OpenSSL the newest.
            found.sort_by_key(|crl| Reverse(crl.this_update));
        }
        let store = Store::new(certificates, folders, options.partial_chain);
        Ok(Self { options, store, crls: found, algorithms })
    }

    /// Checks the certificate that a peer presented, with those that it sent along; returns the path
    /// from it to a trusted one.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, VerifyFailure> {
        let store = self.store.for_chain(leaf, sent);
        if store.contains(leaf)
            && let Some(outcome) = self.check_trusted_leaf(leaf, purpose, now)
        {
            return outcome.map(|()| vec![leaf.clone().into_owned()]);
        }
        let end = EndEntityCert::try_from(leaf).map_err(|error| VerifyFailure::from(&error))?;
        let usage = match purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        };
        let intermediates: Vec<_> = sent.iter().chain(store.intermediates()).cloned().collect();
        let crls = self.crls_at(now);
        let revocation = match self.options.revocation {
            RevocationCheck::Off => None,
            depth => Some(
                // Without lists, which is the only reason to fail, the status cannot be known.
                RevocationOptionsBuilder::new(&crls)
                    .map_err(|_| VerifyFailure::UNABLE_TO_GET_CRL)?
                    .with_depth(match depth {
                        RevocationCheck::Leaf => RevocationCheckDepth::EndEntity,
                        _ => RevocationCheckDepth::Chain,
                    })
                    .with_status_policy(UnknownStatusPolicy::Deny)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build(),
            ),
        };
        let refused = Cell::new(None);
        let check_path = |path: &VerifiedPath<'_>| {
            self.check_path(&store, path, purpose, now).map_err(|failure| {
                refused.set(Some(failure));
                webpki::Error::UnknownIssuer
            })
        };
        let path = end.verify_for_usage(
            self.algorithms.all,
            store.webpki_anchors(),
            &intermediates,
            now,
            usage,
            revocation,
            Some(&check_path),
        );
        path.map_err(|error| match (error, refused.get()) {
            (webpki::Error::UnknownIssuer, Some(failure)) => failure,
            (webpki::Error::UnknownIssuer, None) => unknown_issuer(leaf, sent),
            (error, _) => VerifyFailure::from(&error),
        })
        .and_then(|path| certificates_of(&store, &path))
    }

    /// What OpenSSL checks of a path that webpki accepts.
    fn check_path(
        &self,
        store: &Store,
        path: &VerifiedPath<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), VerifyFailure> {
        let ders = certificates_of(store, path)?;
        let certificates = ders
            .iter()
            .map(|der| Certificate::parse(der))
            .collect::<Option<Vec<_>>>()
            .ok_or(VerifyFailure::INVALID_EXTENSION)?;
        let [leaf, authorities @ ..] = certificates.as_slice() else {
            return Err(VerifyFailure::UNSPECIFIED);
        };
        rules::check_end(leaf, purpose)?;
        let mut below = 0;
        for authority in authorities {
            rules::check_authority(authority, purpose, below)?;
            below += usize::from(!authority.is_self_issued());
        }
        if self.options.strict {
            strict::check_path(&certificates.iter().collect::<Vec<_>>())?;
        }
        // webpki has checked the time of the others.
        if let Some(anchor) = authorities.last() {
            rules::check_time(anchor, now.as_secs())?;
            self.check_anchor_revocation(anchor)?;
        }
        Ok(())
    }

    /// OpenSSL looks up the last certificate of a path too when it checks them all.
    fn check_anchor_revocation(&self, anchor: &Certificate<'_>) -> Result<(), VerifyFailure> {
        if self.options.revocation != RevocationCheck::Chain {
            return Ok(());
        }
        let is_revoked = self
            .crls
            .iter()
            .filter(|crl| crl.list.issuer() == anchor.issuer)
            .any(|crl| !matches!(crl.list.find_serial(anchor.serial_number), Ok(None)));
        if is_revoked { Err(VerifyFailure::CERT_REVOKED) } else { Ok(()) }
    }

    /// A trusted certificate that is presented itself needs no other to vouch for it. `None` if it is
    /// not trusted in that way.
    fn check_trusted_leaf(
        &self,
        leaf: &CertificateDer<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Option<Result<(), VerifyFailure>> {
        let parsed = Certificate::parse(leaf)?;
        if !self.options.partial_chain && !parsed.is_self_signed() {
            return None;
        }
        if self.options.revocation != RevocationCheck::Off {
            // It would have to be on, or off, a list of its own.
            return Some(Err(VerifyFailure::UNABLE_TO_GET_CRL));
        }
        // Refuses what webpki cannot read, such as an unknown critical extension.
        let readable = EndEntityCert::try_from(leaf).map_err(|error| VerifyFailure::from(&error));
        Some(readable.and_then(|_| {
            rules::check_end(&parsed, purpose)?;
            rules::check_time(&parsed, now.as_secs())
        }))
    }

    /// The lists that are valid already.
    fn crls_at(&self, now: UnixTime) -> Vec<&CertRevocationList<'static>> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.crls.iter().filter(|crl| crl.this_update <= now).map(|crl| &crl.list).collect()
    }
}

/// The certificates of a path, the peer's own first, the trusted one last.
fn certificates_of(
    store: &Store,
    path: &VerifiedPath<'_>,
) -> Result<Vec<CertificateDer<'static>>, VerifyFailure> {
    let anchor = store.anchor_of(path).ok_or(VerifyFailure::UNSPECIFIED)?;
    let mut found = vec![path.end_entity().der().into_owned()];
    found.extend(path.intermediate_certificates().map(|one| one.der().into_owned()));
    found.push(anchor);
    Ok(found)
}

/// Checks that a certificate is for `name`.
pub(super) fn check_name(
    leaf: &CertificateDer<'_>,
    name: &ServerName<'_>,
) -> Result<(), VerifyFailure> {
    let is_valid = EndEntityCert::try_from(leaf)
        .and_then(|end| end.verify_is_valid_for_subject_name(name))
        .is_ok();
    let failure = match name {
        ServerName::IpAddress(_) => VerifyFailure::IP_ADDRESS_MISMATCH,
        _ => VerifyFailure::HOSTNAME_MISMATCH,
    };
    // OpenSSL's wildcards stand for letters, digits and hyphens, and are followed by nothing else.
    // webpki permits underscores.
    let is_openssl_stricter = match name {
        ServerName::DnsName(name) => {
            name.as_ref().contains('_') && !is_named_literally(leaf, name.as_ref())
        }
        _ => false,
    };
    if is_valid && !is_openssl_stricter { Ok(()) } else { Err(failure) }
}

/// Whether a certificate bears `name` without a wildcard.
fn is_named_literally(leaf: &CertificateDer<'_>, name: &str) -> bool {
    let is_name = |value: Value<'_>| {
        value.tag == tag::context(2) && value.content.eq_ignore_ascii_case(name.as_bytes())
    };
    Certificate::parse(leaf)
        .and_then(|parsed| parsed.extension(extension::SUBJECT_ALTERNATIVE_NAME))
        .and_then(|found| Reader::new(found.value).expect(tag::SEQUENCE))
        .is_some_and(|names| names.inside().any(is_name))
}

/// Tells the ways apart in which a path can fail to reach a trusted certificate.
fn unknown_issuer(leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> VerifyFailure {
    let is_self_issued = |der: &CertificateDer<'_>| {
        Certificate::parse(der).is_some_and(|certificate| certificate.is_self_issued())
    };
    if is_self_issued(leaf) {
        VerifyFailure::DEPTH_ZERO_SELF_SIGNED_CERT
    } else if sent.iter().any(is_self_issued) {
        VerifyFailure::SELF_SIGNED_CERT_IN_CHAIN
    } else {
        VerifyFailure::UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    }
}

fn read_crl(der: &CertificateRevocationListDer<'_>) -> Result<Crl, String> {
    let list = webpki::OwnedCertRevocationList::from_der(der.as_ref())
        .map_err(|error| format!("a certificate revocation list cannot be used: {error}"))?;
    let this_update = this_update(der.as_ref())
        .ok_or("a certificate revocation list cannot be used: it has no date")?;
    Ok(Crl { list: list.into(), this_update })
}

/// When a revocation list begins to be valid.
fn this_update(der: &[u8]) -> Option<i64> {
    let mut signed =
        Reader::new(der).expect(tag::SEQUENCE)?.inside().expect(tag::SEQUENCE)?.inside();
    signed.optional(tag::INTEGER);
    signed.expect(tag::SEQUENCE)?;
    signed.expect(tag::SEQUENCE)?;
    let time = signed.value()?;
    seconds_since_epoch((time.tag, time.content))
}
