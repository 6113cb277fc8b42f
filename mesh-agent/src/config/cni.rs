//! Flags of the CNI plugin's place on the node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::names;
use super::place::RUN_DIR;
use crate::cni::Settings;

/// In the agent's run directory.
const SOCKET: &str = "cni.sock";

/// Where the plugin is on the host, and what is left there for it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Folders {
    /// The host's folder of CNI configurations [default: the first known one that has a network].
    #[arg(long, env = "MESH_CNI_CONF_DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// The host's folder of CNI plugins [default: the first known one that has those of the network].
    #[arg(long, env = "MESH_CNI_BIN_DIR")]
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// What the agent leaves on the host for its plugin, for the time when no agent runs;
    /// the same path here and on the host, on a disk that outlives a reboot.
    #[arg(
        long,
        env = "MESH_CNI_OUTSIDE_FILE",
        default_value = "/var/lib/mesh-agent/cni-outside.json"
    )]
    pub(crate) cni_outside_file: PathBuf,
}

impl Folders {
    /// Of a host whose whole root directory is seen at `host`, where no agent runs any more.
    pub(crate) fn settings(&self, host: &Path, run_dir: &Path) -> Settings {
        let here = |path: &Path| host.join(path.strip_prefix("/").unwrap_or(path));
        Settings {
            host: host.to_owned(),
            is_whole: true,
            conf_dir: self.cni_conf_dir.clone(),
            bin_dir: self.cni_bin_dir.clone(),
            own_file: false,
            program: program(),
            entry: mesh_cni::Entry {
                socket: here(&run_dir.join(SOCKET)),
                outside_file: here(&self.cni_outside_file),
                ..mesh_cni::Entry::default()
            },
        }
    }
}

/// Where the plugin is put, and what it is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct Chain {
    /// Where the host's root directory is seen from here: CNI folders are below it.
    #[arg(long, env = "MESH_CNI_HOST_DIR", default_value = "/")]
    pub(crate) cni_host_dir: PathBuf,
    #[command(flatten)]
    pub(crate) folders: Folders,
    /// Write a configuration of the mesh's own, 00-mesh-agent.conflist, which has the network's
    /// chain and the plugin, and leave the network's file as it is. For networks whose agent
    /// writes its file anew when a node starts; not with Multus, which would take it for the
    /// cluster's network.
    #[arg(long, env = "MESH_CNI_OWN_FILE")]
    pub(crate) cni_own_file: bool,
    /// The plugin's program, which is copied to the host [default: mesh-agent-cni beside the agent's own].
    #[arg(long, env = "MESH_CNI_PLUGIN")]
    pub(crate) cni_plugin: Option<PathBuf>,
    /// The namespace of the mesh itself: its pods start without an agent.
    #[arg(long, env = "MESH_NAMESPACE", default_value = "mesh-system", value_parser = names::namespace)]
    pub(crate) namespace: String,
}

impl Chain {
    #[must_use]
    pub(crate) fn settings(&self, run_dir: &Path) -> Settings {
        let folders = &self.folders;
        Settings {
            host: self.cni_host_dir.clone(),
            // CNI folders alone, in a container.
            is_whole: false,
            conf_dir: folders.cni_conf_dir.clone(),
            bin_dir: folders.cni_bin_dir.clone(),
            own_file: self.cni_own_file,
            program: self.cni_plugin.clone().unwrap_or_else(program),
            entry: mesh_cni::Entry {
                socket: run_dir.join(SOCKET),
                outside_file: folders.cni_outside_file.clone(),
                mesh_namespace: self.namespace.clone(),
                ..mesh_cni::Entry::default()
            },
        }
    }
}

/// Beside this program; where there is none, this program, which is one as well.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.with_file_name(mesh_cni::PLUGIN);
    match beside.is_file() {
        true => beside,
        false => own,
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cni {
    /// Put the plugin into the node's chain of CNI plugins, where it is not; exit code 0 when
    /// it is there, 1 when it cannot be, 3 when the node has no network yet.
    Install {
        #[command(flatten)]
        chain: Chain,
        /// Directory of the agent's socket for the plugin, here and on the host.
        #[arg(long, default_value = RUN_DIR)]
        run_dir: PathBuf,
        /// How long a network of the node is waited for.
        #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
        wait: Duration,
    },
    /// Take the plugin out of the node's chain again. Its program stays while sandboxes
    /// that were made with it may need it, and does nothing any more; exit code 4 then. It stays
    /// also while a configuration cannot be read, which may name it; exit code 1 then.
    Uninstall {
        #[command(flatten)]
        chain: Chain,
        /// Directory of the agent's socket for the plugin, here and on the host.
        #[arg(long, default_value = RUN_DIR)]
        run_dir: PathBuf,
        /// Remove the program too, whatever needs it. CRI-O cannot take away sandboxes then
        /// that were made with it; containerd can. Not while a configuration cannot be read.
        #[arg(long)]
        also_program: bool,
    },
}
