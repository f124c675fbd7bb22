//! A certificate in the shape of `SSLObject.getpeercert()`.
//!
//! The shape, the order and the texts are those of CPython's `_ssl` module on OpenSSL 3: the tests in
//! `tests/tls/test_certificates.py` compare the two.

use super::{Certificate, extension, names, time};
use crate::der::{Reader, Value, dotted, tag};
use std::fmt::Write;

/// A distinguished name: a list of sets of attributes, each a name and a value.
pub type Name = Vec<Vec<(String, String)>>;

/// An entry of the subject's alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// Such as `("DNS", "example.org")`.
    Text(&'static str, String),
    /// `DirName`
    Directory(Name),
}

/// What `getpeercert()` says. An empty list stands for a key that is missing there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the dictionary's keys")]
pub struct Description {
    pub subject: Name,
    pub issuer: Name,
    pub version: u8,
    pub serial_number: String,
    pub not_before: String,
    pub not_after: String,
    pub subject_alt_name: Vec<AlternativeName>,
    pub ocsp: Vec<String>,
    pub ca_issuers: Vec<String>,
    pub crl_distribution_points: Vec<String>,
}

/// Describes a certificate; `None` if it cannot be read.
#[must_use]
pub fn describe(der: &[u8]) -> Option<Description> {
    let certificate = Certificate::parse(der)?;
    let subject_alt_name = certificate
        .extension(extension::SUBJECT_ALTERNATIVE_NAME)
        .and_then(|extension| Reader::new(extension.value).expect(tag::SEQUENCE))
        .map(|list| list.inside().filter_map(alternative_name).collect())
        .unwrap_or_default();
    let (ocsp, ca_issuers) = authority_information(&certificate);
    Some(Description {
        subject: name(Reader::new(certificate.subject)),
        issuer: name(Reader::new(certificate.issuer)),
        version: certificate.version,
        serial_number: serial_number(certificate.serial_number),
        not_before: time::printed(certificate.not_before)
            .unwrap_or_else(|| "Bad time value".into()),
        not_after: time::printed(certificate.not_after).unwrap_or_else(|| "Bad time value".into()),
        subject_alt_name,
        ocsp,
        ca_issuers,
        crl_distribution_points: crl_distribution_points(&certificate),
    })
}

fn name(sets: Reader<'_>) -> Name {
    sets.map(|set| set.inside().filter_map(|pair| attribute(pair.inside())).collect()).collect()
}

fn attribute(mut pair: Reader<'_>) -> Option<(String, String)> {
    let kind = dotted(pair.expect(tag::OID)?.content)?;
    let kind = names::long_name(&kind).map_or(kind, Into::into);
    Some((kind, text(pair.value()?)))
}

/// The text of a string of any of ASN.1's kinds.
fn text(value: Value<'_>) -> String {
    let content = value.content;
    let units = |width: usize| {
        content.chunks(width).map(|unit| {
            let number = unit.iter().fold(0_u32, |number, &byte| number << 8 | u32::from(byte));
            char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
        })
    };
    match value.tag {
        tag::UTF8_STRING => String::from_utf8_lossy(content).into_owned(),
        tag::BMP_STRING => units(2).collect(),
        tag::UNIVERSAL_STRING => units(4).collect(),
        // The others have one byte a character.
        _ => units(1).collect(),
    }
}

fn alternative_name(value: Value<'_>) -> Option<AlternativeName> {
    const EMAIL: u8 = tag::context(1);
    const DNS: u8 = tag::context(2);
    const DIRECTORY: u8 = tag::context_constructed(4);
    const URI: u8 = tag::context(6);
    const ADDRESS: u8 = tag::context(7);
    const REGISTERED: u8 = tag::context(8);
    let plain = || String::from_utf8_lossy(value.content).into_owned();
    Some(match value.tag {
        EMAIL => AlternativeName::Text("email", plain()),
        DNS => AlternativeName::Text("DNS", plain()),
        URI => AlternativeName::Text("URI", plain()),
        ADDRESS => AlternativeName::Text("IP Address", address(value.content)),
        REGISTERED => AlternativeName::Text("Registered ID", dotted(value.content)?),
        DIRECTORY => {
            AlternativeName::Directory(name(value.inside().expect(tag::SEQUENCE)?.inside()))
        }
        // OpenSSL has no text for what is inside these.
        0xa0 => AlternativeName::Text("othername", "<unsupported>".into()),
        0xa3 => AlternativeName::Text("X400Name", "<unsupported>".into()),
        0xa5 => AlternativeName::Text("EdiPartyName", "<unsupported>".into()),
        _ => return None,
    })
}

