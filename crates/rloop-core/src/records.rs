//! Where TLS records end in a stream of ciphertext.
//!
//! A TLS engine that is asked to read when it has only part of a record answers with an exception,
//! which costs more than a small record does. This tells beforehand: a record is a header of five
//! bytes (type, version, length; RFC 8446, 5.1) and a body, in every version of TLS, encrypted or
//! not.
//!
//! The engine alone judges what a peer sends. Bytes that are no header of TLS end the watch, and
//! whoever asks afterwards is told that nothing is known.

const HEADER_LEN: usize = 5;
/// `change_cipher_spec` to `heartbeat`
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
const MAJOR_VERSION: u8 = 3;
/// What a record of TLS 1.2 may be long; those of TLS 1.3 are shorter.
const LONGEST_BODY: usize = (1 << 14) + 2048;

/// Follows the records of one direction of a connection.
#[derive(Debug, Default)]
pub struct RecordBoundaries {
    header: [u8; HEADER_LEN],
    /// Bytes of the header that have come. Invariant: at most `HEADER_LEN`.
    header_len: usize,
    /// Bytes of the body still to come. Invariant: 0 unless the header is whole.
    body_left: usize,
    /// Bytes since the end of the last whole record.
    incomplete: usize,
    lost: bool,
}

impl RecordBoundaries {
    /// The watch of a connection that has received nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// More ciphertext has come.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            let wanted =
                if self.body_left > 0 { self.body_left } else { HEADER_LEN - self.header_len };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.incomplete += now.len();
            if self.body_left > 0 {
                self.body_left -= now.len();
            } else {
                self.header[self.header_len..self.header_len + now.len()].copy_from_slice(now);
                self.header_len += now.len();
                if self.header_len == HEADER_LEN {
                    self.read_header();
                }
            }
            if self.header_len == HEADER_LEN && self.body_left == 0 {
                self.header_len = 0;
                self.incomplete = 0;
            }
            bytes = later;
        }
    }

    fn read_header(&mut self) {
        let [content_type, major_version, _, high, low] = self.header;
        self.body_left = usize::from(u16::from_be_bytes([high, low]));
        self.lost = !CONTENT_TYPES.contains(&content_type)
            || major_version != MAJOR_VERSION
            || self.body_left > LONGEST_BODY;
    }

    /// How many bytes have come since the end of the last whole record; `None` if what came is not
    /// TLS.
    #[must_use]
    pub fn incomplete(&self) -> Option<usize> {
        (!self.lost).then_some(self.incomplete)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: usize) -> Vec<u8> {
        let [high, low] = u16::try_from(body).unwrap().to_be_bytes();
        let mut bytes = vec![23, 3, 3, high, low];
        bytes.resize(HEADER_LEN + body, 0xff);
        bytes
    }

    #[test]
    fn nothing_is_complete() {
        assert_eq!(RecordBoundaries::new().incomplete(), Some(0));
    }

    #[test]
    fn what_is_not_tls_ends_the_watch() {
        for bytes in [b"220 hello".as_slice(), &[23, 2, 0, 0, 1], &[23, 3, 3, 0xff, 0xff]] {
            let mut boundaries = RecordBoundaries::new();
            boundaries.advance(&record(10));
            boundaries.advance(bytes);
            assert_eq!(boundaries.incomplete(), None);
            boundaries.advance(&record(10));
            assert_eq!(boundaries.incomplete(), None);
        }
    }

    #[test]
    fn an_empty_record_is_a_record() {
        let mut boundaries = RecordBoundaries::new();
        boundaries.advance(&record(0));
        assert_eq!(boundaries.incomplete(), Some(0));
    }

    proptest! {
        #[test]
        fn ends_are_found_whatever_the_pieces_are(
            bodies in prop::collection::vec(0usize..=LONGEST_BODY, 1..6),
            pieces in prop::collection::vec(1usize..9000, 1..60),
        ) {
            let records: Vec<_> = bodies.iter().map(|body| record(*body)).collect();
            let stream = records.concat();
            let ends: Vec<_> = records.iter().scan(0, |end, record| {
                *end += record.len();
                Some(*end)
            }).collect();
            let mut boundaries = RecordBoundaries::new();
            let mut position = 0;
            for piece in pieces {
                let next = (position + piece).min(stream.len());
                boundaries.advance(&stream[position..next]);
                position = next;
                let last_end = ends.iter().rev().find(|end| **end <= position).unwrap_or(&0);
                prop_assert_eq!(boundaries.incomplete(), Some(position - last_end));
            }
        }
    }
}
