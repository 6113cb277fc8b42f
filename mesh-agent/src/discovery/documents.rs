//! Files of YAML documents to objects, strictly.

use std::borrow::Cow;
use std::collections::HashMap;
#[cfg(any(test, feature = "fuzzing"))]
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use super::core::{self, Class};
use super::intern::Interner;
use super::objects::Object;
use super::origin::{Origin, Place};
use super::tree::{self, Node};
use super::{Code, Problem, policies};

/// Objects of all files together, and the most that is parsed of one.
pub(super) const MAX_DOCUMENTS: usize = 100_000;
/// Mistakes told of one file.
const MAX_PROBLEMS: usize = 1_000;

/// One file.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) objects: Vec<Arc<Object>>,
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

/// The first half of a SHA-256.
type Hash = [u8; 16];

/// One document, as it was understood. There is one for each object of a file,
/// so it is small.
#[derive(Clone, Debug)]
pub(super) struct Document {
    hash: Hash,
    /// Where it begins.
    line: u32,
    documents: u32,
    skipped: u32,
    hides: bool,
    objects: SmallVec<[Arc<Object>; 1]>,
    problems: Box<[Problem]>,
}

impl Parsed {
    fn keep(self, hash: Hash, line: u32) -> Document {
        // Neither is more than a file has bytes.
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut objects = SmallVec::from_vec(self.objects);
        objects.shrink_to_fit();
        Document {
            hash,
            line,
            documents: count(self.documents),
            skipped: count(self.skipped),
            hides: self.hides,
            objects,
            problems: self.problems.into(),
        }
    }

    fn push(&mut self, object: Object) {
        self.objects.push(Arc::new(object));
    }

    pub(super) fn of_documents(place: &Place, documents: &[Document]) -> Self {
        let mut parsed = Self::default();
        for document in documents {
            parsed.add(document);
            shorten(place, &mut parsed.problems);
        }
        parsed
    }

    fn add(&mut self, document: &Document) {
        self.objects.extend(document.objects.iter().cloned());
        self.problems.extend(document.problems.iter().cloned());
        self.documents += document.documents as usize;
        self.skipped += document.skipped as usize;
        self.hides |= document.hides;
    }
}

impl Document {
    /// Word for word, and at the same line.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.line == other.line
    }

    /// The same at another line.
    fn moved(&self, line: u32) -> Self {
        let object = |object: &Arc<Object>| {
            let mut object = (**object).clone();
            object.origin = object.origin.moved(self.line, line);
            Arc::new(object)
        };
        let problem = |problem: &Problem| Problem {
            origin: problem.origin.moved(self.line, line),
            ..problem.clone()
        };
        Self {
            hash: self.hash,
            line,
            objects: self.objects.iter().map(object).collect(),
            problems: self.problems.iter().map(problem).collect(),
            documents: self.documents,
            skipped: self.skipped,
            hides: self.hides,
        }
    }
}

/// Parses one file of YAML documents; `List` kinds are unpacked.
#[cfg(test)]
#[must_use]
pub(crate) fn parse(file: &Path, bytes: &[u8]) -> (Vec<Arc<Object>>, Vec<Problem>) {
    let parsed = parse_file(file, bytes);
    (parsed.objects, parsed.problems)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn parse_file(file: &Path, bytes: &[u8]) -> Parsed {
    let place = Place::file(file);
    let documents = parse_again(&place, bytes, &[], &mut Interner::default());
    Parsed::of_documents(&place, &documents)
}

/// Parses what is not the same as in one of the documents `before`.
pub(super) fn parse_again(
    place: &Place,
    bytes: &[u8],
    before: &[Document],
    names: &mut Interner,
) -> Vec<Document> {
    let mut known: HashMap<Hash, Vec<&Document>> = HashMap::new();
    for document in before {
        known.entry(document.hash).or_default().push(document);
    }
    let mut all = Vec::new();
    let (text, mistake) = text(place, bytes);
    let is_text = mistake.is_none();
    all.extend(mistake);
    let mut count = 0;
    for (line, text) in documents(&text) {
        if count > MAX_DOCUMENTS {
            break;
        }
        let hash = hash(&text, is_text);
        let same = known.get(&hash).and_then(|same| {
            let here = same.iter().find(|document| document.line == line);
            here.or(same.first()).copied()
        });
        let document = match same {
            Some(same) if same.line == line => same.clone(),
            Some(same) => same.moved(line),
            None => {
                let origin = Origin::line(place.clone(), line);
                let mut parsed = document(&origin, &text, is_text);
                for object in &mut parsed.objects {
                    Arc::make_mut(object).share(names);
                }
                parsed.keep(hash, line)
            }
        };
        count += document.documents as usize;
        all.push(document);
    }
    all
}

/// What can be read of it, and why that is not all.
fn text<'b>(place: &Place, bytes: &'b [u8]) -> (Cow<'b, str>, Option<Document>) {
    let Err(error) = std::str::from_utf8(bytes) else {
        return (String::from_utf8_lossy(bytes), None);
    };
    let before = &bytes[..error.valid_up_to()];
    let lines = before.iter().filter(|b| **b == b'\n').count();
    let line = u32::try_from(lines).unwrap_or(u32::MAX).saturating_add(1);
    let origin = Origin::line(place.clone(), line);
    let message = "the file is not UTF-8".to_owned();
    let problem = Problem::new(Code::Syntax, origin, message);
    // Of no document: none is the same as it.
    let mistake = Parsed::of_problem(problem).keep(Hash::default(), line);
    (String::from_utf8_lossy(bytes), Some(mistake))
}

