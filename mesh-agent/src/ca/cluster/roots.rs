//! The ConfigMap that agents watch: always what the state says, and written only
//! where it says something else.

use std::time::Duration;

use serde_json::{Value, json};

use super::published::Published;
use super::{Cluster, Secret};
use crate::ca::errors::Error;
use crate::ca::metrics::Metrics;
use crate::cluster::{Api, ApiError, Verb};

/// Somebody else's change is undone after this long.
const LOOK: Duration = Duration::from_secs(30);
const TRIES: usize = 8;

/// Does not end.
pub(super) async fn keep(api: &dyn Api, cluster: &Cluster, secret: &Secret, metrics: &Metrics) {
    let mut changes = secret.changes();
    loop {
        changes.mark_unchanged();
        let written = write(api, cluster, secret).await;
        match &written {
            Ok(true) => tracing::info!(configmap = cluster.configmap, "roots are published"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "roots are not published"),
        }
        metrics.rooted(written.err().map(|error| error.to_string()));
        let changed = tokio::time::timeout(LOOK, changes.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return;
        }
    }
}

/// Whether it had to be written.
///
/// What this replica saw last may be old. So it decides only whether to look: what is
/// written is the Secret as it is read then, after the ConfigMap that it replaces.
/// Whoever wrote a newer one meanwhile has changed that, and this change is refused.
pub(super) async fn write(
    api: &dyn Api,
    cluster: &Cluster,
    secret: &Secret,
) -> Result<bool, Error> {
    let path = format!("{}/{}", cluster.configmaps(), cluster.configmap);
    let Some(seen) = secret.published() else {
        return Ok(false);
    };
    for _ in 0..TRIES {
        let there = match api.call(&path, Verb::Get).await {
            Ok(text) => Some(serde_json::from_str::<Value>(&text).map_err(ApiError::from)?),
            Err(ApiError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        if there
            .as_ref()
            .is_some_and(|there| there["data"] == seen.data)
        {
            return Ok(false);
        }
        let Some(now) = secret.published_now().await? else {
            return Err(Error::Cluster(format!(
                "the Secret {} is gone: the roots stay as they are",
                cluster.secret
            )));
        };
        if there
            .as_ref()
            .is_some_and(|there| there["data"] == now.data)
        {
            return Ok(false);
        }
        if let Some(newer) = there.as_ref().and_then(|there| now.is_older_than(there)) {
            return Err(Error::Cluster(format!(
                "the Secret is read in version {}, and version {newer} is published already",
                now.version
            )));
        }
        let version = there.map(|there| there["metadata"]["resourceVersion"].clone());
        let (at, verb) = match version {
            Some(_) => (&path, Verb::Replace(object(cluster, now, version))),
            None => (
                &cluster.configmaps(),
                Verb::Create(object(cluster, now, None)),
            ),
        };
        match api.call(at, verb).await {
            Ok(_) => return Ok(true),
            Err(ApiError::Exists(_) | ApiError::Conflict(_) | ApiError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Busy)
}

fn object(cluster: &Cluster, published: Published, version: Option<Value>) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": published.data,
        "metadata": {
            "name": cluster.configmap,
            "labels": {"app.kubernetes.io/part-of": "mesh-agent"},
            "annotations": published.annotations(),
        },
    });
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version;
    }
    object
}
