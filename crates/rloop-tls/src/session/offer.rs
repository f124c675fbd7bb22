//! The client's offer (`ClientHello`), put together before rustls sees it.
//!
//! A client may spread its offer over many records. rustls moves all of them for each one that is
//! added, and its acceptor keeps 64 KiB of records at most, which an offer of 11 KB fills that comes
//! in records of one byte. OpenSSL takes such offers. So the offer is put together here, at a cost
//! that grows with its length, and rustls gets it in as few records as it fits in.

use super::handshake::refuse_empty_alert;
use super::record::{ContentType, Framed, HEADER_LEN, MAX_PLAINTEXT, frame};
use crate::error::TlsError;

const CLIENT_HELLO: u8 = 1;

/// The length of a handshake message's header: its type and the length of its body.
const MESSAGE_HEADER_LEN: usize = 4;

/// The longest handshake message that rustls reads, without the header.
const MAX_MESSAGE: usize = 0xffff;

/// An offer of which a part may have come.
#[derive(Default)]
pub(super) struct Offer {
    message: Vec<u8>,
}

impl Offer {
    /// Takes the records at the beginning of `received` that belong to the offer.
    ///
    /// Returns true once rustls is to go on: `received` then holds the whole offer and what came behind
    /// it, or what cannot be an offer, which is for rustls to refuse.
    ///
    /// # Errors
    /// For an empty alert in place of the offer; the answer is appended to `outgoing`.
    pub(super) fn gather(
        &mut self,
        received: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<bool, TlsError> {
        let mut used = 0;
        let is_over = loop {
            if self.is_over() {
                break true;
            }
            match frame(&received[used..]) {
                Framed::Incomplete { .. } => break false,
                Framed::Record { kind: ContentType::Handshake, len }
                    if (1..=MAX_PLAINTEXT).contains(&(len - HEADER_LEN)) =>
                {
                    let payload = &received[used + HEADER_LEN..used + len];
                    self.message.extend_from_slice(payload);
                    used += len;
                }
                Framed::Record { kind: ContentType::Alert, len: HEADER_LEN } => {
                    return Err(refuse_empty_alert(outgoing));
                }
                Framed::Record { .. } | Framed::Malformed(_) => break true,
            }
        };
        if is_over {
            let offer = std::mem::take(&mut self.message);
            received.splice(..used, in_records(&offer));
        } else {
            received.drain(..used);
        }
        Ok(is_over)
    }

    /// True if the message is whole, or is none that rustls reads.
    fn is_over(&self) -> bool {
        match self.message.first_chunk::<MESSAGE_HEADER_LEN>() {
            Some(&[kind, a, b, c]) => {
                let len = u32::from_be_bytes([0, a, b, c]) as usize;
                kind != CLIENT_HELLO
                    || len > MAX_MESSAGE
                    || self.message.len() >= MESSAGE_HEADER_LEN + len
            }
            None => self.message.first().is_some_and(|kind| *kind != CLIENT_HELLO),
        }
    }
}

/// The records of a handshake message that is not encrypted.
fn in_records(message: &[u8]) -> Vec<u8> {
    let mut records = Vec::with_capacity(message.len() + HEADER_LEN);
    for fragment in message.chunks(MAX_PLAINTEXT) {
        let [.., high, low] = fragment.len().to_be_bytes();
        records.extend([ContentType::Handshake.byte(), 3, 1, high, low]);
        records.extend_from_slice(fragment);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(len: usize) -> Vec<u8> {
        let [.., a, b, c] = len.to_be_bytes();
        let mut message = vec![CLIENT_HELLO, a, b, c];
        message.extend((0..len).map(|index| index.to_le_bytes()[0]));
        message
    }

    fn records(message: &[u8], len: usize) -> Vec<u8> {
        let mut records = Vec::new();
        for fragment in message.chunks(len) {
            let [.., high, low] = fragment.len().to_be_bytes();
            records.extend([22, 3, 3, high, low]);
            records.extend(fragment);
        }
        records
    }

    proptest! {
        #[test]
        fn an_offer_is_the_same_however_it_arrives(
            len in 0usize..40_000,
            fragment in 1usize..20_000,
            piece in 1usize..5_000,
            behind in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let message = hello(len);
            let mut bytes = records(&message, fragment.min(MAX_PLAINTEXT));
            let end = bytes.len();
            bytes.extend(&behind);
            let (mut offer, mut received) = (Offer::default(), Vec::new());
            let mut given = 0;
            for piece in bytes.chunks(piece) {
                received.extend(piece);
                given += piece.len();
                let is_over = offer.gather(&mut received, &mut Vec::new()).unwrap();
                prop_assert_eq!(is_over, given >= end);
                if is_over {
                    received.extend(&bytes[given..]);
                    break;
                }
                prop_assert!(received.len() < HEADER_LEN + MAX_PLAINTEXT);
            }
            let mut expected = records(&message, MAX_PLAINTEXT);
            for record in expected.chunks_mut(MAX_PLAINTEXT + HEADER_LEN) {
                record[2] = 1;
            }
            expected.extend(&behind);
            prop_assert_eq!(received, expected);
        }
    }

    #[test]
    fn what_is_no_offer_is_left_to_rustls() {
        let too_long = [22, 3, 1, 0, 4, CLIENT_HELLO, 1, 0, 0];
        for refused in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[22, 3, 1, 0, 1, 2],
            &[22, 3, 1, 0, 0],
            &[21, 3, 1, 0, 2, 1, 0],
            &too_long,
        ] {
            let mut received = refused.to_vec();
            assert_eq!(Offer::default().gather(&mut received, &mut Vec::new()), Ok(true));
            assert_eq!(received, refused);
        }
        // An alert in the middle.
        let alert = [21, 3, 1, 0, 2, 1, 0];
        let mut received = [&records(&hello(10)[..7], 3), &alert[..]].concat();
        assert_eq!(Offer::default().gather(&mut received, &mut Vec::new()), Ok(true));
        assert_eq!(received, [&in_records(&hello(10)[..7]), &alert[..]].concat());
    }
}
