//! The outer shape of TLS records: where one ends, and whether it may be one at all.
//!
//! Called for every record that is received. Nothing here decrypts.

/// Bytes before the payload of a record.
pub(crate) const HEADER_LEN: usize = 5;

/// The most plaintext that one record carries.
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;

/// What a TLS 1.2 cipher may add to the plaintext (RFC 5246, 6.2.3), the larger of the two limits.
const MAX_EXPANSION: usize = 2048;

/// What a record carries, as the first byte of its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
}

impl ContentType {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
        }
    }
}

/// What the beginning of `bytes` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framed {
    /// The header, or the record, is not complete. `wanted` bytes are known to be needed in all.
    Incomplete { wanted: usize },
    /// A record of `len` bytes, header included.
    Record { kind: ContentType, len: usize },
    /// No TLS record begins like this.
    Malformed(Malformed),
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not a known content type, or not version 3.x.
    Header,
    /// Longer than any record may be.
    TooLong,
}

/// Looks at the record that `bytes` begins with.
pub(crate) fn frame(bytes: &[u8]) -> Framed {
    let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Framed::Incomplete { wanted: HEADER_LEN };
    };
    let Some(kind) = ContentType::from_byte(kind).filter(|_| major == 3) else {
        return Framed::Malformed(Malformed::Header);
    };
    let payload = usize::from(u16::from_be_bytes([high, low]));
    if payload > MAX_PLAINTEXT + MAX_EXPANSION {
        return Framed::Malformed(Malformed::TooLong);
    }
    let len = HEADER_LEN + payload;
    if bytes.len() < len {
        Framed::Incomplete { wanted: len }
    } else {
        Framed::Record { kind, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_needs_its_header_then_its_payload() {
        let record = [23, 3, 3, 0, 2, 1, 1, 99];
        assert_eq!(frame(&record[..4]), Framed::Incomplete { wanted: 5 });
        assert_eq!(frame(&record[..6]), Framed::Incomplete { wanted: 7 });
        let whole = Framed::Record { kind: ContentType::ApplicationData, len: 7 };
        assert_eq!(frame(&record), whole);
    }

    #[test]
    fn what_is_no_record_is_told_from_its_header() {
        assert_eq!(frame(b"GET / HTTP/1.0"), Framed::Malformed(Malformed::Header));
        assert_eq!(frame(&[22, 2, 0, 0, 1, 0]), Framed::Malformed(Malformed::Header));
        assert_eq!(frame(&[23, 3, 3, 0x48, 0x01]), Framed::Malformed(Malformed::TooLong));
        assert_eq!(frame(&[23, 3, 3, 0x48, 0x00]), Framed::Incomplete { wanted: 18_437 });
    }
}
