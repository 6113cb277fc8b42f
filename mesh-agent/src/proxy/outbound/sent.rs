//! A request of HTTP/1 that was sent, and where it goes instead.

use std::time::{Duration, Instant};

use super::decided::Limits;
use super::upstreams::{Transport, Upstream};
use crate::io::Held;
use crate::proxy::http::Tries;

/// A request that is on its way, and may have to go once more.
pub(super) struct Sent {
    pub(super) tries: Tries,
    /// Its head as the client sent it, where it goes on as another.
    pub(super) original: Option<Held>,
    /// When it is not answered by then another endpoint is asked as well.
    pub(super) hedging: Option<Duration>,
}

/// Where it goes instead.
pub(super) struct Fresh {
    pub(super) via: Transport,
    pub(super) upstream: Upstream,
    /// The try has to be over then, and began before it was there.
    pub(super) ends: Option<Instant>,
    /// From now on.
    pub(super) limits: Limits,
    /// It has carried requests before.
    pub(super) is_reused: bool,
}
