//! Directories of trusted certificates, which OpenSSL finds by the hashes of their subjects.
//!
//! A directory is looked up when a peer's certificate is checked, so that a certificate that was added
//! or removed counts for the next connection. OpenSSL keeps what it has found; here nothing is kept.

use crate::certificate::{Certificate, canonical, name_hash};
use crate::config::read_chain;
use rustls_pki_types::CertificateDer;
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

/// How many names are looked up for one chain: more than a path that webpki accepts can have.
const MOST_NAMES: usize = 16;

/// Directories, in the order in which they are looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folders(Vec<PathBuf>);

impl Folders {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self(paths)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The certificates that may continue a path from `leaf`, with those sent along, to a trusted one.
    /// Names for which `is_known` holds are not looked up.
    pub(super) fn find_issuers(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        is_known: impl Fn(&[u8]) -> bool,
    ) -> Vec<CertificateDer<'static>> {
        let mut found: Vec<CertificateDer<'static>> = Vec::new();
        if self.is_empty() {
            return found;
        }
        let mut names = Vec::new();
        if let Some(parsed) = Certificate::parse(leaf) {
            // It may be trusted itself.
            names.extend([parsed.subject.to_vec(), parsed.issuer.to_vec()]);
        }
        names.extend(sent.iter().filter_map(issuer_of));
        let mut looked_up = HashSet::new();
        while let Some(name) = names.pop() {
            if looked_up.len() == MOST_NAMES {
                break;
            }
            if is_known(&name) || looked_up.contains(&name) {
                continue;
            }
            let certificates = self.find(&name);
            names.extend(certificates.iter().filter_map(issuer_of));
            found.extend(certificates);
            looked_up.insert(name);
        }
        found
    }

    /// The certificates with this subject, given as the content of its SEQUENCE.
    pub(crate) fn find(&self, subject: &[u8]) -> Vec<CertificateDer<'static>> {
        let Some(wanted) = canonical(subject) else { return Vec::new() };
        let hash = name_hash(&wanted);
        let has_subject = |der: &CertificateDer<'_>| {
            Certificate::parse(der)
                .and_then(|parsed| canonical(parsed.subject))
                .is_some_and(|subject| subject == wanted)
        };
        let mut found = Vec::new();
        for folder in &self.0 {
            // Like OpenSSL, this ends at the first number without a file that can be read, and that has
            // a certificate in PEM.
            for number in 0_u32.. {
                let Ok(content) = fs::read(folder.join(format!("{hash:08x}.{number}"))) else {
                    break;
                };
                let read = read_chain(&content).unwrap_or_default();
                if read.is_empty() {
                    break;
                }
                found.extend(read.into_iter().filter(has_subject));
            }
        }
        found
    }
}

fn issuer_of(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Certificate::parse(der).map(|parsed| parsed.issuer.to_vec())
}
