//! What of one version of the Secret stands in the ConfigMap, and which version that is.

use std::sync::Arc;

use serde_json::{Value, json};

/// Roots that agents trust, and revocation lists, as they are called there.
const ROOTS: &str = "root.pem";
const LISTS: &str = "crl.pem";
/// Of which Secret, in which version, they are.
const UID: &str = "mesh-agent.io/secret-uid";
const VERSION: &str = "mesh-agent.io/secret-version";

/// What of one version of the Secret is for agents.
pub(super) struct Published {
    pub(super) data: Value,
    uid: Arc<str>,
    pub(super) version: Arc<str>,
}

impl Published {
    pub(super) fn of(uid: Arc<str>, version: Arc<str>, roots: String, lists: String) -> Self {
        Self {
            data: json!({ROOTS: roots, LISTS: lists}),
            uid,
            version,
        }
    }

    /// The version that is published there, where it is a newer one of the same Secret.
    pub(super) fn is_older_than(&self, there: &Value) -> Option<u64> {
        let noted = |name: &str| there["metadata"]["annotations"][name].as_str();
        let published: u64 = noted(VERSION)?.parse().ok()?;
        let own: u64 = self.version.parse().ok()?;
        let is_newer = noted(UID)? == &*self.uid && published > own;
        is_newer.then_some(published)
    }

    pub(super) fn annotations(&self) -> Value {
        json!({UID: &*self.uid, VERSION: &*self.version})
    }
}
