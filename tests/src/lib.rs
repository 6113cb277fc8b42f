//! Nodes and pods in network namespaces, agents in them, and all of it gone
//! afterwards, also when a test panics.
//!
//! A world has its own names, cgroups, pins and processes, so that tests run
//! side by side. Nothing is made in the machine's own network namespace.

mod agent;
mod agents;
mod authority;
mod cgroup;
mod chance;
mod closed;
mod enrolled;
pub mod hello;
mod interrupt;
pub mod kube;
mod links;
mod manifest;
mod net;
mod packets;
mod peer;
pub mod pki;
mod pod;
mod remains;
mod servers;
mod steady;
pub mod sys;
mod version;
mod wait;
mod world;

pub use agent::{Agent, rss};
pub use agents::Agents;
pub use authority::Authority;
pub use chance::Chance;
pub use closed::{ClosedPair, was_never_open};
pub use enrolled::{
    becomes_enrolled, captured, counted, has_left, is_carried, is_enrolled, is_found_after_restart,
    loses_its_rules, pod_status,
};
pub use interrupt::{catch_interrupts, on_interrupt};
pub use links::{attached_links, detach_links};
pub use manifest::{OnAgentDown, PodSpec, Port, Target, mesh_mode, traffic_policy};
pub use net::Place;
pub use packets::{Captured, PacketCapture};
pub use peer::Peer;
pub use pod::{APP_PORT, Pod};
pub use remains::Remains;
pub use servers::{go, http2_peer};
pub use steady::{Span, Steady, failed};
pub use version::ANOTHER_VERSION;
pub use wait::{PATIENCE, all_fine, eventually, figure, parse};
pub use world::{World, plugin, program};
