//! Fields of a document: what they are, and what is wrong with them.

use serde::de::DeserializeOwned;

use super::tree::{Node, View};

/// A mistake: path of the field, and what is wrong.
pub(super) type Mistake = (String, String);

/// A typed part of a document, or the path of the field at fault and why.
pub(super) fn typed<T: DeserializeOwned>(node: &Node<'_>, prefix: &str) -> Result<T, Mistake> {
    serde_path_to_error::deserialize(&node.to_value()).map_err(|e| {
        let path = e.path().to_string();
        let field = match (prefix, path.as_str()) {
            ("", path) => path.to_owned(),
            (prefix, ".") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        (field, e.into_inner().to_string())
    })
}

pub(super) fn reason(mistakes: &[Mistake]) -> Option<String> {
    mistakes.first().map(|(f, m)| format!("{f}: {m}"))
}

pub(super) fn unknown(value: &Node<'_>, known: &[&str], at: &str, mistakes: &mut Vec<Mistake>) {
    match value.view() {
        View::Null => {}
        View::Mapping(map) => {
            let unknown = map.keys().filter(|k| !known.contains(k));
            for key in unknown.take(10) {
                let field = format!("{at}.{key}").trim_start_matches('.').to_owned();
                mistakes.push((
                    field,
                    format!("unknown field; known are {}", known.join(", ")),
                ));
            }
        }
        _ => mistakes.push((at.to_owned(), "expected a mapping".to_owned())),
    }
}

/// A field with nothing behind it: an editing slip. Read as absent, as the API
/// server would, an empty `action` is ALLOW and an empty `from` is everybody.
pub(super) fn nulls(value: &Node<'_>, at: &str, mistakes: &mut Vec<Mistake>) {
    if mistakes.len() >= 10 {
        return;
    }
    match value.view() {
        View::Null => mistakes.push((at.to_owned(), "must not be empty".to_owned())),
        View::Mapping(map) => {
            for (key, value) in map.iter() {
                nulls(value, &format!("{at}.{key}"), mistakes);
            }
        }
        View::List(list) => {
            for (i, value) in list.iter().enumerate() {
                nulls(value, &format!("{at}[{i}]"), mistakes);
            }
        }
        View::Bool(_) | View::Number(_) | View::Text(_) => {}
    }
}
