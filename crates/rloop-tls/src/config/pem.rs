//! Certificates, revocation lists and keys out of PEM and DER.

use super::Refused;
use crate::certificate::Certificate;
use rustls_pki_types::pem::{Error as PemError, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// What a file of trusted certificates holds.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// The certificates, in order.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The revocation lists, in order.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

/// Reads trusted certificates and revocation lists, in PEM or in DER, as
/// `SSLContext.load_verify_locations` does.
///
/// # Errors
/// If there is something in it that OpenSSL reads and this does not.
pub fn read_certificates(content: &[u8]) -> Result<Certificates, Refused> {
    if !content.windows(MARK.len()).any(|window| window == MARK) {
        return read_der(content);
    }
    let mut found = Certificates::default();
    for section in sections(content)? {
        match section {
            (SectionKind::Certificate, der) => found.certificates.push(der.into()),
            (SectionKind::Crl, der) => found.crls.push(der.into()),
            _ => {}
        }
    }
    Ok(found)
}

/// Certificates in DER, one after another.
fn read_der(mut content: &[u8]) -> Result<Certificates, Refused> {
    let mut found = Certificates::default();
    while !content.is_empty() {
        let len = crate::der::Reader::new(content).value().map(|value| value.encoded.len());
        let Some((der, rest)) = len.map(|len| content.split_at(len)) else {
            return Err(Refused::new("certificates in DER that cannot be read"));
        };
        if Certificate::parse(der).is_none() {
            return Err(Refused::new("certificates in DER that cannot be read"));
        }
        found.certificates.push(CertificateDer::from(der.to_vec()));
        content = rest;
    }
    Ok(found)
}

/// Reads certificates in PEM: of a chain the one that is presented first, then the others.
pub(crate) fn read_chain(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, Refused> {
    Ok(sections(content)?
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| der.into())
        .collect())
}

/// Reads the first private key in PEM.
pub(super) fn read_key(content: &[u8]) -> Result<PrivateKeyDer<'static>, Refused> {
    let is_encrypted = [&b"ENCRYPTED PRIVATE KEY-----"[..], b"Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| content.windows(mark.len()).any(|window| window == *mark));
    if is_encrypted {
        return Err(Refused::new("the private key is encrypted"));
    }
    PrivateKeyDer::from_pem_slice(content)
        .map_err(|error| Refused::new(format!("the private key cannot be read: {error}")))
}

const MARK: &[u8] = b"-----BEGIN ";

/// Other names for a certificate, which OpenSSL reads. The second comes with conditions on its use.
const OTHER_CERTIFICATES: [&[u8]; 2] =
    [b"-----BEGIN X509 CERTIFICATE-----", b"-----BEGIN TRUSTED CERTIFICATE-----"];

fn sections(content: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, Refused> {
    for mark in OTHER_CERTIFICATES {
        if content.windows(mark.len()).any(|window| window == mark) {
            return Err(Refused::new("a certificate in OpenSSL's own form"));
        }
    }
    <(SectionKind, Vec<u8>)>::pem_slice_iter(content)
        .collect::<Result<_, PemError>>()
        .map_err(|error| Refused::new(format!("PEM that cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_from_pem_and_der() {
        let issued = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
        let pem = format!("# a comment\n{0}{0}", issued.cert.pem());
        assert_eq!(read_certificates(pem.as_bytes()).unwrap().certificates.len(), 2);
        let der = [&issued.cert.der()[..], issued.cert.der()].concat();
        assert_eq!(read_certificates(&der).unwrap().certificates.len(), 2);
        assert!(read_certificates(&der[1..]).is_err());
    }

    #[test]
    fn certificates_with_conditions_are_refused() {
        let issued = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
        let pem = issued.cert.pem().replace(" CERTIFICATE", " TRUSTED CERTIFICATE");
        assert!(read_certificates(pem.as_bytes()).is_err());
    }

    #[test]
    fn encrypted_keys_are_refused() {
        let key = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let refused = read_key(key).unwrap_err();
        assert_eq!(refused.to_string(), "the private key is encrypted");
    }
}
