//! The key of one direction, and what one record is under it (RFC 8446, section 5).
//!
//! Nonces come from a counter that only moves forward.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

/// Bytes before the plaintext in a record.
pub(crate) const HEAD: usize = 5;
/// Bytes behind the plaintext: content type and tag.
pub(crate) const TAIL: usize = 1 + TAG;
/// Most plaintext in one record.
pub(crate) const MAX_PLAINTEXT: usize = 16_384;

const TAG: usize = 16;
/// Nothing is sealed beyond this number under one key.
const MAX_RECORDS: u64 = 1 << 24;
/// Outer content type of every record after the handshake, and that of data.
pub(super) const DATA: u8 = 23;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a record does not decrypt: changed, repeated, out of order, or of another connection")]
    NotAuthentic,
    #[error("a record is longer than the protocol allows")]
    TooLong,
    #[error("a record that has no place here")]
    Unexpected,
    #[error("too many records without data")]
    IdleFlood,
    /// The peer gave up; the number is its alert description.
    #[error("the peer sent alert {0}")]
    Alert(u8),
    #[error("the buffer has no room for the record")]
    NoRoom,
    #[error("the keys may not be used any longer")]
    Exhausted,
    #[error("this direction is closed")]
    Closed,
}

/// Key, IV and counter of one direction.
pub(super) struct Keys {
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
}

impl Keys {
    pub(super) fn new(
        cipher: &'static Algorithm,
        key: &[u8],
        iv: &[u8; NONCE_LEN],
        sequence: u64,
    ) -> Result<Self, RecordError> {
        let key = UnboundKey::new(cipher, key).map_err(|_| RecordError::Exhausted)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: Zeroizing::new(*iv),
            sequence,
        })
    }

    pub(super) fn of(
        (sequence, secrets): &(u64, ConnectionTrafficSecrets),
    ) -> Result<Self, RecordError> {
        let (cipher, key, iv) = parts(secrets)?;
        Self::new(cipher, key, iv, *sequence)
    }

    /// Records that were sealed or opened so far.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// As if so many records had been sealed or opened already.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Each nonce once: the counter moves on whatever comes of it.
    fn next_nonce(&mut self) -> Result<Nonce, RecordError> {
        let mut nonce = *self.iv;
        for (byte, counter) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= counter;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Exhausted)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    pub(super) fn seal(
        &mut self,
        kind: u8,
        buf: &mut [u8],
        length: usize,
    ) -> Result<usize, RecordError> {
        if length > MAX_PLAINTEXT || buf.len() < HEAD + length + TAIL {
            return Err(RecordError::NoRoom);
        }
        if self.sequence >= MAX_RECORDS {
            return Err(RecordError::Exhausted);
        }
        let [high, low] = u16::try_from(length + TAIL)
            .map_err(|_| RecordError::NoRoom)?
            .to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        let (head, rest) = buf.split_at_mut(HEAD);
        let (inner, rest) = rest.split_at_mut(length + 1);
        head.copy_from_slice(&header);
        inner[length] = kind;
        let nonce = self.next_nonce()?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), inner)
            .map_err(|_| RecordError::Exhausted)?;
        rest[..TAG].copy_from_slice(tag.as_ref());
        Ok(HEAD + length + TAIL)
    }

    /// Decrypts one whole record; content type and content without its padding.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(u8, usize), RecordError> {
        let (head, body) = record
            .split_first_chunk_mut::<HEAD>()
            .ok_or(RecordError::Unexpected)?;
        let nonce = self.next_nonce()?;
        let inner = self
            .key
            .open_in_place(nonce, Aad::from(*head), body)
            .map_err(|_| RecordError::NotAuthentic)?;
        if inner.len() > MAX_PLAINTEXT + 1 {
            return Err(RecordError::TooLong);
        }
        let end = inner
            .iter()
            .rposition(|byte| *byte != 0)
            .ok_or(RecordError::Unexpected)?;
        Ok((inner[end], end))
    }
}

/// Cipher, key and IV.
pub(super) fn parts(
    secrets: &ConnectionTrafficSecrets,
) -> Result<(&'static Algorithm, &[u8], &[u8; NONCE_LEN]), RecordError> {
    let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => return Err(RecordError::Exhausted),
    };
    let iv = iv.as_ref().try_into().map_err(|_| RecordError::Exhausted)?;
    Ok((algorithm, key.as_ref(), iv))
}
