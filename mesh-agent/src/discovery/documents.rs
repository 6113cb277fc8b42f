//! Files of YAML documents to objects, strictly.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::core::{self, Class};
use super::objects::{Object, Origin};
use super::tree::{self, Node};
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
    /// Something cannot be read, and not even which object it is: it may be
    /// any that the file had before.
    pub(super) hides: bool,
    /// Objects of kinds that are not ours.
    pub(super) skipped: usize,
}

impl Parsed {
    pub(super) fn of_problem(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
            hides: true,
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
    parsed.hides = !is_text;
    for (line, document) in documents(&text) {
        if parsed.documents > MAX_DOCUMENTS {
            break;
        }
        let origin = Origin {
            file: file.to_owned(),
            line,
            item: String::new(),
        };
        match is_text.then(|| tree::read(&document)) {
            Some(Ok(node)) if node.is_null() => {}
            Some(Ok(node)) => unpack(&origin, node, &mut parsed),
            Some(Err(e)) => {
                let at = line + u64::from(e.place.line).saturating_sub(1);
                parsed.problems.push(Problem {
                    column: e.place.column.into(),
                    ..syntax(file, at, e.message)
                });
                salvage(&origin, &document, &mut parsed);
            }
            None => salvage(&origin, &document, &mut parsed),
        }
        shorten(file, &mut parsed.problems);
    }
    parsed
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

/// Policies must not vanish with a syntax error, nor pods be taken for outside.
fn salvage(origin: &Origin, document: &str, parsed: &mut Parsed) {
    parsed.hides = true;
    for value in policies::salvage(document) {
        parsed.documents += 1;
        let object = policies::parse(origin, &value, &mut parsed.problems);
        parsed.objects.push(object);
    }
    if let Some(unknown) = core::of_text(document) {
        parsed.objects.push(Object::unknown(origin, unknown));
    }
}

/// Mistakes first: no number of warnings makes a mistake, or hides one.
fn shorten(file: &Path, problems: &mut Vec<Problem>) {
    if problems.len() <= MAX_PROBLEMS {
        return;
    }
    problems.sort_by_key(|p| !p.is_mistake());
    let cut = problems.split_off(MAX_PROBLEMS);
    let (code, what) = match cut.iter().any(Problem::is_mistake) {
        true => (Code::Syntax, "mistakes"),
        false => (Code::Advisory, "warnings"),
    };
    problems.push(Problem {
        code,
        ..syntax(file, 0, format!("has more {what} than are told"))
    });
}

/// Documents with the line that each starts on.
pub(super) fn documents(text: &str) -> Vec<(u64, String)> {
    // A lone CR ends a line, too.
    let text = match text.contains('\r') {
        true => std::borrow::Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => std::borrow::Cow::Borrowed(text),
    };
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let mut documents = vec![(1, String::new())];
    for (number, line) in (1_u64..).zip(text.lines()) {
        let begins = documents.last().is_none_or(|(_, d)| d.trim().is_empty());
        let bare = line.trim_start_matches('\u{feff}');
        let behind = |mark: &str| {
            let rest = bare.strip_prefix(mark);
            rest.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        // A byte order mark may begin each document.
        let line = if begins { bare } else { line };
        if let Some(rest) = behind("---").or_else(|| behind("...")) {
            // A document may begin on the line of its mark.
            documents.push(match says(rest) {
                true => (number, format!("{rest}\n")),
                false => (number + 1, String::new()),
            });
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    // Before a document may stand directives.
    documents.retain(|(_, d)| d.lines().any(|l| says(l) && !l.starts_with('%')));
    documents
}

fn unpack(origin: &Origin, value: Node<'_>, parsed: &mut Parsed) {
    let value = match value.into_list() {
        Err(value) => value,
        Ok(items) => {
            parsed.hides = true;
            let message = "expected an object: a list of them is a List with items".to_owned();
            parsed.problems.push(list_problem(origin, ".", message));
            return unpack_each(origin, "", items, parsed);
        }
    };
    let is_list = value["kind"].as_text().is_some_and(|k| k.ends_with("List"));
    let is_foreign = core::classify(&value) == Class::Foreign && value["kind"] != "List";
    let has_items = value["items"].is_list();
    // An object may have no spec; a list has no name.
    let has_name = !is_list && !value["metadata"]["name"].is_null();
    let has_more = has_name || ["spec", "status"].iter().any(|f| !value[*f].is_null());
    if (has_items && !has_more) || (is_list && !has_more && !is_foreign) {
        return unpack_list(origin, value, parsed);
    }
    if has_items {
        parsed.hides = true;
        let message = "an object is a list, or it has a spec; both are read".to_owned();
        parsed.problems.push(list_problem(origin, "items", message));
        unpack_list(origin, value.clone(), parsed);
    }
    parsed.documents += 1;
    if policies::is_policy(&value) {
        let object = policies::parse(origin, &value, &mut parsed.problems);
        return parsed.objects.push(object);
    }
    let class = match core::classify(&value) {
        Class::Foreign => return parsed.skipped += 1,
        Class::Unserved(reason) => {
            let problem = kind_problem(origin, &value, reason);
            return parsed.problems.push(problem);
        }
        Class::Wrong(reason) => {
            parsed.problems.push(kind_problem(origin, &value, reason));
            return hidden(origin, &value, parsed);
        }
        class => class,
    };
    match core::object(origin, class, &value, &mut parsed.problems) {
        Some(object) => {
            if let Some(unknown) = core::of_unread(&object, &value) {
                parsed.objects.push(Object::unknown(origin, unknown));
            }
            parsed.objects.push(object);
        }
        None => hidden(origin, &value, parsed),
    }
}

/// Which object it is cannot be understood.
fn hidden(origin: &Origin, value: &Node<'_>, parsed: &mut Parsed) {
    parsed.hides = true;
    let unknown = core::of_value(value);
    parsed.objects.push(Object::unknown(origin, unknown));
}

fn kind_problem(origin: &Origin, value: &Node<'_>, message: String) -> Problem {
    let text = |field: &str| value["metadata"][field].as_text();
    let kind = value["kind"].as_text().unwrap_or_default();
    let namespace = text("namespace").unwrap_or("default");
    let name = text("name").unwrap_or("?");
    Problem {
        code: Code::UnknownKind,
        item: origin.item.clone(),
        object: format!("{kind} {namespace}/{name}"),
        field: "kind".to_owned(),
        ..syntax(&origin.file, origin.line, message)
    }
}

fn list_problem(origin: &Origin, field: &str, message: String) -> Problem {
    Problem {
        code: Code::InvalidValue,
        item: origin.item.clone(),
        object: "List".to_owned(),
        field: field.to_owned(),
        ..syntax(&origin.file, origin.line, message)
    }
}

/// Also what only looks like a list: a policy in it must not vanish.
fn unpack_list(origin: &Origin, mut value: Node<'_>, parsed: &mut Parsed) {
    let kind = value["kind"].as_text().unwrap_or_default().to_owned();
    if !kind.ends_with("List") {
        parsed.hides = true;
        let message = format!("{kind:?} is not a list");
        parsed.problems.push(list_problem(origin, "kind", message));
    }
    let is_there = value.get("items").is_some();
    let items = value.take("items");
    if is_there && items.is_null() {
        return;
    }
    let Ok(mut items) = items.into_list() else {
        parsed.hides = true;
        let problem = list_problem(origin, "items", "expected a list".to_owned());
        return parsed.problems.push(problem);
    };
    // As the API server lists one kind: its items do not say it again.
    let one = kind.strip_suffix("List").filter(|k| !k.is_empty());
    for item in &mut items {
        if let Some(one) = one
            && item.get("kind").is_none()
            && item.get("apiVersion").is_none()
        {
            item.put("kind", Node::text(one.to_owned()));
            item.put("apiVersion", value["apiVersion"].clone());
        }
    }
    unpack_each(origin, ".items", items, parsed);
}

fn unpack_each(origin: &Origin, at: &str, items: Vec<Node<'_>>, parsed: &mut Parsed) {
    for (index, item) in items.into_iter().enumerate() {
        if parsed.documents > MAX_DOCUMENTS {
            return;
        }
        let place = format!("{}{at}[{index}]", origin.item);
        let origin = Origin {
            item: place.trim_start_matches('.').to_owned(),
            ..origin.clone()
        };
        unpack(&origin, item, parsed);
        shorten(&origin.file, &mut parsed.problems);
    }
}

/// A typed part of a document, or the path of the field at fault and why.
pub(super) fn typed<T: DeserializeOwned>(
    node: &Node<'_>,
    prefix: &str,
) -> Result<T, (String, String)> {
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
