//! The ConfigMap that agents watch: always what the state says, and written only
//! where it says something else.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, Secret};
use crate::ca::errors::Error;
use crate::ca::metrics::Metrics;
use crate::ca::records::{BUNDLE, CRL};
use crate::cluster::{Api, ApiError, Verb};

/// Roots that agents trust, and revocation lists, as they are called there.
const ROOTS: &str = "root.pem";
const LISTS: &str = "crl.pem";
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
pub(super) async fn write(
    api: &dyn Api,
    cluster: &Cluster,
    secret: &Secret,
) -> Result<bool, Error> {
    let path = format!("{}/{}", cluster.configmaps(), cluster.configmap);
    for _ in 0..TRIES {
        // Anew each time: the state may be another one by now.
        let wanted = secret.published();
        let Some((roots, lists)) = wanted else {
            return Ok(false);
        };
        let data = json!({ROOTS: roots, LISTS: lists});
        let written = match api.call(&path, Verb::Get).await {
            Ok(text) => {
                let there: Value = serde_json::from_str(&text).map_err(ApiError::from)?;
                if there["data"] == data {
                    return Ok(false);
                }
                let version = there["metadata"]["resourceVersion"].clone();
                api.call(&path, Verb::Replace(object(cluster, data, Some(version))))
                    .await
            }
            Err(ApiError::NotFound(_)) => {
                let create = Verb::Create(object(cluster, data, None));
                api.call(&cluster.configmaps(), create).await
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(_) => return Ok(true),
            Err(ApiError::Exists(_) | ApiError::Conflict(_) | ApiError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Busy)
}

fn object(cluster: &Cluster, data: Value, version: Option<Value>) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {
            "name": cluster.configmap,
            "labels": {"app.kubernetes.io/part-of": "mesh-agent"},
        },
    });
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version;
    }
    object
}

/// What is in the state under these names.
impl Secret {
    fn published(&self) -> Option<(String, String)> {
        let text = |name| self.text(name);
        Some((text(BUNDLE)?, text(CRL)?))
    }
}
