//! Where the agent finds what is the node's, and whether it looks for pods itself.

use std::path::PathBuf;

use clap::Args;

#[derive(Clone, Debug, Args)]
pub(crate) struct Host {
    /// Find pods as a kubelet's node has them: by UID, cgroup and address. Annotations
    /// that say where a pod lives are passed over, and the agent stays in its own cgroup.
    /// With --kubernetes always.
    #[arg(long)]
    pub(crate) find_pods: bool,
    /// Take over from an agent that runs on this node, or wait for its end; without, a
    /// second agent is refused.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// The node's cgroup2 tree, or the directory of a hybrid system that has it as
    /// `unified` [default: the cgroup2 mount that shows most].
    #[arg(long)]
    pub(crate) host_cgroup_dir: Option<PathBuf>,
    /// The procfs that shows the node's processes.
    #[arg(long, default_value = "/proc")]
    pub(crate) host_proc_dir: PathBuf,
    /// The port that the kubelet listens on: who listens there is the one whose probes
    /// pass; 0: nobody is. Only with --find-pods.
    #[arg(long, default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// Where the container runtime has files of the pods' network namespaces.
    #[arg(long, default_value = "/run/netns")]
    pub(crate) host_netns_dir: PathBuf,
}

/// Of agents, and of the authority below it.
pub(crate) const STATE_DIR: &str = "/var/lib/mesh-agent";

/// What an agent keeps on the node's disk.
#[derive(Clone, Debug, Args)]
pub(crate) struct OnDisk {
    /// With --kubernetes: where what the API says is kept for a start without it.
    #[arg(long, env = "MESH_STATE_DIR", default_value = STATE_DIR)]
    pub(crate) state_dir: PathBuf,
    /// On the node's disk: notes that pods of the mesh are on this node, so that after a
    /// reboot none of them connects before they are enrolled. Only with --find-pods.
    #[arg(
        long,
        env = "MESH_NODE_DIR",
        default_value = "/var/lib/mesh-agent/node"
    )]
    pub(crate) node_dir: PathBuf,
}

impl OnDisk {
    /// What the API said.
    #[must_use]
    pub(crate) fn api(&self) -> PathBuf {
        self.state_dir.join("api")
    }

    /// The authority's roots, as the API said them.
    #[must_use]
    pub(crate) fn ca_root(&self) -> PathBuf {
        self.state_dir.join("ca-root")
    }

    /// A file that is there once a pod of the mesh was.
    #[must_use]
    pub(crate) fn has_pods(&self) -> PathBuf {
        self.node_dir.join("has-pods")
    }
}
