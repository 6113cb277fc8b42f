//! Whether a request may go once more: only where nobody can have seen it, or
//! where it asks for nothing to be done.

use tokio::net::TcpStream;

use super::transfer::Transfer;
use crate::sys::socket;

/// RFC 9110, section 9.2.1.
pub(in crate::proxy) fn is_safe(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// On a connection that waited for its next request the application may have closed
/// just when that was sent.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Replayable {
    /// The connection has carried requests before.
    pub(in crate::proxy) is_reused: bool,
    pub(in crate::proxy) is_safe: bool,
}

impl Replayable {
    /// `by_fin`: the application ended in order, with no byte of an answer. Then what
    /// its kernel did not acknowledge it did not get; a reset proves nothing, and where a write
    /// found it, it reads as an end in order.
    pub(in crate::proxy) fn may(
        self,
        by_fin: bool,
        application: &TcpStream,
        transfer: &Transfer,
    ) -> bool {
        let is_unseen = || {
            let sent = usize::try_from(transfer.bytes().0).unwrap_or(usize::MAX);
            let by_fin = by_fin && !transfer.was_reset();
            by_fin && socket::unacknowledged(application).is_ok_and(|left| left >= sent)
        };
        self.is_reused && (self.is_safe || is_unseen())
    }
}
