//! Sessions with other agents: a stream gets a pooled connection or a new one,
//! some are made before they are asked for, and the proofs that live streams
//! stand on are renewed.
//!
//! Never decides who may be connected to: a [`MeshPeer`](crate::plan::MeshPeer)
//! says whom and where, and nobody else's certificate is taken. Knows nothing of
//! the connections that streams are for; who gives up waiting drops the future.
//! Invariants: a connection that is handed out was verified, and proves exactly
//! the expected identity; there is never plaintext instead.

mod away;
mod connect;
mod gate;
mod metrics;
mod peers;
mod proofs;
mod reach;
mod renew;
mod sharing;

pub(crate) use connect::{Reached, credentials, still_trusted};
pub(crate) use metrics::Metrics;
pub(crate) use peers::{Config, Peers, Preconnect};
pub(crate) use proofs::{Pair, PeerSession, Proofs, RenewalAction, Source};
pub(crate) use sharing::{Found, Making, Sharer};
