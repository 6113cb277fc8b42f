//! Where an agent is to be found on its node.

use std::path::PathBuf;

use clap::Args;

/// Where agents, the plugin and the verbs that ask agents meet.
pub(crate) const RUN_DIR: &str = "/run/mesh-agent";

#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// Directory for pins, on a bpf file system.
    #[arg(long, default_value = "/sys/fs/bpf/mesh-agent")]
    pub(crate) bpffs_dir: PathBuf,
    /// Directory for the admin socket.
    #[arg(long, default_value = RUN_DIR)]
    pub(crate) run_dir: PathBuf,
}

impl Place {
    /// The newest revocation lists, over a restart.
    #[must_use]
    pub(crate) fn crl(&self) -> PathBuf {
        self.run_dir.join("crl")
    }
}
