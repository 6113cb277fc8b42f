//! What an error says about a request: the one place that decides on replay.

use ::h2::{Error, Reason};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The peer says that no part of it was processed: it may go elsewhere.
    NotTaken,
    /// The same of this one, for which it has no room; it goes on with the others.
    Refused,
    /// The peer reset it with this code, which goes on to the other side.
    ResetByPeer(Reason),
    /// Input or output, or a fault of either side's protocol: it may have been
    /// processed, and is never sent again.
    Unknown,
}

/// Of an error from any call on a stream. The code alone says nothing: this side
/// may have made it.
pub(crate) fn fate(error: &Error) -> Fate {
    if !error.is_remote() {
        return Fate::Unknown;
    }
    // Its stream lies above the last one that the peer took, or was never opened.
    if error.is_go_away() {
        return Fate::NotTaken;
    }
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_reset() => Fate::Refused,
        Some(code) if error.is_reset() => Fate::ResetByPeer(code),
        _ => Fate::Unknown,
    }
}
