//! Protection of records with the keys of one direction, in TLS 1.2 and 1.3.
//!
//! [`super::traffic`] calls this for each record after the handshake. Plaintext is encrypted from the
//! caller's memory into the outgoing buffer, and ciphertext is decrypted from the receive buffer into
//! the caller's memory: each byte is touched once. That is why these records do not go through rustls,
//! which copies each of them (docs/decisions/0008-records-outside-of-rustls.md). The algorithms are those that
//! rustls negotiated, and the keys are those that it derived.
//!
//! What must hold: a nonce is used once per key. It is the sequence number, which only `seal` and
//! `open` advance, and which never wraps, because `seal` refuses at the limit of the algorithm
//! and little is sealed beyond it.

use super::record::{ContentType, HEADER_LEN, MAX_PLAINTEXT};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 12;
/// The part of a TLS 1.2 AES-GCM nonce that travels with the record.
const EXPLICIT_NONCE_LEN: usize = 8;

/// How a record is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// TLS 1.3: the content type is encrypted with the content.
    Tls13,
    /// TLS 1.2 with AES-GCM: part of the nonce comes before the ciphertext.
    Tls12ExplicitNonce,
    /// TLS 1.2 with ChaCha20-Poly1305.
    Tls12,
}

impl Layout {
    /// Bytes between the header and the ciphertext.
    fn prefix_len(self) -> usize {
        if self == Self::Tls12ExplicitNonce { EXPLICIT_NONCE_LEN } else { 0 }
    }

    /// Bytes of the ciphertext that are not content, tag included.
    fn suffix_len(self) -> usize {
        TAG_LEN + usize::from(self == Self::Tls13)
    }
}

/// Why a record was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// It is not authentic.
    NotAuthentic,
    /// It holds more than a record may.
    TooLong,
    /// It has no content type.
    NoContentType,
}

/// The algorithm cannot protect more records with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyExhausted;

/// The key, the nonce base and the sequence number of one direction.
pub(crate) struct Protection {
    key: LessSafeKey,
    nonce_base: [u8; NONCE_LEN],
    /// How many records this key has protected: the sequence number of the next one.
    sequence: u64,
    /// How many records it may protect.
    limit: u64,
    layout: Layout,
}

