//! A TrafficPolicy as YAML.

use serde_json::{Map, Value, json};

use super::said::Policy;

pub(super) fn policy(policy: &Policy) -> String {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), policy.name.clone().into());
    if let Some(namespace) = &policy.namespace {
        metadata.insert("namespace".to_owned(), namespace.clone().into());
    }
    let mut target = json!({"group": "", "kind": "Service", "name": policy.service});
    if let Some(section) = &policy.section {
        target["sectionName"] = section.clone().into();
    }
    let mut text = String::from("---\napiVersion: mesh-agent.io/v1alpha1\nkind: TrafficPolicy\n");
    mapping(&json!({"metadata": metadata}), 0, &mut text);
    text.push_str("spec:\n");
    mapping(&json!({"targetRefs": [target]}), 1, &mut text);
    for (part, fields) in &policy.parts {
        mapping(&json!({*part: fields}), 1, &mut text);
    }
    text
}

fn mapping(value: &Value, depth: usize, text: &mut String) {
    for (key, value) in value.as_object().into_iter().flatten() {
        text.push_str(&"  ".repeat(depth));
        text.push_str(key);
        text.push(':');
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text.push('\n');
                mapping(value, depth + 1, text);
            }
            // All else is as JSON: no text is taken for something else.
            _ => {
                text.push(' ');
                text.push_str(&scalar(value));
                text.push('\n');
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(word) if is_plain(word) => word.clone(),
        _ => value.to_string(),
    }
}

/// A word that no reader of YAML takes for a number, a truth value or nothing: it has
/// a hyphen, or it is one of the API's or a time.
fn is_plain(word: &str) -> bool {
    let mut bytes = word.bytes();
    let begins = bytes.next().is_some_and(|b| b.is_ascii_alphabetic());
    let goes_on = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let taken = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    begins && goes_on && !taken.iter().any(|one| word.eq_ignore_ascii_case(one))
}
