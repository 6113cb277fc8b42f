//! Our entry in a node's list of plugins, which is also the plugin's configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Its type in a list, and its file's name in the folder of plugins.
pub const PLUGIN: &str = "mesh-agent-cni";

/// Versions of the CNI specification whose calls it answers.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[must_use]
pub fn is_supported(version: &str) -> bool {
    SUPPORTED_VERSIONS.contains(&version)
}

/// How long it waits for the agent: below what a runtime gives a whole sandbox (two to
/// four minutes), above what an agent's restart takes.
const PATIENCE: u64 = 25;
const MAX_PATIENCE: u64 = 60;

/// Paths are the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    #[serde(rename = "type")]
    pub plugin: String,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// What the agent leaves on the node for the time when it is away.
    pub outside_file: PathBuf,
    /// The namespace of the mesh itself: its pods never wait for an agent, since the
    /// agent is one of them.
    pub mesh_namespace: String,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience_seconds: Option<u64>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            plugin: PLUGIN.to_owned(),
            socket: "/run/mesh-agent/cni.sock".into(),
            outside_file: "/var/lib/mesh-agent/cni-outside.json".into(),
            mesh_namespace: "mesh-system".to_owned(),
            patience_seconds: None,
        }
    }
}

impl Entry {
    #[must_use]
    pub fn patience(&self) -> Duration {
        let seconds = self.patience_seconds.unwrap_or(PATIENCE);
        Duration::from_secs(seconds.clamp(1, MAX_PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_configured_the_wait_ends_before_the_runtimes_own() {
        let of = |patience_seconds| {
            Entry {
                patience_seconds,
                ..Entry::default()
            }
            .patience()
            .as_secs()
        };
        assert_eq!(of(None), 25);
        assert_eq!(of(Some(0)), 1);
        assert_eq!(of(Some(3)), 3);
        assert_eq!(of(Some(u64::MAX)), 60);
    }
}
