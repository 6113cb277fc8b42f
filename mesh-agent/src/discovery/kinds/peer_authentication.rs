//! PeerAuthentication: whether plaintext is taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;

use super::about::{About, Followed, Policy};
use super::meta::Meta;
use super::rules::port;
use super::scope::scope;
use crate::discovery::fields::{Mistake, reason, typed, unknown};
use crate::discovery::tree::{Node, View};
use crate::model::policy::{PeerAuthentication, PeerMode, Scope};
use crate::model::{ByNamespace, Snapshot};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mtls {
    mode: Option<String>,
}

impl Policy for PeerAuthentication {
    const ABOUT: About = About {
        name: "PeerAuthentication",
        group: "security.istio.io",
        versions: &["v1", "v1beta1"],
        plural: "peerauthentications",
        namespaced: true,
        followed: Followed::Whole,
        meaning: "whether pods take plaintext: STRICT, PERMISSIVE, DISABLE, also by port",
    };

    fn read(value: &Node<'_>, meta: &Meta, is_trusted: bool, mistakes: &mut Vec<Mistake>) -> Self {
        peer_authentication(value, meta, is_trusted, mistakes)
    }

    fn is_in(spec: &Node<'_>) -> bool {
        !spec["mtls"].is_null() || !spec["portLevelMtls"].is_null()
    }

    fn is_spoken_of(text: &str) -> bool {
        let words = [Self::ABOUT.name, "mtls:", "portLevelMtls:"];
        words.iter().any(|word| text.contains(word))
    }

    fn anything(namespace: &str, name: &str, why: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            created: None,
            scope: Scope::Mesh,
            mode: None,
            ports: BTreeMap::new(),
            broken: Some(why.to_owned()),
        }
    }

    /// STRICT.
    fn fail_closed(&mut self, why: &str) {
        self.broken.get_or_insert_with(|| why.to_owned());
    }

    fn of(snapshot: &mut Snapshot) -> &mut ByNamespace<Arc<Self>> {
        &mut snapshot.peer_authentications
    }
}

fn peer_authentication(
    value: &Node<'_>,
    meta: &Meta,
    trusted: bool,
    mistakes: &mut Vec<Mistake>,
) -> PeerAuthentication {
    let spec = &value["spec"];
    unknown(
        spec,
        &["selector", "mtls", "portLevelMtls"],
        "spec",
        mistakes,
    );
    let scope = scope(spec, meta, trusted, mistakes);
    let mode = mode(&spec["mtls"], "spec.mtls", mistakes);
    let mut ports = BTreeMap::new();
    match spec["portLevelMtls"].view() {
        View::Null => {}
        View::Mapping(_) if !matches!(&scope, Scope::Labels(_)) => {
            let message = "needs a selector".to_owned();
            mistakes.push(("spec.portLevelMtls".to_owned(), message));
        }
        View::Mapping(map) => {
            for (key, value) in map.iter() {
                let at = format!("spec.portLevelMtls.{key}");
                let mode = self::mode(value, &at, mistakes);
                match port(key) {
                    Ok(port) => drop(ports.insert(port, mode)),
                    Err(message) => mistakes.push((at, message)),
                }
            }
        }
        _ => mistakes.push((
            "spec.portLevelMtls".to_owned(),
            "expected a mapping".to_owned(),
        )),
    }
    PeerAuthentication {
        namespace: meta.namespace().to_owned(),
        name: meta.name.to_string(),
        created: created(&value["metadata"]),
        scope,
        mode,
        ports,
        broken: reason(mistakes),
    }
}

/// As an API server writes it; anything else is not known.
fn created(metadata: &Node<'_>) -> Option<SystemTime> {
    humantime::parse_rfc3339(metadata["creationTimestamp"].as_text()?).ok()
}

fn mode(value: &Node<'_>, at: &str, mistakes: &mut Vec<Mistake>) -> Option<PeerMode> {
    if value.is_null() {
        return None;
    }
    let raw: Mtls = match typed(value, at) {
        Ok(raw) => raw,
        Err(mistake) => {
            mistakes.push(mistake);
            return Some(PeerMode::Strict);
        }
    };
    match raw.mode.as_deref() {
        None | Some("UNSET") => None,
        Some("STRICT") => Some(PeerMode::Strict),
        Some("PERMISSIVE") => Some(PeerMode::Permissive),
        Some("DISABLE") => Some(PeerMode::Disable),
        Some(other) => {
            let message = format!("{other:?} is not STRICT, PERMISSIVE, DISABLE or UNSET");
            mistakes.push((format!("{at}.mode"), message));
            Some(PeerMode::Strict)
        }
    }
}
