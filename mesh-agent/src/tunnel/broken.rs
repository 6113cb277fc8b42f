//! What all that carries frames has in common: how it fails, and what it reads into.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use super::ProtocolError;
use crate::tls::RecordError;

/// After a GOAWAY the peer's close is waited for this long.
pub(super) const LINGER: Duration = Duration::from_millis(500);
/// Ciphertext read in one go; 128 to 256 KiB measured best.
pub(super) const RECEIVE_BYTES: usize = 256 * 1024;

thread_local! {
    static RECEIVE: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE_BYTES].into_boxed_slice());
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Closed or reset by the peer, or the network.
    Lost,
    /// The peer ended TLS with an alert: it does not want us.
    Refused,
    Protocol(ProtocolError),
}

impl From<ProtocolError> for Broken {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

impl From<RecordError> for Broken {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Alert(_) => Self::Refused,
            _ => Self::Protocol(ProtocolError::Record),
        }
    }
}

/// This thread's buffer for ciphertext.
pub(super) fn with_received<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    RECEIVE.with_borrow_mut(|buffer| f(buffer))
}
