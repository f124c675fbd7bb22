//! The client's offer (`ClientHello`), put together before rustls sees it.
//!
//! A client may spread its offer over many records. rustls moves all of them for each one that is
//! added, and its acceptor keeps 64 KiB of records at most, which an offer of 11 KB fills that comes
//! in records of one byte. OpenSSL takes such offers. So the offer is put together here, at a cost
//! that grows with its length, and rustls gets it in as few records as it fits in.

use super::alert;
use super::record::{ContentType, Framed, HEADER_LEN, MAX_PLAINTEXT, frame};
use crate::error::{Reason, TlsError};

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
    /// For an alert in place of the offer, and for a record that is too long. An answer, if there is
    /// one, is appended to `outgoing`.
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
                Framed::Record { kind: ContentType::Alert, len: HEADER_LEN } => {
                    let detail = "an empty alert";
                    let refusal = (Reason::UnexpectedMessage, alert::UNEXPECTED_MESSAGE);
                    return Err(refuse(refusal, detail, outgoing));
                }
                Framed::Record { kind: ContentType::Alert, len }
                    if let [alert::FATAL, description] | [_, description @ alert::CLOSE_NOTIFY] =
                        received[used + HEADER_LEN..used + len] =>
                {
                    return Err(TlsError::Alert(description));
                }
                Framed::Record { len, .. } if len > HEADER_LEN + MAX_PLAINTEXT => {
                    let detail = "a record holds too much";
                    let refusal = (Reason::DataLengthTooLong, alert::RECORD_OVERFLOW);
                    return Err(refuse(refusal, detail, outgoing));
                }
                Framed::Record { kind: ContentType::Handshake, len } if len > HEADER_LEN => {
                    let payload = &received[used + HEADER_LEN..used + len];
                    self.message.extend_from_slice(payload);
                    used += len;
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

fn refuse((reason, description): (Reason, u8), detail: &str, outgoing: &mut Vec<u8>) -> TlsError {
    alert::append(Some(description), outgoing);
    TlsError::Protocol { reason, detail: detail.into() }
}

/// True if the offer that `received` begins with is one of a client that falls back to this version
/// after a failure with a newer one (RFC 7507). It was gathered, so it begins in one record.
pub(super) fn is_fallback(received: &[u8]) -> bool {
    const FALLBACK_SCSV: [u8; 2] = [0x56, 0x00];
    cipher_suites(received)
        .is_some_and(|suites| suites.chunks_exact(2).any(|it| it == FALLBACK_SCSV))
}

/// The cipher suites in an offer. `None` if there are none in its first record.
fn cipher_suites(received: &[u8]) -> Option<&[u8]> {
    const BEFORE_SESSION_ID: usize = HEADER_LEN + MESSAGE_HEADER_LEN + 2 + 32;
    let (&session_id_len, rest) = received.get(BEFORE_SESSION_ID..)?.split_first()?;
    let rest = rest.get(usize::from(session_id_len)..)?;
    let (len, rest) = rest.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*len)))
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
    fn what_cannot_be_an_offer_is_answered() {
        let too_long = [&[22, 3, 1, 0x40, 1][..], &vec![CLIENT_HELLO; 0x4001]].concat();
        let cases: [(&[u8], Option<u8>); 4] = [
            (&[21, 3, 1, 0, 0], Some(alert::UNEXPECTED_MESSAGE)),
            (&too_long, Some(alert::RECORD_OVERFLOW)),
            (&[21, 3, 1, 0, 2, 2, 40], None),
            (&[21, 3, 1, 0, 2, 1, 0], None),
        ];
        for (refused, description) in cases {
            let (mut expected, mut outgoing) = (Vec::new(), Vec::new());
            alert::append(description, &mut expected);
            Offer::default().gather(&mut refused.to_vec(), &mut outgoing).unwrap_err();
            assert_eq!(outgoing, expected);
        }
    }

    #[test]
    fn a_fallback_is_found_among_the_cipher_suites() {
        let offer = |session_id: &[u8], suites: &[u8]| {
            let mut body = vec![3, 3];
            body.extend([0; 32]);
            body.push(session_id.len().to_le_bytes()[0]);
            body.extend(session_id);
            body.extend([0, suites.len().to_le_bytes()[0]]);
            body.extend(suites);
            body
        };
        let records = |body: &[u8]| {
            let len = body.len().to_le_bytes()[0];
            in_records(&[&[CLIENT_HELLO, 0, 0, len], body].concat())
        };
        assert!(is_fallback(&records(&offer(&[], &[0x13, 1, 0x56, 0]))));
        assert!(is_fallback(&records(&offer(&[7; 32], &[0x56, 0]))));
        assert!(!is_fallback(&records(&offer(&[0x56, 0], &[0x13, 1]))));
        assert!(!is_fallback(&records(&offer(&[], &[0x13, 0x56, 0, 1]))));
        let whole = records(&offer(&[7; 32], &[0x56, 0]));
        assert!((0..whole.len()).all(|len| !is_fallback(&whole[..len])));
    }

    #[test]
    fn what_is_no_offer_is_left_to_rustls() {
        let too_long = [22, 3, 1, 0, 4, CLIENT_HELLO, 1, 0, 0];
        for refused in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[22, 3, 1, 0, 1, 2],
            &[22, 3, 1, 0, 0],
            &[21, 3, 1, 0, 2, 1, 90],
            &too_long,
        ] {
            let mut received = refused.to_vec();
            assert_eq!(Offer::default().gather(&mut received, &mut Vec::new()), Ok(true));
            assert_eq!(received, refused);
        }
        // A warning in the middle.
        let alert = [21, 3, 1, 0, 2, 1, 90];
        let mut received = [&records(&hello(10)[..7], 3), &alert[..]].concat();
        assert_eq!(Offer::default().gather(&mut received, &mut Vec::new()), Ok(true));
        assert_eq!(received, [&in_records(&hello(10)[..7]), &alert[..]].concat());
    }
}
