//! What the API server calls itself: Services that webhooks and APIServices name. It has no
//! identity of the mesh, so a port of theirs that takes mutual TLS alone is out of its
//! reach: that is told beside the Service, before somebody looks for it.
//!
//! Who is named is followed; of each one it is then asked, now and again, what is decided
//! by as any node would: nothing of it is held. What cannot be read is told in the log, and
//! warns of nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Api, ApiError, Metadata, Seen, escape, follow, read};
use crate::discovery::{Book, Closed};
use crate::model::ServiceKey;
use crate::model::policy::MeshSettings;
use crate::status::{About, Events, Warning};

/// Kind, and where it is listed.
const NAMING: [(&str, &str); 3] = [
    (
        "ValidatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    ),
    (
        "MutatingWebhookConfiguration",
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    ),
    ("APIService", "/apis/apiregistration.k8s.io/v1/apiservices"),
];
const REASON: &str = "UnreachableByApiServer";
/// How often it is looked at what has not changed here: policies and pods do.
const LOOK: Duration = Duration::from_secs(60);
/// Between two Services, and before the first that changed.
const PAUSE: Duration = Duration::from_millis(100);
/// Of all that are named. Of more it is not known.
const MAX_NAMED: usize = 1_000;
/// Of one object.
const MAX_EACH: usize = 64;
/// Of a Service's pods it is asked of so many.
const PODS: usize = 20;
const PAGE: usize = 500;
/// A larger object is read by agents alone.
const MAX_READ: usize = 256 << 10;

/// What an object says of whom the API server calls.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Naming {
    metadata: Metadata,
    webhooks: Option<Vec<Webhook>>,
    spec: Option<Client>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Webhook {
    client_config: Client,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Client {
    service: Option<Reference>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reference {
    namespace: String,
    name: String,
    port: Option<u16>,
}

/// A Service, and a port of it.
type Target = (ServiceKey, u16);

/// Name of the object, and whom it names.
type Named = (String, BTreeSet<Target>);

/// Whoever writes what cannot be understood is refused by the API server first.
fn named(json: &str) -> Named {
    let naming: Naming = read(json).unwrap_or_default();
    let webhooks = naming.webhooks.into_iter().flatten();
    let webhooks = webhooks.map(|webhook| webhook.client_config);
    let clients = webhooks.chain(naming.spec).take(MAX_EACH);
    let targets = clients.filter_map(|client| {
        let Reference {
            namespace,
            name,
            port,
        } = client.service?;
        let key = ServiceKey {
            namespace: namespace.into(),
            name: name.into(),
        };
        Some((key, port.unwrap_or(443)))
    });
    (naming.metadata.name, targets.collect())
}

/// Who names whom, by kind and name.
#[derive(Default)]
struct All(BTreeMap<(usize, String), BTreeSet<Target>>);

impl All {
    /// True where it is another one than before.
    fn see(&mut self, kind: usize, seen: Seen<'_, Named>) -> bool {
        match seen {
            Seen::All(all) => {
                let before: BTreeMap<_, _> =
                    self.0.extract_if(.., |(of, _), _| *of == kind).collect();
                let now = all
                    .into_iter()
                    .map(|(name, targets)| ((kind, name), targets));
                let now: BTreeMap<_, _> = now.filter(|(_, targets)| !targets.is_empty()).collect();
                let is_other = before != now;
                for (of, targets) in now {
                    self.put(of, targets);
                }
                is_other
            }
            Seen::Is((name, targets)) => self.put((kind, name), targets),
            Seen::IsGone((name, _)) => self.0.remove(&(kind, name)).is_some(),
            Seen::Same | Seen::Failed(_) => false,
        }
    }

    fn put(&mut self, of: (usize, String), targets: BTreeSet<Target>) -> bool {
        if targets.is_empty() {
            return self.0.remove(&of).is_some();
        }
        let others = self.0.iter().filter(|(known, _)| **known != of);
        let count: usize = others.map(|(_, targets)| targets.len()).sum();
        if count + targets.len() > MAX_NAMED {
            tracing::warn!(
                name = of.1,
                "more Services are named by webhooks and APIServices than are looked at"
            );
            return self.0.remove(&of).is_some();
        }
        self.0.insert(of, targets.clone()) != Some(targets)
    }

    /// Each once, with the first that names it.
    fn targets(&self) -> BTreeMap<Target, String> {
        let mut all = BTreeMap::new();
        for ((kind, name), targets) in &self.0 {
            let (kind, _) = NAMING[*kind];
            for target in targets {
                let by = || format!("{kind} {name}");
                all.entry(target.clone()).or_insert_with(by);
            }
        }
        all
    }
}

/// Until cancelled.
pub(super) async fn warn(
    api: Arc<dyn Api>,
    settings: MeshSettings,
    events: Arc<Events>,
    cancel: CancellationToken,
) {
    let all = Mutex::new(All::default());
    let changed = Notify::new();
    let following = |kind: usize| {
        let (_, list) = NAMING[kind];
        let (api, all, changed) = (&*api, &all, &changed);
        let mut last = String::new();
        let see = move |seen: Seen<'_, Named>| {
            match &seen {
                Seen::Failed(error) => tell(list, error, &mut last),
                Seen::All(_) | Seen::Is(_) | Seen::IsGone(_) | Seen::Same => last.clear(),
            }
            if all.lock().see(kind, seen) {
                changed.notify_one();
            }
        };
        follow(api, (list, ""), |json| Ok(named(json)), see)
    };
    let following = async {
        tokio::join!(following(0), following(1), following(2));
    };
    let looking = async {
        let mut told = String::new();
        loop {
            let targets = all.lock().targets();
            for (target, by) in targets {
                match look(&*api, &settings, &target).await {
                    Ok(Some(warning)) => events.note(warning.by(&by)),
                    Ok(None) => {}
                    Err(error) => tell("what a Service's mode follows from", &error, &mut told),
                }
                sleep(PAUSE).await;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = changed.notified() => sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = following => {}
        () = looking => {}
    }
}

/// Once, where it is refused. That nobody answers others tell; what is not installed names
/// nobody.
fn tell(what: &str, error: &ApiError, last: &mut String) {
    let said = error.to_string();
    let is_plain = matches!(error, ApiError::NotFound(_) | ApiError::Away(_));
    if is_plain || *last == said {
        return tracing::debug!(%error, what, "it is not known whom the API server reaches");
    }
    tracing::warn!(%error, what, "it is not known whom the API server reaches");
    *last = said;
}

/// A Service of which somebody is to be told.
struct Refused {
    about: About,
    target: Target,
    closed: Closed,
}

impl Refused {
    fn by(self, by: &str) -> Warning {
        let (_, port) = self.target;
        let Closed {
            port: pods,
            by: policy,
        } = self.closed;
        let policy = policy.map(|policy| format!(" (PeerAuthentication {policy})"));
        let policy = policy.unwrap_or_default();
        let message = format!(
            "{by} has the API server call port {port} of this Service, port {pods} of its pods, which takes mutual TLS alone{policy}: the API server is not in the mesh and is refused; set portLevelMtls: {{{pods}: {{mode: PERMISSIVE}}}} in a PeerAuthentication with a selector for these pods"
        );
        Warning {
            about: self.about,
            reason: REASON.to_owned(),
            message,
            node: String::new(),
            path: String::new(),
        }
    }
}

/// `None` where the API server gets through, or nobody can say.
async fn look(
    api: &dyn Api,
    settings: &MeshSettings,
    target: &Target,
) -> Result<Option<Refused>, ApiError> {
    let (key, port) = target;
    let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
    let mut book = Book::of(settings.clone());
    let mut about = None;
    let mut selector = String::new();
    let one = |name: &str| format!("limit=1&fieldSelector=metadata.name%3D{}", escape(name));
    let list = format!("/api/v1/namespaces/{namespace}/services");
    hear(
        api,
        (&*list, "v1", "Service"),
        &one(name),
        &mut book,
        |json| {
            let service: Service = read(json).unwrap_or_default();
            let pairs = service.spec.selector.unwrap_or_default().into_iter();
            let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
            selector = pairs.join(",");
            about = Some(About {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: service.metadata.uid,
            });
        },
    )
    .await?;
    // What is behind one without a selector is not looked for.
    let Some(about) = about.filter(|_| !selector.is_empty()) else {
        return Ok(None);
    };
    let list = "/api/v1/namespaces";
    hear(
        api,
        (list, "v1", "Namespace"),
        &one(namespace),
        &mut book,
        |_| {},
    )
    .await?;
    let pods = format!("limit={PODS}&labelSelector={}", escape(&selector));
    let list = format!("/api/v1/namespaces/{namespace}/pods");
    hear(api, (&*list, "v1", "Pod"), &pods, &mut book, |_| {}).await?;
    if !book.has_enrolled() {
        return Ok(None);
    }
    for of in BTreeSet::from([namespace, &*settings.root_namespace]) {
        let list = format!("/apis/security.istio.io/v1/namespaces/{of}/peerauthentications");
        let kind = (&*list, "security.istio.io/v1", "PeerAuthentication");
        match hear(api, kind, &format!("limit={PAGE}"), &mut book, |_| {}).await {
            Err(ApiError::NotFound(_)) => {}
            heard => heard?,
        }
    }
    let closed = book.closed(key, *port);
    Ok(closed.map(|closed| Refused {
        about,
        target: target.clone(),
        closed,
    }))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Service {
    metadata: Metadata,
    spec: Selecting,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Selecting {
    selector: Option<BTreeMap<String, String>>,
}

/// The first page of a list.
async fn hear(
    api: &dyn Api,
    (list, version, kind): (&str, &str, &str),
    query: &str,
    book: &mut Book,
    mut see: impl FnMut(&str) + Send,
) -> Result<(), ApiError> {
    let mut take = |json: &str| {
        let metadata = read::<Slim>(json)?.metadata;
        if json.len() <= MAX_READ {
            see(json);
            let path = format!("{list}/{}", metadata.name);
            book.hear(&path, Some(with_kind(json, version, kind).as_bytes()));
        }
        Ok(())
    };
    api.list(&format!("{list}?{query}"), &mut take).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Slim {
    metadata: Metadata,
}

/// In a list of the API's own kinds each item leaves out what it is.
pub(super) fn with_kind(json: &str, version: &str, kind: &str) -> String {
    let mut object: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    if object.is_object() {
        object["kind"] = kind.into();
        object["apiVersion"] = version.into();
    }
    object.to_string()
}

#[cfg(test)]
mod tests;
