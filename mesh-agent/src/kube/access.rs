//! Where the API server is, and as whom it is asked.

use std::path::PathBuf;

use hyper::header::{HeaderValue, USER_AGENT};
use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// How the flags say that it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// By the pod's own service account; token and roots are read again as the
    /// kubelet replaces them.
    InCluster,
    Kubeconfig(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("no service account of a pod is here ({0}); elsewhere give --kubeconfig")]
    NotInCluster(#[from] InClusterError),
    #[error("{path}: {source}")]
    Kubeconfig {
        path: PathBuf,
        source: Box<KubeconfigError>,
    },
    #[error("{0}: a proxy towards the API server is not supported (proxy-url, HTTPS_PROXY)")]
    Proxy(PathBuf),
    #[error("{0}")]
    Credentials(Box<kube::Error>),
}

impl Access {
    /// Reads files, and runs what a kubeconfig names to get a token.
    pub(super) async fn config(&self) -> Result<Config, AccessError> {
        let mut config = match self {
            Self::InCluster => Config::incluster()?,
            Self::Kubeconfig(path) => {
                let wrong = |source| AccessError::Kubeconfig {
                    path: path.clone(),
                    source: Box::new(source),
                };
                let file = Kubeconfig::read_from(path).map_err(wrong)?;
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(file, &options).await;
                let config = config.map_err(wrong)?;
                if config.proxy_url.is_some() {
                    return Err(AccessError::Proxy(path.clone()));
                }
                config
            }
        };
        let agent = concat!("mesh-agent/", env!("CARGO_PKG_VERSION"));
        let agent = HeaderValue::from_static(agent);
        config.headers.push((USER_AGENT, agent));
        Ok(config)
    }
}
