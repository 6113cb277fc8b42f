//! The files of the configuration directory, and what each said when it was
//! last whole.
//!
//! Invariants: one file's fault is that file's problem; what a file at fault
//! said before stays, policies in their restrictive form; a file that vanishes
//! for a moment (an editor's rename, a ConfigMap's swap) is not gone yet.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::core;
use super::documents::{self, MAX_DOCUMENTS, Parsed};
use super::kinds::Unknown;
use super::objects::{Kind, Object, Origin};
use super::{Code, Problem, policies};
use crate::model::policy::Action;

const MAX_FILE: u64 = 8 << 20;
const MAX_FILES: usize = 10_000;
/// For how long a file may be away before what it said is forgotten.
pub(super) const GRACE: Duration = Duration::from_millis(500);
/// How often a directory is read again whose ConfigMap is swapped meanwhile.
const TRIES: usize = 3;

/// Nothing of the directory can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration directory {dir}: {source}")]
    Unreadable {
        dir: PathBuf,
        source: std::io::Error,
    },
    #[error("{0} holds more than {MAX_FILES} configuration files: none is taken over")]
    TooManyFiles(PathBuf),
    #[error("{0} holds more than {MAX_DOCUMENTS} objects: none is taken over")]
    TooManyDocuments(PathBuf),
}

/// Why one file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("is not a regular file")]
    NotAFile,
    #[error("is larger than {} MiB", MAX_FILE >> 20)]
    TooLarge,
    #[error("is not text")]
    NotText,
    #[error("cannot be read: {0}")]
    Io(ErrorKind),
}

/// What was found under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Whole([u8; 32]),
    Fault(Fault),
}

#[derive(Debug)]
struct File {
    found: Found,
    objects: Vec<Object>,
    problems: Vec<Problem>,
    documents: usize,
    /// Of kinds that are not ours.
    skipped: usize,
    missing_since: Option<Instant>,
    /// It was there at the start and could not be read: its objects stand for
    /// what it may say.
    unknown: bool,
}

#[derive(Debug, Default)]
pub(super) struct Files {
    files: BTreeMap<PathBuf, Arc<File>>,
    /// The directory was taken over once.
    started: bool,
}

impl Files {
    /// Takes over the directory as it is now; after an error nothing has changed.
    pub(super) fn load(&mut self, dir: &Path, now: Instant) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let swap = || std::fs::read_link(dir.join("..data")).ok();
            let before = swap();
            let next = self.next(dir, now)?;
            // Half of the files from before a swap and half from after it.
            if before == swap() || tries == TRIES {
                self.files = next;
                self.started = true;
                return Ok(());
            }
        }
    }

    fn next(&self, dir: &Path, now: Instant) -> Result<BTreeMap<PathBuf, Arc<File>>, Error> {
        let mut next = BTreeMap::new();
        let mut documents = 0;
        for path in list(dir)? {
            let before = self.files.get(&path);
            let file = match (read(&path), before) {
                (Err(Fault::Io(ErrorKind::NotFound)), Some(before)) if waits(before, now) => {
                    away(before, now)
                }
                (Err(fault), before)
                    if hides_content(fault) && before.map_or(!self.started, |f| f.unknown) =>
                {
                    unknown(&path, fault)
                }
                (found, before) => file(&path, found, before),
            };
            documents += file.documents;
            if documents > MAX_DOCUMENTS {
                return Err(Error::TooManyDocuments(dir.to_owned()));
            }
            next.insert(path, file);
        }
        for (path, file) in &self.files {
            if !next.contains_key(path) && waits(file, now) {
                next.insert(path.clone(), away(file, now));
            }
        }
        Ok(next)
    }

    /// When a file that is away is forgotten.
    pub(super) fn due(&self) -> Option<Instant> {
        let missing = self.files.values().filter_map(|f| f.missing_since);
        missing.min().map(|since| since + GRACE)
    }

    /// How many objects are of kinds that are not ours.
    pub(super) fn skipped(&self) -> usize {
        self.files.values().map(|f| f.skipped).sum()
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.files.values().flat_map(|f| &f.problems)
    }

    /// What a file that is away said counts where no other file says it now:
    /// it may have been renamed.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        let away = self.due().is_some();
        let here = self.files.values().filter(|f| f.missing_since.is_none());
        let names: BTreeSet<String> = here
            .filter(|_| away)
            .flat_map(|f| f.objects.iter().map(Object::name))
            .collect();
        self.files.values().flat_map(move |file| {
            let counts = |o: &&Object| file.missing_since.is_none() || !names.contains(&o.name());
            file.objects.iter().filter(counts).collect::<Vec<_>>()
        })
    }
}

/// There is something, and it may be policy.
fn hides_content(fault: Fault) -> bool {
    match fault {
        Fault::TooLarge | Fault::NotText => true,
        // A link to nothing says nothing.
        Fault::Io(kind) => kind != ErrorKind::NotFound,
        Fault::NotAFile => false,
    }
}

