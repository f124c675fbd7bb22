//! X.509 certificates, read for what rustls does not tell: the `ssl` module's description of one
//! ([`describe`]), and the facts that OpenSSL's rules of trust ask for ([`crate::verify`]).
//!
//! A certificate comes from the peer, so nothing here panics or trusts a length, and what cannot be
//! read is `None`.

mod canonical;
mod describe;
mod names;
mod time;

use crate::der::{Reader, bits, tag};
pub(crate) use canonical::{canonical, name_hash};
pub use describe::{AlternativeName, Description, Name, describe};
pub(crate) use time::seconds_since_epoch;

/// Object identifiers of extensions, without tag and length.
pub(crate) mod extension {
    pub(crate) const AUTHORITY_INFORMATION: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 1];
    pub(crate) const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 35];
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
    pub(crate) const CRL_DISTRIBUTION_POINTS: &[u8] = &[0x55, 0x1d, 31];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
    pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
    pub(crate) const NETSCAPE_TYPE: &[u8] = &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 1, 1];
    pub(crate) const SUBJECT_ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 17];
    pub(crate) const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 14];
}

/// Bits of the key usage extension.
pub(crate) mod key_usage {
    pub(crate) const DIGITAL_SIGNATURE: u16 = 0x8000;
    pub(crate) const KEY_ENCIPHERMENT: u16 = 0x2000;
    pub(crate) const KEY_AGREEMENT: u16 = 0x0800;
    pub(crate) const KEY_CERT_SIGN: u16 = 0x0400;
    pub(crate) const CRL_SIGN: u16 = 0x0200;
}

/// One extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extension<'a> {
    pub(crate) id: &'a [u8],
    pub(crate) is_critical: bool,
    /// The DER inside the octet string.
    pub(crate) value: &'a [u8],
}

