//! The Kubernetes API as the source of the configuration.

use std::path::PathBuf;

use clap::Args;

use super::host::OnDisk;
use crate::discovery::ApiConfig;
use crate::kube::Access;

#[derive(Clone, Debug, Args)]
pub(crate) struct ApiFlags {
    /// Take the configuration from the Kubernetes API, and not from a directory.
    #[arg(long, conflicts_with = "config_dir")]
    pub(crate) kubernetes: bool,
    /// With --kubernetes: how the API server is reached [default: the service account of the agent's pod].
    #[arg(long, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// Without a kubeconfig by the service account of the pod that this runs in.
pub(crate) fn access(kubeconfig: Option<PathBuf>) -> Access {
    // A shell may have an empty one for other programs.
    let kubeconfig = kubeconfig.filter(|path| !path.as_os_str().is_empty());
    kubeconfig.map_or(Access::InCluster, Access::Kubeconfig)
}

impl ApiFlags {
    /// How the API server is reached.
    pub(crate) fn access(&self) -> Access {
        access(self.kubeconfig.clone())
    }

    /// `None` without `--kubernetes`.
    #[must_use]
    pub(crate) fn config(&self, on_disk: &OnDisk) -> Option<ApiConfig> {
        self.kubernetes.then(|| ApiConfig {
            access: self.access(),
            state_dir: on_disk.api(),
        })
    }
}
