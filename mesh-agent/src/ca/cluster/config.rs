//! What an authority in a cluster is told.

use std::str::FromStr;
use std::time::Duration;

use crate::kube::Access;
use crate::model::kubernetes_name::{is_label, is_subdomain};

/// Where in the cluster the authority keeps and shows its state, and whom it serves.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) access: Access,
    pub(crate) namespace: String,
    /// With the state, keys included.
    pub(crate) secret: String,
    /// With the roots, for agents.
    pub(crate) configmap: String,
    /// That an agent's token must be for.
    pub(crate) audience: String,
    /// Of agents.
    pub(crate) accounts: Vec<Account>,
    /// So long the authority works by what it last saw of the cluster. Afterwards
    /// nothing is signed: a root may have been retired, a pod deleted.
    pub(crate) stale: Duration,
}

/// Of `stale`, where nothing else is wanted.
pub(crate) const STALE: Duration = Duration::from_secs(15 * 60);

/// A service account, as `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no service account as NAMESPACE/NAME")]
pub(crate) struct NotAnAccount;

impl FromStr for Account {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, NotAnAccount> {
        let (namespace, name) = text.split_once('/').ok_or(NotAnAccount)?;
        let good = is_label(namespace) && is_subdomain(name);
        good.then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
        .ok_or(NotAnAccount)
    }
}

impl Cluster {
    pub(super) fn secrets(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    pub(super) fn configmaps(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    /// DNS names by which agents in the cluster call it.
    pub(in crate::ca) fn names(&self) -> Vec<String> {
        let service = format!("mesh-agent-ca.{}.svc", self.namespace);
        vec![format!("{service}.cluster.local"), service]
    }
}
