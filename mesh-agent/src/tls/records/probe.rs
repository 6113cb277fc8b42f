//! For tests and fuzzing: what an honest end does not do, and two ends without a
//! handshake.

use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, KeyLog as _};

use super::Records;
use crate::tls::keys::RecordError;
use crate::tls::schedule::{CapturedSecrets, SecretLog, Side, capture};

/// A traffic secret, and the IV that follows from it (RFC 8446, 7.3).
type Secret = ([u8; 32], [u8; 12]);

const CLIENT: Secret = (
    [1; 32],
    [
        0x5f, 0xae, 0x67, 0x8e, 0xd5, 0x29, 0x82, 0x23, 0xde, 0x91, 0x54, 0x47,
    ],
);
const SERVER: Secret = (
    [2; 32],
    [
        0x71, 0xf3, 0x48, 0x2c, 0xe4, 0x45, 0x29, 0xa2, 0x6f, 0xfa, 0x79, 0x8d,
    ],
);

fn secrets((secret, iv): Secret) -> (u64, ConnectionTrafficSecrets) {
    let key = AeadKey::from(secret);
    let iv = Iv::from(iv);
    (0, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv })
}

impl Records {
    /// Client and server, always with the same keys.
    pub(crate) fn pair() -> (Self, Self) {
        let captured = || {
            let mut captured = CapturedSecrets::default();
            capture(&mut captured, || {
                SecretLog.log("CLIENT_TRAFFIC_SECRET_0", &[], &CLIENT.0);
                SecretLog.log("SERVER_TRAFFIC_SECRET_0", &[], &SERVER.0);
            });
            captured
        };
        let end = |side, tx, rx| {
            let secrets = ExtractedSecrets {
                tx: secrets(tx),
                rx: secrets(rx),
            };
            Self::new(side, &secrets, captured()).expect("the secrets fit")
        };
        (
            end(Side::Client, CLIENT, SERVER),
            end(Side::Server, SERVER, CLIENT),
        )
    }

    pub(in crate::tls) fn ask_for_update(&mut self) -> Result<Vec<u8>, RecordError> {
        self.update_keys(true)
    }

    pub(in crate::tls) fn seal_as(
        &mut self,
        kind: u8,
        buf: &mut [u8],
        length: usize,
    ) -> Result<usize, RecordError> {
        self.sending.seal(kind, buf, length)
    }
}

#[cfg(test)]
impl Records {
    /// As if this many records had been sealed already.
    pub(in crate::tls) fn skip_sending(&mut self, sequence: u64) {
        self.sending.skip_to(sequence);
    }

    pub(in crate::tls) fn skip_receiving(&mut self, sequence: u64) {
        self.receiving.skip_to(sequence);
    }

    pub(in crate::tls) fn forget_end(&mut self) {
        self.ended = None;
    }
}