/// Before anything worked, so nothing is taken down by refusing: a start
/// without what this file may deny would let in whom nobody allowed.
fn unknown(path: &Path, fault: Fault) -> Arc<File> {
    let message = format!("{fault}; until it can be read, connections to all pods are refused");
    let mut objects = policies::unreadable(path);
    let origin = Origin {
        file: path.to_owned(),
        line: 1,
        item: String::new(),
    };
    objects.push(Object::unknown(&origin, Unknown::anything()));
    Arc::new(File {
        found: Found::Fault(fault),
        objects,
        problems: vec![problem(path, message)],
        documents: 0,
        skipped: 0,
        missing_since: None,
        unknown: true,
    })
}

fn problem(path: &Path, message: String) -> Problem {
    Problem {
        code: Code::UnreadableFile,
        file: path.to_owned(),
        line: 1,
        message,
        ..Problem::default()
    }
}

fn waits(file: &File, now: Instant) -> bool {
    file.missing_since
        .is_none_or(|since| now.saturating_duration_since(since) < GRACE)
}

fn away(before: &File, now: Instant) -> Arc<File> {
    Arc::new(File {
        found: before.found,
        objects: before.objects.clone(),
        problems: before.problems.clone(),
        documents: before.documents,
        skipped: before.skipped,
        missing_since: before.missing_since.or(Some(now)),
        unknown: before.unknown,
    })
}

fn file(path: &Path, read: Result<Vec<u8>, Fault>, before: Option<&Arc<File>>) -> Arc<File> {
    let before = before.filter(|f| !f.unknown);
    let found = match &read {
        Ok(bytes) => Found::Whole(Sha256::digest(bytes).into()),
        Err(fault) => Found::Fault(*fault),
    };
    if let Some(same) = before.filter(|f| f.found == found && f.missing_since.is_none()) {
        return same.clone();
    }
    let mut parsed = match read {
        Ok(bytes) => documents::parse_file(path, &bytes),
        Err(fault) => documents::Parsed::of_problem(problem(path, fault.to_string())),
    };
    if parsed.problems.iter().any(Problem::is_mistake) {
        let before = before.map(|f| f.objects.clone());
        keep_last_good(&mut parsed, before.unwrap_or_default());
    }
    Arc::new(File {
        found,
        objects: parsed.objects,
        problems: parsed.problems,
        documents: parsed.documents,
        skipped: parsed.skipped,
        missing_since: None,
        unknown: false,
    })
}

/// Adds to the objects that parse now the former version of those that do not;
/// of policies what restricts, never a grant.
pub(super) fn keep_last_good(now: &mut Parsed, before: Vec<Object>) {
    let names = now.objects.iter().enumerate().map(|(at, o)| (o.name(), at));
    let names: BTreeMap<String, usize> = names.collect();
    for mut object in before {
        let is_policy = matches!(&object.kind, Kind::Policy(_) | Kind::Peer(_));
        policies::restrict(&mut object);
        match names.get(&object.name()) {
            _ if matches!(&object.kind, Kind::Unknown(_)) => {}
            // Of a policy even a mistake elsewhere may be a slip of its name.
            None if is_policy || now.hides => now.objects.push(object),
            None => {}
            // Not the DENY of everything that stands for what is not
            // understood: what it denied before is known.
            Some(&at) if is_broken(&now.objects[at]) && is_whole_deny(&object) => {
                now.objects[at] = object;
            }
            Some(_) if is_policy => {}
            Some(&at) => core::fill(&mut now.objects[at], &object),
        }
    }
}

fn is_broken(object: &Object) -> bool {
    matches!(&object.kind, Kind::Policy(p) if p.broken.is_some())
}

fn is_whole_deny(object: &Object) -> bool {
    matches!(&object.kind, Kind::Policy(p)
        if p.action == Action::Deny && p.broken.is_none() && !p.dry_run)
}

/// Configuration files by name, in order.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::Unreadable {
        dir: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_yaml = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // Emacs' locks point nowhere.
        let is_lock = path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b".#"));
        if is_yaml && !is_lock {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::TooManyFiles(dir.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

/// What a file says now, for pointing at it.
pub(super) fn text(path: &Path) -> Option<String> {
    String::from_utf8(read(path).ok()?).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let io = |e: std::io::Error| Fault::Io(e.kind());
    // Before opening: a FIFO would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Fault::NotAFile);
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Fault::TooLarge);
    }
    decode(bytes)
}

/// YAML may be in UTF-16. What has a NUL is compressed, encrypted or cut, and
/// hides whatever it says.
fn decode(bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    let read: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some([0xff, 0xfe]) => u16::from_le_bytes,
        Some([0xfe, 0xff]) => u16::from_be_bytes,
        _ if bytes.contains(&0) => return Err(Fault::NotText),
        _ => return Ok(bytes),
    };
    let (units, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = units.iter().copied().map(read).collect();
    let text = String::from_utf16(&units).ok();
    let text = text.filter(|text| rest.is_empty() && !text.contains('\0'));
    text.map(String::into_bytes).ok_or(Fault::NotText)
}
