//! Trusted certificates, sorted by what a path may use them for.

use super::folder::Folders;
use crate::certificate::Certificate;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::borrow::Cow;
use std::collections::HashSet;
use webpki::VerifiedPath;

/// Certificates that were given, and directories in which more are found.
#[derive(Clone)]
pub(super) struct Store {
    /// A path may end at any of them, not just at one that signed itself.
    partial_chain: bool,
    /// One for each of `anchors`, at the same index.
    webpki_anchors: Vec<TrustAnchor<'static>>,
    /// The certificates at which a path may end.
    anchors: Vec<CertificateDer<'static>>,
    /// Those at which no path may end, but through which one may go.
    intermediates: Vec<CertificateDer<'static>>,
    trusted: HashSet<CertificateDer<'static>>,
    /// The subjects of the trusted ones. Empty without directories.
    subjects: HashSet<Vec<u8>>,
    folders: Folders,
}

impl Store {
    /// What cannot be read is trusted for nothing.
    pub(super) fn new(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
        folders: Folders,
        partial_chain: bool,
    ) -> Self {
        let mut store = Self {
            partial_chain,
            webpki_anchors: Vec::new(),
            anchors: Vec::new(),
            intermediates: Vec::new(),
            trusted: HashSet::new(),
            subjects: HashSet::new(),
            folders,
        };
        for certificate in certificates {
            store.add(certificate);
        }
        store
    }

    fn add(&mut self, certificate: CertificateDer<'static>) {
        let Some(parsed) = Certificate::parse(&certificate) else { return };
        let is_end = self.partial_chain || parsed.is_self_signed();
        if !self.trusted.insert(certificate.clone()) {
            return;
        }
        if !self.folders.is_empty() {
            self.subjects.insert(parsed.subject.to_vec());
        }
        if !is_end {
            self.intermediates.push(certificate);
        } else if let Ok(anchor) = webpki::anchor_from_trusted_cert(&certificate) {
            self.webpki_anchors.push(anchor.to_owned());
            self.anchors.push(certificate);
        }
    }

    /// This store, with what the directories have for a chain. Like OpenSSL, this looks up no subject
    /// of a certificate that was given.
    pub(super) fn for_chain(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
    ) -> Cow<'_, Self> {
        let found = self.folders.find_issuers(leaf, sent, |name| self.subjects.contains(name));
        if found.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut store = self.clone();
        for certificate in found {
            store.add(certificate);
        }
        Cow::Owned(store)
    }

    pub(super) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.trusted.contains(certificate)
    }

    pub(super) fn webpki_anchors(&self) -> &[TrustAnchor<'static>] {
        &self.webpki_anchors
    }

    pub(super) fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// The certificate at which a path ends that was built with [`Self::webpki_anchors`].
    pub(super) fn anchor_of(&self, path: &VerifiedPath<'_>) -> Option<CertificateDer<'static>> {
        let is_end = |anchor: &TrustAnchor<'_>| std::ptr::eq(anchor, path.anchor());
        let index = self.webpki_anchors.iter().position(is_end)?;
        Some(self.anchors[index].clone())
    }
}