fn hash(text: &str, is_text: bool) -> Hash {
    let digest = Sha256::new()
        .chain_update([u8::from(is_text)])
        .chain_update(text)
        .finalize();
    std::array::from_fn(|at| digest[at])
}

/// One document: what is between two separators of a file, or one object of
/// the API as JSON.
pub(super) fn document(origin: &Origin, document: &str, is_text: bool) -> Parsed {
    let mut parsed = Parsed::default();
    match is_text.then(|| tree::read(document)) {
        Some(Ok(node)) if node.is_null() => {}
        Some(Ok(node)) => unpack(origin, node, &mut parsed),
        Some(Err(e)) => {
            let at = origin.exactly(e.place.line.saturating_sub(1), e.place.column);
            let problem = Problem::new(Code::Syntax, at, e.message);
            parsed.problems.push(problem);
            recover(origin, document, &mut parsed);
        }
        None => recover(origin, document, &mut parsed),
    }
    shorten(&origin.place, &mut parsed.problems);
    parsed
}

/// Policies must not vanish with a syntax error, nor pods be taken for outside.
fn recover(origin: &Origin, document: &str, parsed: &mut Parsed) {
    parsed.hides = true;
    for value in policies::recover(document) {
        parsed.documents += 1;
        // Its mistakes are of what was made for it, and not in the file.
        let policy = policies::parse(origin, &value, &mut Vec::new());
        parsed.objects.extend(policy.map(Arc::new));
    }
    if let Some(unknown) = core::of_text(document) {
        parsed.push(Object::unknown(origin, unknown));
    }
}

/// Mistakes first: no number of warnings makes a mistake, or hides one.
fn shorten(place: &Place, problems: &mut Vec<Problem>) {
    if problems.len() <= MAX_PROBLEMS {
        return;
    }
    problems.sort_by_key(|p| !p.is_mistake());
    let cut = problems.split_off(MAX_PROBLEMS);
    let (code, what) = match cut.iter().any(Problem::is_mistake) {
        true => (Code::Syntax, "mistakes"),
        false => (Code::Advisory, "warnings"),
    };
    let message = format!("has more {what} than are told");
    let origin = Origin::whole(place.clone());
    problems.push(Problem::new(code, origin, message));
}

/// Documents with the line that each starts on.
pub(super) fn documents(text: &str) -> Vec<(u32, String)> {
    // A lone CR ends a line, too.
    let text = match text.contains('\r') {
        true => std::borrow::Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n")),
        false => std::borrow::Cow::Borrowed(text),
    };
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let mut documents = vec![(1, String::new())];
    for (number, line) in (1_u32..).zip(text.lines()) {
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
        return match policies::parse(origin, &value, &mut parsed.problems) {
            Some(policy) => parsed.push(policy),
            None => hidden(origin, &value, parsed),
        };
    }
    let kind = match core::classify(&value) {
        Class::Served(kind) => kind,
        Class::Foreign => return parsed.skipped += 1,
        Class::Unserved(reason) => {
            let problem = kind_problem(origin, &value, reason);
            return parsed.problems.push(problem);
        }
        Class::Wrong(reason) => {
            parsed.problems.push(kind_problem(origin, &value, reason));
            return hidden(origin, &value, parsed);
        }
    };
    match core::object(origin, kind, &value, &mut parsed.problems) {
        Some(object) => {
            if let Some(unknown) = core::of_unread(&object, &value) {
                parsed.push(Object::unknown(origin, unknown));
            }
            parsed.push(object);
        }
        None => hidden(origin, &value, parsed),
    }
}

/// Which object it is cannot be understood.
fn hidden(origin: &Origin, value: &Node<'_>, parsed: &mut Parsed) {
    parsed.hides = true;
    let unknown = core::of_value(value);
    parsed.push(Object::unknown(origin, unknown));
}

fn kind_problem(origin: &Origin, value: &Node<'_>, message: String) -> Problem {
    let text = |field: &str| value["metadata"][field].as_text();
    let kind = value["kind"].as_text().unwrap_or_default();
    let namespace = text("namespace").unwrap_or("default");
    let name = text("name").unwrap_or("?");
    Problem {
        object: format!("{kind} {namespace}/{name}"),
        field: "kind".to_owned(),
        ..Problem::new(Code::UnknownKind, origin.clone(), message)
    }
}

fn list_problem(origin: &Origin, field: &str, message: String) -> Problem {
    Problem {
        object: "List".to_owned(),
        field: field.to_owned(),
        ..Problem::new(Code::InvalidValue, origin.clone(), message)
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
        let path = format!("{}{at}[{index}]", origin.item());
        let origin = origin.with_item(path.trim_start_matches('.'));
        unpack(&origin, item, parsed);
        shorten(&origin.place, &mut parsed.problems);
    }
}
