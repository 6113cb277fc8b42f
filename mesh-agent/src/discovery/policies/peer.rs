//! PeerAuthentication.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Deserialize;

use super::rules::port;
use super::scope::scope;
use crate::discovery::fields::{Mistake, reason, typed, unknown};
use crate::discovery::kinds::Meta;
use crate::discovery::tree::{Node, View};
use crate::model::policy::{PeerAuthentication, PeerMode, Scope};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mtls {
    mode: Option<String>,
}

pub(super) fn peer_authentication(
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
        created: created(meta),
        scope,
        mode,
        ports,
        broken: reason(mistakes),
    }
}

/// As an API server writes it; anything else is not known.
fn created(meta: &Meta) -> Option<SystemTime> {
    humantime::parse_rfc3339(meta.creation_timestamp.as_deref()?).ok()
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
