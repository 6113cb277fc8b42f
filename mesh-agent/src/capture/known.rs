//! What is remembered of probers and of other agents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::links::Link;

/// What is attached to the cgroups of probers, each by its name, and the ports that
/// the kernel knows, by namespace.
#[derive(Debug, Default)]
pub(super) struct Probers {
    pub(super) links: BTreeMap<String, (u64, Link)>,
    pub(super) ports: BTreeMap<u64, BTreeSet<u16>>,
}

/// Other agents, and where their cgroups were seen.
#[derive(Debug, Default)]
pub(super) struct Others(pub(super) BTreeMap<u64, Option<PathBuf>>);

/// Pin of the program that records what the agent with this cgroup dials and answers.
pub(super) fn agent_pin(id: u64) -> String {
    format!("sockops-agent-{id}")
}