fn address(content: &[u8]) -> String {
    match content.len() {
        4 => content.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
        16 => content
            .chunks_exact(2)
            .map(|pair| format!("{:X}", u16::from_be_bytes([pair[0], pair[1]])))
            .collect::<Vec<_>>()
            .join(":"),
        _ => "<invalid>".into(),
    }
}

/// The addresses of OCSP responders and of the issuer's certificates.
fn authority_information(certificate: &Certificate<'_>) -> (Vec<String>, Vec<String>) {
    const OCSP: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1];
    const CA_ISSUERS: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 2];
    let mut found = (Vec::new(), Vec::new());
    let list = certificate
        .extension(extension::AUTHORITY_INFORMATION)
        .and_then(|extension| Reader::new(extension.value).expect(tag::SEQUENCE));
    for entry in list.into_iter().flat_map(Value::inside) {
        let mut entry = entry.inside();
        let method = entry.expect(tag::OID).map(|value| value.content);
        let uris = match method {
            Some(OCSP) => &mut found.0,
            Some(CA_ISSUERS) => &mut found.1,
            _ => continue,
        };
        uris.extend(entry.value().and_then(uri));
    }
    found
}

fn uri(value: Value<'_>) -> Option<String> {
    (value.tag == tag::context(6)).then(|| String::from_utf8_lossy(value.content).into_owned())
}

fn crl_distribution_points(certificate: &Certificate<'_>) -> Vec<String> {
    let points = certificate
        .extension(extension::CRL_DISTRIBUTION_POINTS)
        .and_then(|extension| Reader::new(extension.value).expect(tag::SEQUENCE));
    points
        .into_iter()
        .flat_map(Value::inside)
        .filter_map(|point| point.inside().expect(tag::context_constructed(0)))
        .filter_map(|name| name.inside().expect(tag::context_constructed(0)))
        .flat_map(Value::inside)
        .filter_map(uri)
        .collect()
}

/// A number in hexadecimal, two digits a byte.
fn serial_number(content: &[u8]) -> String {
    let is_negative = content.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = content.to_vec();
    if is_negative {
        // Two's complement.
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
    let significant = &magnitude[zeros.min(magnitude.len().saturating_sub(1))..];
    let mut text = String::from(if is_negative { "-" } else { "" });
    for byte in significant {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02X}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn serial_numbers_are_hexadecimal() {
        assert_eq!(serial_number(&[0]), "00");
        assert_eq!(serial_number(&[0x00, 0x9a]), "9A");
        assert_eq!(serial_number(&[0x01, 0x02]), "0102");
        assert_eq!(serial_number(&[0xff]), "-01");
    }

    #[test]
    fn addresses_are_written_as_openssl_does() {
        assert_eq!(address(&[127, 0, 0, 1]), "127.0.0.1");
        let mut loopback = [0; 16];
        loopback[15] = 1;
        assert_eq!(address(&loopback), "0:0:0:0:0:0:0:1");
        assert_eq!(address(&[1]), "<invalid>");
    }

    #[test]
    fn a_certificate_is_described() {
        let issued = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
        let description = describe(issued.cert.der()).unwrap();
        assert_eq!(description.version, 3);
        assert_eq!(
            description.subject_alt_name,
            [AlternativeName::Text("DNS", "example.org".into())]
        );
        assert_eq!(description.issuer, description.subject);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_there_is_an_answer(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let issued = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
            let mut der = issued.cert.der().to_vec();
            for (index, byte) in flips {
                let at = index.index(der.len());
                der[at] = byte;
            }
            let _description = describe(&der);
        }
    }
}
