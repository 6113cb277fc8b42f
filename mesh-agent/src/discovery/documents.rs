//! Files of YAML documents to objects, strictly.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::kinds::Meta;
use super::objects::{Kind, Object, Origin};
use super::{Problem, policies};

/// Parses one file of YAML documents; `List` kinds are unpacked.
#[must_use]
pub fn parse(file: &Path, bytes: &[u8]) -> (Vec<Object>, Vec<Problem>) {
    let mut objects = Vec::new();
    let mut problems = Vec::new();
    let problem = |line, message| Problem {
        file: file.to_owned(),
        line,
        object: String::new(),
        field: String::new(),
        message,
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        problems.push(problem(1, "the file is not UTF-8".to_owned()));
        return (objects, problems);
    };
    for (line, document) in documents(text) {
        let origin = Origin {
            file: file.to_owned(),
            line,
        };
        match serde_saphyr::from_str::<Value>(&document) {
            Ok(Value::Null) => {}
            Ok(value) => unpack(&origin, value, &mut objects, &mut problems),
            Err(e) => {
                let at = e
                    .location()
                    .map_or(line, |l| line + l.line().saturating_sub(1));
                problems.push(problem(at, e.without_snippet().to_string()));
                if let Some(value) = policies::salvage(&document) {
                    objects.push(policies::parse(&origin, &value, &mut problems));
                }
            }
        }
    }
    (objects, problems)
}

/// Documents with the line that each starts on.
fn documents(text: &str) -> Vec<(u64, String)> {
    let mut documents = vec![(1, String::new())];
    for (number, line) in (1_u64..).zip(text.lines()) {
        if line == "---" || line.starts_with("--- ") {
            documents.push((number + 1, String::new()));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.retain(|(_, d)| {
        d.lines()
            .any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'))
    });
    documents
}

fn unpack(origin: &Origin, value: Value, objects: &mut Vec<Object>, problems: &mut Vec<Problem>) {
    if value["kind"] == "List" {
        match &value["items"] {
            Value::Array(items) => {
                for item in items {
                    unpack(origin, item.clone(), objects, problems);
                }
            }
            _ => problems.push(Problem {
                file: origin.file.clone(),
                line: origin.line,
                object: "List".to_owned(),
                field: "items".to_owned(),
                message: "expected a list".to_owned(),
            }),
        }
        return;
    }
    if policies::is_policy(&value) {
        return objects.push(policies::parse(origin, &value, problems));
    }
    match object(origin, &value) {
        Ok(object) => objects.push(object),
        Err(problem) => problems.push(*problem),
    }
}

fn object(origin: &Origin, value: &Value) -> Result<Object, Box<Problem>> {
    let api = value["apiVersion"].as_str().unwrap_or_default();
    let kind = value["kind"].as_str().unwrap_or_default();
    let name = format!(
        "{kind} {}/{}",
        value["metadata"]["namespace"].as_str().unwrap_or("default"),
        value["metadata"]["name"].as_str().unwrap_or("?"),
    );
    let problem = |field: String, message: String| {
        Box::new(Problem {
            file: origin.file.clone(),
            line: origin.line,
            object: name.clone(),
            field,
            message,
        })
    };
    let meta: Meta = typed(&value["metadata"], "metadata").map_err(|(f, m)| problem(f, m))?;
    let wrap = |e: (String, String)| problem(e.0, e.1);
    let kind = match (api, kind) {
        ("v1", "Namespace") => Kind::Namespace,
        ("v1", "ServiceAccount") => Kind::ServiceAccount,
        ("v1", "Service") => Kind::Service(typed(&value["spec"], "spec").map_err(wrap)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            Kind::EndpointSlice(typed(value, "").map_err(wrap)?)
        }
        ("v1", "Pod") => Kind::Pod(typed(value, "").map_err(wrap)?),
        _ => {
            let message = format!(
                "kind {kind:?} of {api:?} is not served; served are Namespace, ServiceAccount, Service, Pod (v1), EndpointSlice (discovery.k8s.io/v1), AuthorizationPolicy and PeerAuthentication (security.istio.io/v1)"
            );
            return Err(problem("kind".to_owned(), message));
        }
    };
    Ok(Object {
        origin: origin.clone(),
        meta,
        kind,
    })
}

/// A typed part of a document, or the path of the field at fault and why.
pub(super) fn typed<'v, T: Deserialize<'v>>(
    value: &'v Value,
    prefix: &str,
) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let field = match (prefix, path.as_str()) {
            ("", path) => path.to_owned(),
            (prefix, ".") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        (field, e.into_inner().to_string())
    })
}
