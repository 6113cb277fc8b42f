//! The authority in a cluster: its state in a Secret, agents by the review of
//! their service account's token, roots in a ConfigMap that agents watch.
//!
//! Two replicas sign; nobody leads. Whoever changes the state does it to the
//! version that was read, or not at all.

mod claims;
mod config;
mod history;
mod kept;
mod pods;
mod published;
mod questions;
#[cfg(test)]
mod real;
mod review;
mod roots;
mod secret;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::errors::Error;
use super::place::Place;
use super::signer::Ca;
use super::store::Store;
use crate::cluster::{Api, ApiError, Client};
pub(crate) use config::{Account, Cluster, NotAnAccount, STALE};
pub(super) use pods::{Of, Pods};
pub(super) use review::{LAG, Reviews};
use secret::Secret;

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Self::Cluster(error.to_string())
    }
}

/// What of the cluster a running authority looks at.
pub(super) struct InCluster {
    api: Arc<dyn Api>,
    cluster: Cluster,
    secret: Arc<Secret>,
    pub(super) pods: Arc<Pods>,
    pub(super) reviews: Arc<Reviews>,
}

impl InCluster {
    /// In the runtime that answers the store's calls.
    pub(super) fn new(api: Arc<dyn Api>, cluster: Cluster) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let secret = Arc::new(Secret::new(api.clone(), &cluster, runtime, true));
        let pods = Arc::new(Pods::new(cluster.stale));
        let reviews = Arc::new(Reviews::new(api.clone(), &cluster, pods.clone()));
        Self {
            api,
            cluster,
            secret,
            pods,
            reviews,
        }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        self.secret.clone()
    }

    /// Follows the cluster until cancelled.
    pub(super) fn start(&self, ca: Arc<Ca>, tasks: &TaskTracker, cancel: &CancellationToken) {
        let (api, secret, cancelled) = (self.api.clone(), self.secret.clone(), cancel.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = secret.follow(&*api) => {}
            }
        });
        let (api, pods, cancelled) = (self.api.clone(), self.pods.clone(), cancel.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = pods.follow(&*api) => {}
            }
        });
        let (api, cluster, cancelled) = (self.api.clone(), self.cluster.clone(), cancel.clone());
        let secret = self.secret.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = roots::keep(&*api, &cluster, &secret, &ca.metrics) => {}
            }
        });
    }
}

pub(super) async fn connect(cluster: &Cluster) -> Result<Client, Error> {
    let client = Client::start(&cluster.access).await;
    client.map_err(|error| Error::Cluster(error.to_string()))
}

/// For the commands, which change the state as a running authority does: each in a
/// thread that may wait for this runtime.
pub(crate) async fn in_cluster(cluster: &Cluster) -> Result<Place, Error> {
    let api = connect(cluster).await?;
    let runtime = tokio::runtime::Handle::current();
    let secret = Secret::new(Arc::new(api), cluster, runtime, false);
    Ok(Place::open(Arc::new(secret)))
}
