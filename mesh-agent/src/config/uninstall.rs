//! What is taken off a node.

use std::path::PathBuf;

use clap::Args;

use super::cni::Folders;
use super::host::OnDisk;
use super::place::Place;

/// What agents of this node were told of their directories, as `run` takes it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Uninstall {
    /// Where the node's root directory is seen from here.
    #[arg(long, env = "MESH_HOST_DIR", default_value = "/")]
    pub(crate) host_dir: PathBuf,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) on_disk: OnDisk,
    #[command(flatten)]
    pub(crate) folders: Folders,
    /// Then stay until it is ended, for a DaemonSet; a program of the plugin that had to
    /// stay is removed when nothing needs it any more.
    #[arg(long)]
    pub(crate) stay: bool,
}
