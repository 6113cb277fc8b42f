//! The transport between two agents: `mesh/1`, framed streams in mutual TLS.
//!
//! One stream at a time on a connection, which is then reused for the next
//! stream of the same source pod and destination address: no head-of-line
//! blocking, no shared window, TCP's own backpressure, no handshake for each
//! stream. `docs/protocol.md` is the specification. Never decides who may
//! connect and never falls back to plaintext; the proxy calls it with a peer
//! that `tls` has verified. Invariants: a byte of one stream never
//! reaches another (generations, and both directions end before reuse); memory
//! of a connection is bounded by one read in each direction, and nothing while
//! it is idle; a peer cannot keep a worker from its neighbours: what it sends is
//! taken in place, in turns that end by the number of frames and not only of
//! bytes, and what means nothing may come only so often as it must.

mod broken;
mod connection;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod layer;
mod outgoing;
mod pool;
mod relay;
mod reset;
mod shared;
#[cfg(test)]
mod specification;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

pub(crate) use connection::{Connection, IncomingStream};
pub(crate) use frame::{Open, ResetReason};
pub(crate) use pool::{Config as PoolConfig, Key, Pool};
pub(crate) use relay::{Relay, StreamEnd, Unseen};
pub(crate) use reset::Reset;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use shared::fuzz as fuzz_shared;
pub(crate) use shared::{Channel, ChannelEnd, SharedConnection};
pub(crate) use wire::Carrier;

/// The peer broke the protocol; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("a frame of unknown type")]
    UnknownFrame,
    #[error("a frame whose size does not fit its type or its record")]
    BadFrame,
    #[error("an OPEN that does not parse")]
    BadOpen,
    #[error("the connection passed through too many agents: it goes round in a circle")]
    Loop,
    #[error("a frame of another stream")]
    BadGeneration,
    #[error("data before the stream was accepted")]
    BeforeAccept,
    #[error("a frame after its direction ended")]
    AfterEnd,
    #[error("a frame that is not expected here")]
    OutOfPlace,
    #[error("a TLS record that does not open")]
    Record,
    #[error("more on a channel than its window allows")]
    Window,
}