/// The parts of a certificate, as they stand in it.
#[derive(Clone, Debug)]
pub(crate) struct Certificate<'a> {
    /// 1, 2 or 3.
    pub(crate) version: u8,
    /// The content of the INTEGER.
    pub(crate) serial_number: &'a [u8],
    /// Of the part that is signed, tag and length included.
    pub(crate) inner_algorithm: &'a [u8],
    /// Of the signature, tag and length included.
    pub(crate) outer_algorithm: &'a [u8],
    /// The content of the SEQUENCE.
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    /// Tag and content of the two times.
    pub(crate) not_before: (u8, &'a [u8]),
    pub(crate) not_after: (u8, &'a [u8]),
    pub(crate) extensions: Vec<Extension<'a>>,
}

impl<'a> Certificate<'a> {
    /// Takes a certificate apart.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outside = Reader::new(der);
        let mut certificate = outside.expect(tag::SEQUENCE)?.inside();
        if !outside.is_at_end() {
            return None;
        }
        let mut signed = certificate.expect(tag::SEQUENCE)?.inside();
        let outer_algorithm = certificate.expect(tag::SEQUENCE)?.encoded;
        certificate.expect(tag::BIT_STRING)?;
        let version = match signed.optional(tag::context_constructed(0)) {
            None => 1,
            Some(explicit) => match explicit.inside().expect(tag::INTEGER)?.content {
                [number @ 0..=2] => number + 1,
                _ => return None,
            },
        };
        let serial_number = signed.expect(tag::INTEGER)?.content;
        let inner_algorithm = signed.expect(tag::SEQUENCE)?.encoded;
        let issuer = signed.expect(tag::SEQUENCE)?.content;
        let mut validity = signed.expect(tag::SEQUENCE)?.inside();
        let not_before = validity.value().map(|time| (time.tag, time.content))?;
        let not_after = validity.value().map(|time| (time.tag, time.content))?;
        let subject = signed.expect(tag::SEQUENCE)?.content;
        signed.expect(tag::SEQUENCE)?;
        // Unique identifiers: nobody uses them.
        signed.optional(tag::context(1));
        signed.optional(tag::context(2));
        let extensions = match signed.optional(tag::context_constructed(3)) {
            None => Vec::new(),
            Some(explicit) => {
                let list = explicit.inside().expect(tag::SEQUENCE)?.inside();
                list.map(|value| parse_extension(value.inside())).collect::<Option<_>>()?
            }
        };
        Some(Self {
            version,
            serial_number,
            inner_algorithm,
            outer_algorithm,
            issuer,
            subject,
            not_before,
            not_after,
            extensions,
        })
    }

    /// The extension with this identifier.
    pub(crate) fn extension(&self, id: &[u8]) -> Option<Extension<'a>> {
        self.extensions.iter().copied().find(|extension| extension.id == id)
    }

    /// The key usage bits; `None` if there is no such extension, which permits everything, and
    /// nothing at all if it cannot be read.
    pub(crate) fn key_usage(&self) -> Option<u16> {
        let extension = self.extension(extension::KEY_USAGE)?;
        let value = Reader::new(extension.value).expect(tag::BIT_STRING);
        Some(value.and_then(|value| bits(value.content)).unwrap_or(0))
    }

    /// The basic constraints: whether it is an authority, and how many may follow it.
    pub(crate) fn basic_constraints(&self) -> Option<BasicConstraints> {
        let extension = self.extension(extension::BASIC_CONSTRAINTS)?;
        let mut fields = Reader::new(extension.value).expect(tag::SEQUENCE)?.inside();
        let is_authority = fields.optional(tag::BOOLEAN).is_some_and(|value| value.content != [0]);
        let path_len = fields.optional(tag::INTEGER).map(|value| match value.content {
            [len] if *len < 0x80 => usize::from(*len),
            // Longer than any path that is built.
            [0..0x80, ..] => usize::MAX,
            _ => 0,
        });
        Some(BasicConstraints { is_authority, path_len, is_critical: extension.is_critical })
    }

    /// True unless the extended key usage forbids the purpose with this identifier.
    pub(crate) fn permits(&self, purpose: &[u8]) -> bool {
        let Some(extension) = self.extension(extension::EXTENDED_KEY_USAGE) else { return true };
        let Some(list) = Reader::new(extension.value).expect(tag::SEQUENCE) else { return false };
        list.inside().any(|value| value.tag == tag::OID && value.content == purpose)
    }

    /// The content of the subject key identifier.
    pub(crate) fn subject_key(&self) -> Option<&'a [u8]> {
        let extension = self.extension(extension::SUBJECT_KEY)?;
        Some(Reader::new(extension.value).expect(tag::OCTET_STRING)?.content)
    }

    /// The key identifier in the authority key identifier.
    pub(crate) fn authority_key(&self) -> Option<&'a [u8]> {
        let extension = self.extension(extension::AUTHORITY_KEY)?;
        let mut fields = Reader::new(extension.value).expect(tag::SEQUENCE)?.inside();
        Some(fields.expect(tag::context(0))?.content)
    }

    /// True if it names itself as its issuer.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// True if it is self-issued and nothing says that another key signed it.
    pub(crate) fn is_self_signed(&self) -> bool {
        self.is_self_issued()
            && match (self.authority_key(), self.subject_key()) {
                (Some(authority), Some(own)) => authority == own,
                _ => true,
            }
    }
}

/// What the extension of that name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BasicConstraints {
    pub(crate) is_authority: bool,
    pub(crate) path_len: Option<usize>,
    pub(crate) is_critical: bool,
}

fn parse_extension(mut fields: Reader<'_>) -> Option<Extension<'_>> {
    let id = fields.expect(tag::OID)?.content;
    let is_critical = fields.optional(tag::BOOLEAN).is_some_and(|value| value.content != [0]);
    let value = fields.expect(tag::OCTET_STRING)?.content;
    Some(Extension { id, is_critical, value })
}

/// The hash of a certificate that `tls-server-end-point` (RFC 5929, 4.1) is: by the hash function of
/// its signature, SHA-256 in place of weaker ones. `None` if the signature has no single hash.
pub(crate) fn end_point_digest(der: &[u8]) -> Option<Vec<u8>> {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    let certificate = Certificate::parse(der)?;
    let mut algorithm = Reader::new(certificate.outer_algorithm).expect(tag::SEQUENCE)?.inside();
    let function = match algorithm.expect(tag::OID)?.content {
        // md5, sha1 and sha256 with RSA, then sha384 and sha512
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4 | 5 | 11]
        // ecdsa-with-SHA1 and SHA256
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2] => &SHA256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3] => &SHA384,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4] => &SHA512,
        _ => return None,
    };
    Some(digest(function, der).as_ref().to_vec())
}
