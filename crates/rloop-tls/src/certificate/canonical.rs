//! Distinguished names in the form by which OpenSSL compares them and names files (`X509_NAME_hash`).
//!
//! Strings become UTF-8 in lower case, without blanks at both ends, and with one space for several
//! blanks; other values stay as they are. The list loses its outer tag.

use crate::der::{Reader, Value, tag};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The canonical form of a name, given as the content of its SEQUENCE. `None` if it cannot be read.
pub(crate) fn canonical(name: &[u8]) -> Option<Vec<u8>> {
    let mut canonical = Vec::new();
    let mut sets = Reader::new(name);
    while !sets.is_at_end() {
        let mut pairs = sets.expect(tag::SET)?.inside();
        let mut encoded = Vec::new();
        while !pairs.is_at_end() {
            encoded.push(canonical_pair(pairs.expect(tag::SEQUENCE)?)?);
        }
        // The order of a set in DER.
        encoded.sort();
        append(&mut canonical, tag::SET, &encoded.concat());
    }
    Some(canonical)
}

fn canonical_pair(pair: Value<'_>) -> Option<Vec<u8>> {
    let mut fields = pair.inside();
    let kind = fields.expect(tag::OID)?;
    let value = fields.value()?;
    if !fields.is_at_end() {
        return None;
    }
    let mut content = kind.encoded.to_vec();
    match text(value) {
        Some(text) => append(&mut content, tag::UTF8_STRING, folded(&text?).as_bytes()),
        None => content.extend_from_slice(value.encoded),
    }
    let mut encoded = Vec::new();
    append(&mut encoded, tag::SEQUENCE, &content);
    Some(encoded)
}

/// The text of a string that OpenSSL folds; the inner `None` is one that is malformed.
#[expect(clippy::option_option, reason = "no string, a malformed string, a string")]
fn text(value: Value<'_>) -> Option<Option<String>> {
    let units = |width: usize| {
        let chunks = value.content.chunks_exact(width);
        if !chunks.remainder().is_empty() {
            return None;
        }
        chunks
            .map(|unit| {
                let number = unit.iter().fold(0_u32, |number, &byte| number << 8 | u32::from(byte));
                char::from_u32(number)
            })
            .collect()
    };
    match value.tag {
        tag::UTF8_STRING => Some(str::from_utf8(value.content).ok().map(Into::into)),
        tag::PRINTABLE_STRING | tag::T61_STRING | tag::IA5_STRING | tag::VISIBLE_STRING => {
            Some(units(1))
        }
        tag::BMP_STRING => Some(units(2)),
        tag::UNIVERSAL_STRING => Some(units(4)),
        _ => None,
    }
}

/// Lower case, and blanks joined, by the rules of ASCII.
fn folded(text: &str) -> String {
    // The six blanks of C.
    let is_blank = |character: char| matches!(character, ' ' | '\t'..='\r');
    let mut folded = String::with_capacity(text.len());
    for word in text.split(is_blank).filter(|word| !word.is_empty()) {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(&word.to_ascii_lowercase());
    }
    folded
}

fn append(output: &mut Vec<u8>, tag: u8, content: &[u8]) {
    output.push(tag);
    let len = content.len().to_be_bytes();
    let significant = &len[len.iter().take_while(|byte| **byte == 0).count()..];
    match significant {
        [] => output.push(0),
        [short @ ..0x80] => output.push(*short),
        long => {
            // At most eight bytes.
            output.push(0x80 | long.len().to_le_bytes()[0]);
            output.extend_from_slice(long);
        }
    }
    output.extend_from_slice(content);
}

/// OpenSSL's hash of a name in its canonical form, of which it makes names of files.
pub(crate) fn name_hash(canonical: &[u8]) -> u32 {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, canonical);
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    u32::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A set of one attribute, the common name.
    fn common_name(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut pair = vec![tag::OID, 3, 0x55, 4, 3];
        append(&mut pair, kind, content);
        let (mut sequence, mut set) = (Vec::new(), Vec::new());
        append(&mut sequence, tag::SEQUENCE, &pair);
        append(&mut set, tag::SET, &sequence);
        set
    }

    #[test]
    fn equal_names_have_one_form() {
        let expected = common_name(tag::UTF8_STRING, b"some authority");
        assert_eq!(canonical(&expected), Some(expected.clone()));
        for (kind, content) in [
            (tag::PRINTABLE_STRING, &b"Some Authority"[..]),
            (tag::IA5_STRING, b"  some \t authority\r\n"),
            (tag::BMP_STRING, b"\0S\0o\0m\0e\0 \0A\0u\0t\0h\0o\0r\0i\0t\0y"),
        ] {
            assert_eq!(canonical(&common_name(kind, content)), Some(expected.clone()));
        }
    }

    #[test]
    fn what_is_no_string_stays_as_it_is() {
        let name = common_name(tag::BIT_STRING, b"\0 A ");
        assert_eq!(canonical(&name), Some(name));
        assert_eq!(canonical(&common_name(tag::BMP_STRING, b"odd")), None);
        assert_eq!(canonical(&common_name(tag::UTF8_STRING, b"\xff")), None);
        assert_eq!(canonical(&[]), Some(vec![]));
        assert_eq!(canonical(b"none"), None);
    }

    #[test]
    fn the_hash_is_openssls() {
        // openssl req -x509 -newkey ed25519 -nodes -subj '/CN=Some  Authority' | openssl x509 -hash
        let name = common_name(tag::UTF8_STRING, b"Some  Authority");
        assert_eq!(format!("{:08x}", name_hash(&canonical(&name).unwrap())), "c56dc817");
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_there_is_an_answer(
            name in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let _canonical = canonical(&name);
        }
    }
}
