//! Traffic secrets after the handshake, for key updates (RFC 8446, 7.2 and 7.3).
//!
//! rustls offers its own object for this, which keeps the peer's chain, the
//! configuration and the state of a handshake for as long as the connection
//! lives: 1.6 KiB for each. We keep two secrets. They are captured from rustls
//! while it derives them, on the same thread and inside the same call, and
//! never leave this module.

use std::cell::RefCell;

use aws_lc_rs::aead::{Algorithm, NONCE_LEN};
use aws_lc_rs::hkdf;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, KeyLog};
use zeroize::Zeroizing;

use super::keys::{Keys, RecordError, parts};

/// Of SHA-384, the longest hash of our suites.
const MAX_HASH: usize = 48;
/// Of AES-256 and ChaCha20.
const MAX_KEY: usize = 32;
const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

thread_local! {
    static CAPTURED: RefCell<CapturedSecrets> = RefCell::default();
}

#[derive(Clone)]
struct Secret {
    bytes: Zeroizing<[u8; MAX_HASH]>,
    len: usize,
}

impl Secret {
    fn new(secret: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; MAX_HASH]);
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Self {
            bytes,
            len: secret.len(),
        })
    }
}

/// What a handshake has derived so far.
#[derive(Default)]
pub(super) struct CapturedSecrets {
    client: Option<Secret>,
    server: Option<Secret>,
}

impl CapturedSecrets {
    fn join(&mut self, later: Self) {
        self.client = later.client.or(self.client.take());
        self.server = later.server.or(self.server.take());
    }
}

/// Where rustls tells the secrets of a handshake.
#[derive(Debug)]
pub(super) struct SecretLog;

impl KeyLog for SecretLog {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAPTURED.with_borrow_mut(|captured| match label {
            CLIENT => captured.client = Secret::new(secret),
            SERVER => captured.server = Secret::new(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        label == CLIENT || label == SERVER
    }
}

/// Runs one step of a handshake and adds what it derived.
pub(super) fn capture<T>(captured: &mut CapturedSecrets, step: impl FnOnce() -> T) -> T {
    // What a step that panicked left behind is of another connection.
    CAPTURED.take();
    let result = step();
    captured.join(CAPTURED.take());
    result
}

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// The secrets in use, and what the next ones are made with.
pub(super) struct Schedule {
    side: Side,
    hash: hkdf::Algorithm,
    cipher: &'static Algorithm,
    sending: Secret,
    receiving: Secret,
}

impl Schedule {
    /// Fails unless `captured` has both secrets, and they are those that the
    /// handshake's keys were made of.
    pub(super) fn new(
        side: Side,
        captured: CapturedSecrets,
        keys: &ExtractedSecrets,
    ) -> Result<Self, RecordError> {
        let missing = RecordError::Exhausted;
        let (client, server) = (
            captured.client.ok_or(missing)?,
            captured.server.ok_or(missing)?,
        );
        let (sending, receiving) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        let (cipher, hash) = suite(&keys.tx.1)?;
        let schedule = Self {
            side,
            hash,
            cipher,
            sending,
            receiving,
        };
        let same = schedule.is_of(&schedule.sending, &keys.tx.1)?
            && schedule.is_of(&schedule.receiving, &keys.rx.1)?;
        same.then_some(schedule).ok_or(missing)
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    pub(super) fn next_sending(&mut self) -> Result<Keys, RecordError> {
        self.sending = self.successor(&self.sending)?;
        self.keys(&self.sending)
    }

    pub(super) fn next_receiving(&mut self) -> Result<Keys, RecordError> {
        self.receiving = self.successor(&self.receiving)?;
        self.keys(&self.receiving)
    }

    fn successor(&self, secret: &Secret) -> Result<Secret, RecordError> {
        let mut next = secret.clone();
        self.expand(secret, b"traffic upd", &mut next.bytes[..secret.len])?;
        Ok(next)
    }

    fn keys(&self, secret: &Secret) -> Result<Keys, RecordError> {
        let mut key = Zeroizing::new([0; MAX_KEY]);
        let key = key
            .get_mut(..self.cipher.key_len())
            .ok_or(RecordError::Exhausted)?;
        self.expand(secret, b"key", key)?;
        Keys::new(self.cipher, key, &self.iv(secret)?, 0)
    }

    fn iv(&self, secret: &Secret) -> Result<[u8; NONCE_LEN], RecordError> {
        let mut iv = [0; NONCE_LEN];
        self.expand(secret, b"iv", &mut iv)?;
        Ok(iv)
    }

    fn is_of(&self, secret: &Secret, keys: &ConnectionTrafficSecrets) -> Result<bool, RecordError> {
        let (_, _, iv) = parts(keys)?;
        Ok(self.iv(secret)? == *iv)
    }

    /// `HKDF-Expand-Label` without context.
    fn expand(&self, secret: &Secret, label: &[u8], out: &mut [u8]) -> Result<(), RecordError> {
        const PREFIX: &[u8] = b"tls13 ";
        let failed = |_| RecordError::Exhausted;
        let length = u16::try_from(out.len()).map_err(|_| RecordError::Exhausted)?;
        let label_length =
            [u8::try_from(PREFIX.len() + label.len()).map_err(|_| RecordError::Exhausted)?];
        let info = [
            &length.to_be_bytes()[..],
            &label_length,
            PREFIX,
            label,
            &[0],
        ];
        hkdf::Prk::new_less_safe(self.hash, &secret.bytes[..secret.len])
            .expand(&info, Length(out.len()))
            .map_err(failed)?
            .fill(out)
            .map_err(failed)
    }
}

/// What an expansion is for, as the library wants to be told: its length.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn suite(
    secrets: &ConnectionTrafficSecrets,
) -> Result<(&'static Algorithm, hkdf::Algorithm), RecordError> {
    let (cipher, ..) = parts(secrets)?;
    let hash = match secrets {
        ConnectionTrafficSecrets::Aes256Gcm { .. } => hkdf::HKDF_SHA384,
        _ => hkdf::HKDF_SHA256,
    };
    Ok((cipher, hash))
}