impl Protection {
    /// Takes over the keys that a handshake or a key update made.
    ///
    /// `limit` is the number of records that the algorithm may protect with one key.
    pub(crate) fn new(
        secrets: &ConnectionTrafficSecrets,
        sequence: u64,
        limit: u64,
        is_tls13: bool,
    ) -> Result<Self, rustls::Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(rustls::Error::General("an unknown record algorithm".into())),
        };
        let layout = match secrets {
            _ if is_tls13 => Layout::Tls13,
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => Layout::Tls12,
            _ => Layout::Tls12ExplicitNonce,
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| rustls::Error::General("a key of the wrong length".into()))?;
        let nonce_base = iv
            .as_ref()
            .try_into()
            .map_err(|_| rustls::Error::General("a nonce of the wrong length".into()))?;
        Ok(Self { key: LessSafeKey::new(key), nonce_base, sequence, limit, layout })
    }

    /// Bytes that a record is longer than its content.
    pub(crate) fn overhead(&self) -> usize {
        HEADER_LEN + self.layout.prefix_len() + self.layout.suffix_len()
    }

    /// True when this key has protected all it may.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.sequence >= self.limit
    }

    /// True if this key may protect so many more records.
    pub(crate) fn suffices_for(&self, records: usize) -> bool {
        self.limit.saturating_sub(self.sequence) >= records as u64
    }

    /// Room that a record of `len` bytes, header included, is opened into.
    pub(crate) fn opened_len(&self, len: usize) -> usize {
        len.saturating_sub(HEADER_LEN + self.layout.prefix_len() + TAG_LEN)
    }

    /// Bytes of that room that are not content: the content type of TLS 1.3.
    pub(crate) fn spare_len(&self) -> usize {
        usize::from(self.layout == Layout::Tls13)
    }

    #[cfg(test)]
    pub(crate) fn limit_to(&mut self, records: u64) {
        self.limit = self.sequence + records;
    }

    fn next_nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.nonce_base;
        for (byte, count) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        nonce
    }

    /// Encrypts `content` as one record at the beginning of `output`; returns the record's length.
    ///
    /// # Panics
    /// If `content` is longer than a record's, or `output` shorter than content and overhead.
    pub(crate) fn seal(
        &mut self,
        kind: ContentType,
        content: &[u8],
        output: &mut [u8],
    ) -> Result<usize, KeyExhausted> {
        if self.is_exhausted() {
            Err(KeyExhausted)
        } else {
            Ok(self.seal_last(kind, content, output))
        }
    }

    /// The same beyond the limit, which leaves room for the few short records that end the use of a
    /// key: a key update, an alert.
    pub(crate) fn seal_last(
        &mut self,
        kind: ContentType,
        content: &[u8],
        output: &mut [u8],
    ) -> usize {
        assert!(content.len() <= MAX_PLAINTEXT, "the caller cuts records");
        let len = content.len() + self.overhead();
        let (record, _) = output.split_at_mut(len);
        let (header, payload) = record.split_at_mut(HEADER_LEN);
        let outer = if self.layout == Layout::Tls13 { ContentType::ApplicationData } else { kind };
        header.copy_from_slice(&header_of(outer, payload.len()));
        let nonce = self.next_nonce();
        let (prefix, ciphertext) = payload.split_at_mut(self.layout.prefix_len());
        prefix.copy_from_slice(&nonce[NONCE_LEN - prefix.len()..]);
        let (body, suffix) = ciphertext.split_at_mut(content.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let inner_kind = [kind.byte()];
        let sealed = if self.layout == Layout::Tls13 {
            let aad = Aad::from(&*header);
            self.key.seal_out_of_place_scatter(nonce, aad, content, body, &inner_kind, suffix)
        } else {
            let aad = Aad::from(tls12_aad(self.sequence, kind, content.len()));
            self.key.seal_out_of_place_scatter(nonce, aad, content, body, &[], suffix)
        };
        // The lengths are right by construction, and the algorithms have no other failure.
        sealed.expect("sealing a record of a permitted length cannot fail");
        self.sequence += 1;
        len
    }

    /// Decrypts `record` into the beginning of `output`; returns what it is and how long.
    ///
    /// `kind` is the type in the record's header. `output` may be overwritten beyond the content.
    ///
    /// # Panics
    /// If `output` is shorter than [`Self::opened_len`].
    pub(crate) fn open(
        &mut self,
        kind: ContentType,
        record: &[u8],
        output: &mut [u8],
    ) -> Result<(ContentType, usize), OpenError> {
        let (header, payload) = record.split_at(HEADER_LEN);
        let Some(len) = payload.len().checked_sub(self.layout.prefix_len() + TAG_LEN) else {
            return Err(OpenError::NotAuthentic);
        };
        if len > MAX_PLAINTEXT + usize::from(self.layout == Layout::Tls13) {
            return Err(OpenError::TooLong);
        }
        let (prefix, ciphertext) = payload.split_at(self.layout.prefix_len());
        let (body, tag) = ciphertext.split_at(len);
        let mut nonce = self.next_nonce();
        if self.layout == Layout::Tls12ExplicitNonce {
            // The salt is fixed, the rest is what the peer chose.
            nonce[NONCE_LEN - EXPLICIT_NONCE_LEN..].copy_from_slice(prefix);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let output = &mut output[..len];
        let opened = if self.layout == Layout::Tls13 {
            self.key.open_separate_gather(nonce, Aad::from(header), body, tag, output)
        } else {
            let aad = Aad::from(tls12_aad(self.sequence, kind, len));
            self.key.open_separate_gather(nonce, aad, body, tag, output)
        };
        opened.map_err(|_| OpenError::NotAuthentic)?;
        // A peer that never changes its key would have to send for centuries to get here.
        self.sequence = self.sequence.checked_add(1).ok_or(OpenError::NotAuthentic)?;
        if self.layout == Layout::Tls13 { inner(output) } else { Ok((kind, len)) }
    }
}

/// The content type and the length of what stands before the padding of a TLS 1.3 record.
fn inner(plaintext: &[u8]) -> Result<(ContentType, usize), OpenError> {
    let last = plaintext.iter().rposition(|&byte| byte != 0).ok_or(OpenError::NoContentType)?;
    let kind = ContentType::from_byte(plaintext[last]).ok_or(OpenError::NoContentType)?;
    Ok((kind, last))
}

#[expect(clippy::cast_possible_truncation, reason = "a record's length fits 16 bits")]
fn header_of(kind: ContentType, payload: usize) -> [u8; HEADER_LEN] {
    let [high, low] = (payload as u16).to_be_bytes();
    [kind.byte(), 3, 3, high, low]
}

#[expect(clippy::cast_possible_truncation, reason = "a record's length fits 16 bits")]
fn tls12_aad(sequence: u64, kind: ContentType, len: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..].copy_from_slice(&[kind.byte(), 3, 3, (len >> 8) as u8, len as u8]);
    aad
}
