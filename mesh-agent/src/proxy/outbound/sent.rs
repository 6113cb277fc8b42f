//! A request of HTTP/1 that was sent, and where it goes instead.

use super::upstreams::{Upstream, Way};
use crate::io::Held;
use crate::proxy::http::Tries;

/// A request that is on its way, and may have to go once more.
pub(super) struct Sent {
    pub(super) tries: Tries,
    /// Its head as the client sent it, where it goes on as another.
    pub(super) original: Option<Held>,
}

/// Where it goes instead.
pub(super) struct Fresh {
    pub(super) way: Way,
    pub(super) upstream: Upstream,
    /// It has carried requests before.
    pub(super) is_reused: bool,
}
