//! Which service account has a live pod on which node: one slim record for each
//! pod of the cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::watch;

use super::config::Account;
use crate::cluster::{Api, Metadata, Seen, follow, read};

/// Pods with a node, and without those that ended.
const WANTED: &str =
    "fieldSelector=spec.nodeName%21%3D%2Cstatus.phase%21%3DSucceeded%2Cstatus.phase%21%3DFailed";
/// After its last moment, a pod is one no more: tokens have this leeway as well.
const LEEWAY: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    service_account_name: String,
    host_network: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    namespace: Arc<str>,
    account: Arc<str>,
    node: Arc<str>,
    in_network_of_node: bool,
    /// It is to be gone by then.
    ends: Option<SystemTime>,
}

#[derive(Default)]
struct Known {
    /// By UID.
    pods: HashMap<Box<str>, Pod>,
    by_node: HashMap<Arc<str>, HashSet<Box<str>>>,
    names: HashSet<Arc<str>>,
}

/// Whose pod.
#[derive(Clone, Copy, Debug)]
pub(in crate::ca) struct Of<'a> {
    pub(in crate::ca) node: &'a str,
    pub(in crate::ca) namespace: &'a str,
    pub(in crate::ca) account: &'a str,
}

pub(in crate::ca) struct Pods {
    stale: Duration,
    known: Mutex<Known>,
    /// When the API server was last there; None before the first list.
    contact: Mutex<Option<Instant>>,
    changes: watch::Sender<()>,
}

impl Pods {
    pub(super) fn new(stale: Duration) -> Self {
        Self {
            stale,
            known: Mutex::default(),
            contact: Mutex::default(),
            changes: watch::Sender::new(()),
        }
    }
}

impl Known {
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        // Of what is gone.
        if self.names.len() > 1_000 + 4 * self.pods.len() {
            self.names.retain(|name| Arc::strong_count(name) > 1);
        }
        let name: Arc<str> = text.into();
        self.names.insert(name.clone());
        name
    }

    fn remove(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else {
            return;
        };
        if let Some(there) = self.by_node.get_mut(&pod.node) {
            there.remove(uid);
            if there.is_empty() {
                self.by_node.remove(&pod.node);
            }
        }
    }

    fn put(&mut self, object: &Object) {
        let uid = &object.metadata.uid;
        self.remove(uid);
        let has_ended = matches!(object.status.phase.as_str(), "Succeeded" | "Failed");
        if has_ended || uid.is_empty() || object.spec.node_name.is_empty() {
            return;
        }
        let deleted = object.metadata.deletion_timestamp.as_deref();
        let pod = Pod {
            namespace: self.name(&object.metadata.namespace),
            account: self.name(&object.spec.service_account_name),
            node: self.name(&object.spec.node_name),
            in_network_of_node: object.spec.host_network,
            // What cannot be read is over.
            ends: deleted.map(|at| humantime::parse_rfc3339(at).unwrap_or(SystemTime::UNIX_EPOCH)),
        };
        let there = self.by_node.entry(pod.node.clone()).or_default();
        there.insert(uid.as_str().into());
        self.pods.insert(uid.as_str().into(), pod);
    }
}

impl Pod {
    fn lives(&self, now: SystemTime) -> bool {
        self.ends.is_none_or(|ends| now < ends + LEEWAY)
    }

    fn is_of(&self, of: Of<'_>) -> bool {
        *self.node == *of.node && *self.namespace == *of.namespace && *self.account == *of.account
    }
}

impl Pods {
    /// Does not end.
    pub(super) async fn follow(&self, api: &dyn Api) {
        follow(api, ("/api/v1/pods", WANTED), read::<Object>, |seen| {
            self.see(&seen);
        })
        .await;
    }

    fn see(&self, seen: &Seen<'_, Object>) {
        match seen {
            Seen::All(all) => {
                let mut known = Known::default();
                all.iter().for_each(|object| known.put(object));
                *self.known.lock() = known;
            }
            Seen::Is(object) => self.known.lock().put(object),
            Seen::IsGone(object) => self.known.lock().remove(&object.metadata.uid),
            Seen::Same => {}
            Seen::Failed(error) => {
                tracing::debug!(%error, "pods are not followed");
                return;
            }
        }
        *self.contact.lock() = Some(Instant::now());
        self.changes.send_replace(());
    }

    /// Whether it is so, now or within this long.
    pub(in crate::ca) async fn wait_until(&self, long: Duration, is_so: impl Fn() -> bool) -> bool {
        let mut changes = self.changes.subscribe();
        let waited = tokio::time::timeout(long, async {
            while !is_so() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        waited.await.is_ok() || is_so()
    }

    /// What it says is new enough to go by.
    pub(in crate::ca) fn is_known(&self) -> bool {
        let contact = *self.contact.lock();
        contact.is_some_and(|at| at.elapsed() < self.stale)
    }

    /// This very pod is there, and its.
    pub(in crate::ca) fn is(&self, uid: &str, of: Of<'_>) -> bool {
        let known = self.known.lock();
        let pod = known.pods.get(uid);
        pod.is_some_and(|pod| pod.is_of(of) && pod.lives(SystemTime::now()))
    }

    /// This very pod is on that node.
    pub(in crate::ca) fn is_on(&self, uid: &str, node: &str, namespace: &str) -> bool {
        let known = self.known.lock();
        let pod = known.pods.get(uid);
        pod.is_some_and(|pod| *pod.node == *node && *pod.namespace == *namespace)
    }

    /// The nodes where a pod of one of these accounts is; None while that is not known.
    pub(in crate::ca) fn nodes_of(&self, accounts: &[Account]) -> Option<Vec<Arc<str>>> {
        if !self.is_known() {
            return None;
        }
        let (known, now) = (self.known.lock(), SystemTime::now());
        let is_one = |pod: &Pod| {
            let is_of = |account: &Account| {
                *pod.namespace == *account.namespace && *pod.account == *account.name
            };
            accounts.iter().any(is_of) && pod.lives(now)
        };
        let has_one = |uids: &HashSet<Box<str>>| {
            let mut pods = uids.iter().filter_map(|uid| known.pods.get(uid));
            pods.any(is_one)
        };
        let there = known.by_node.iter().filter(|(_, uids)| has_one(uids));
        Some(there.map(|(node, _)| node.clone()).collect())
    }

    /// Some pod of it may have an identity there. Those in the node's own network
    /// have none.
    pub(in crate::ca) fn has(&self, of: Of<'_>) -> bool {
        let (known, now) = (self.known.lock(), SystemTime::now());
        let there = known.by_node.get(of.node).into_iter().flatten();
        let mut pods = there.filter_map(|uid| known.pods.get(uid));
        pods.any(|pod| pod.is_of(of) && !pod.in_network_of_node && pod.lives(now))
    }
}
