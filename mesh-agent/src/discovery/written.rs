//! Labels and annotations are text, whatever YAML takes them for.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::policies;
use super::yaml::yaml;

/// Where texts stand that people leave the quotes off.
const PLACES: [&str; 2] = ["/metadata/labels", "/metadata/annotations"];

/// The same document, with these as they are written.
#[derive(Default, Deserialize)]
struct Written {
    metadata: Option<Metadata>,
    items: Option<Vec<Written>>,
}

type Texts = Option<BTreeMap<String, Option<String>>>;

#[derive(Default, Deserialize)]
struct Metadata {
    labels: Texts,
    annotations: Texts,
}

/// Puts the text in the place of what is not one: `1.10` is no number here.
/// Policies stay as they are: they are read strictly.
pub(super) fn labels(document: &str, value: &mut Value) {
    if !lacks(value) {
        return;
    }
    // Where it has another shape, each is read from the value as far as it goes.
    if let Ok(written) = yaml::<Written>(document) {
        put(written, value);
    }
}

fn lacks(value: &Value) -> bool {
    let is_bare = |v: &Value| v.is_number() || v.is_boolean();
    let mut maps = PLACES
        .iter()
        .filter_map(|at| value.pointer(at)?.as_object());
    let items = value["items"].as_array();
    maps.any(|map| map.values().any(is_bare)) || items.into_iter().flatten().any(lacks)
}

fn put(written: Written, value: &mut Value) {
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        for (written, item) in written.items.unwrap_or_default().into_iter().zip(items) {
            put(written, item);
        }
    }
    if policies::is_policy(value) {
        return;
    }
    let meta = written.metadata.unwrap_or_default();
    for (at, texts) in PLACES.iter().zip([meta.labels, meta.annotations]) {
        let map = value.pointer_mut(at).and_then(Value::as_object_mut);
        for (key, value) in map.into_iter().flatten() {
            let text = texts.as_ref().and_then(|t| t.get(key)?.as_ref());
            if let Some(text) = text.filter(|_| value.is_number() || value.is_boolean()) {
                *value = Value::String(text.clone());
            }
        }
    }
}
