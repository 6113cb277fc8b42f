//! Files of YAML documents to objects, strictly.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::kinds::Meta;
use super::objects::{Kind, Object, Origin};
use super::{Code, Problem, policies};

/// Objects of all files together, and the most that is parsed of one.
pub(super) const MAX_DOCUMENTS: usize = 100_000;
/// Mistakes told of one file.
const MAX_PROBLEMS: usize = 1_000;

/// One file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) objects: Vec<Object>,
    pub(super) problems: Vec<Problem>,
    /// Stops counting just above [`MAX_DOCUMENTS`].
    pub(super) documents: usize,
}

impl Parsed {
    pub(super) fn of_problem(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
            ..Self::default()
        }
    }
}

/// Parses one file of YAML documents; `List` kinds are unpacked.
#[must_use]
pub fn parse(file: &Path, bytes: &[u8]) -> (Vec<Object>, Vec<Problem>) {
    let parsed = parse_file(file, bytes);
    (parsed.objects, parsed.problems)
}

pub(super) fn parse_file(file: &Path, bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => std::borrow::Cow::Borrowed(text),
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|b| **b == b'\n').count() as u64;
            let message = "the file is not UTF-8".to_owned();
            parsed.problems.push(syntax(file, line, message));
            String::from_utf8_lossy(bytes)
        }
    };
    let is_text = parsed.problems.is_empty();
    for (line, document) in documents(&text) {
        if parsed.documents > MAX_DOCUMENTS {
            break;
        }
        let origin = Origin {
            file: file.to_owned(),
            line,
        };
        match is_text.then(|| yaml(&document)) {
            Some(Ok(Value::Null)) => {}
            Some(Ok(value)) => unpack(&origin, value, &mut parsed),
            Some(Err(e)) => {
                let location = e.location();
                let at = location.map_or(line, |l| line + l.line().saturating_sub(1));
                let message = e.without_snippet().to_string();
                let column = location.map_or(0, |l| l.column());
                parsed.problems.push(Problem {
                    column,
                    ..syntax(file, at, message)
                });
                salvage(&origin, &document, &mut parsed);
            }
            None => salvage(&origin, &document, &mut parsed),
        }
        shorten(file, &mut parsed.problems);
    }
    parsed
}

/// What aliases repeat may be as large as the document, and no larger: a few
/// hundred bytes of them would be a million values else.
fn yaml(document: &str) -> Result<Value, serde_saphyr::Error> {
    let repeated = document.len();
    let options = serde_saphyr::options! {
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: repeated },
    };
    serde_saphyr::from_str_with_options(document, options)
}

fn syntax(file: &Path, line: u64, message: String) -> Problem {
    Problem {
        code: Code::Syntax,
        file: file.to_owned(),
        line,
        message,
        ..Problem::default()
    }
}

/// Policies must not vanish with a syntax error.
fn salvage(origin: &Origin, document: &str, parsed: &mut Parsed) {
    for value in policies::salvage(document) {
        parsed.documents += 1;
        let object = policies::parse(origin, &value, &mut parsed.problems);
        parsed.objects.push(object);
    }
}

fn shorten(file: &Path, problems: &mut Vec<Problem>) {
    if problems.len() > MAX_PROBLEMS {
        problems.truncate(MAX_PROBLEMS);
        problems.push(syntax(
            file,
            0,
            "has more mistakes than are told".to_owned(),
        ));
    }
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

fn unpack(origin: &Origin, value: Value, parsed: &mut Parsed) {
    let is_list = value["kind"].as_str().is_some_and(|k| k.ends_with("List"));
    if is_list || value["items"].is_array() {
        return unpack_list(origin, value, parsed);
    }
    parsed.documents += 1;
    if policies::is_policy(&value) {
        let object = policies::parse(origin, &value, &mut parsed.problems);
        return parsed.objects.push(object);
    }
    match object(origin, &value) {
        Ok(object) => parsed.objects.push(object),
        Err(problem) => parsed.problems.push(*problem),
    }
}

/// Also what only looks like a list: a policy in it must not vanish.
fn unpack_list(origin: &Origin, mut value: Value, parsed: &mut Parsed) {
    let mut problem = |field: &str, message: String| {
        parsed.problems.push(Problem {
            code: Code::InvalidValue,
            object: "List".to_owned(),
            field: field.to_owned(),
            ..syntax(&origin.file, origin.line, message)
        });
    };
    let kind = value["kind"].as_str().unwrap_or_default();
    if !kind.ends_with("List") {
        problem("kind", format!("{kind:?} is not a list"));
    }
    let Value::Array(items) = value["items"].take() else {
        return problem("items", "expected a list".to_owned());
    };
    for item in items {
        if parsed.documents > MAX_DOCUMENTS {
            return;
        }
        unpack(origin, item, parsed);
        shorten(&origin.file, &mut parsed.problems);
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
            code: Code::of(&message),
            file: origin.file.clone(),
            line: origin.line,
            object: name.clone(),
            field,
            message,
            ..Problem::default()
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
            let mut problem = problem("kind".to_owned(), message);
            problem.code = Code::UnknownKind;
            return Err(problem);
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
