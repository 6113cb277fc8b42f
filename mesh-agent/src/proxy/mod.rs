//! Accepts pods' connections and carries them.
//!
//! One thread and runtime per worker, each with its own listeners in every
//! enrolled pod; nothing is shared between workers on the hot path. A
//! connection passes the stages accept, target, dial, relay, and ends in
//! exactly one [`Outcome`](crate::model::Outcome). Invariants: whatever cannot
//! be carried is reset, never passed by; a pod's removal closes every socket
//! that the agent has in its namespace.

#![deny(clippy::wildcard_enum_match_arm)]

mod accepted;
mod alarm;
mod authorize;
mod background;
mod breaker_log;
mod client_cert;
mod config;
mod connection;
mod context;
mod deliver;
mod dice;
mod first;
mod forward;
mod hedge;
mod http;
mod http2;
mod inbound;
mod known_ports;
mod load;
mod metrics;
mod outbound;
mod peek;
mod places;
mod ports;
mod pre_auth;
mod queue;
mod rates;
mod registry;
mod report;
mod request_place;
mod request_report;
mod seen;
mod server_name;
mod shared;
mod silence;
mod spare;
mod times;
mod turns;
mod worker;
mod workers;

pub(crate) use alarm::PartEnded;
pub(crate) use config::{Config, request_limits};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use inbound::fuzz_first_bytes;
#[cfg(test)]
pub(crate) use inbound::{Sniffed, sniff};
#[cfg(test)]
pub(crate) use metrics::Metrics;
pub(crate) use seen::Seen;
#[cfg(test)]
pub(crate) use worker::longest_drain;
pub(crate) use workers::{Environment, Workers};
