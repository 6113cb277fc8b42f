//! The files of the configuration directory, and what each said when it was
//! last whole.
//!
//! Invariants: one file's fault is that file's problem; what a file at fault
//! said before stays, policies in their restrictive form; a file that vanishes
//! for a moment (an editor's rename, a ConfigMap's swap) is not gone yet, and what
//! one that is written in place does not say for a moment is not taken back yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::documents::{self, Document, MAX_DOCUMENTS, Parsed};
use super::intern::Interner;
use super::kinds::Unknown;
use super::last_good::{keep_last_good, says_less};
use super::objects::Object;
use super::origin::{Origin, Place};
use super::store::Said;
use super::watcher::Told;
use super::{Code, Problem, policies, stat};

const MAX_FILE: u64 = 8 << 20;
const MAX_FILES: usize = 10_000;
/// For how long a file, or one of its objects, may be away before what it said is forgotten.
pub(super) const GRACE: Duration = Duration::from_millis(500);
/// How often a directory is read again whose ConfigMap is swapped meanwhile.
const TRIES: usize = 3;

/// Nothing of the directory can be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read the configuration directory {dir}: {error}")]
    Unreadable { dir: PathBuf, error: std::io::Error },
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
    /// Of one that said something, or may have before a start: whoever writes in place begins
    /// so, and may not go on.
    #[error(
        "is empty: what is known of what it said restricts on until it says something or is \
         removed, and grants nothing"
    )]
    Empty,
    #[error("cannot be read: {0}")]
    Io(ErrorKind),
}

#[derive(Clone, Debug)]
pub(super) struct File {
    /// Why it cannot be read at all.
    fault: Option<Fault>,
    documents: Arc<[Document]>,
    /// What counts of it, with what its last good version said.
    objects: Box<[Arc<Object>]>,
    problems: Box<[Problem]>,
    count: usize,
    /// Of kinds that are not ours.
    skipped: usize,
    missing_since: Option<Instant>,
    /// Since then it says less than it did, and may be being written: what it said before is
    /// said for it.
    cut_since: Option<Instant>,
    /// It was there at the start and could not be read: its objects stand for
    /// what it may say.
    unknown: bool,
}

/// A file, and by what it is known not to have changed.
#[derive(Clone, Debug)]
struct Watched {
    /// `None` where it must be read each time.
    stat: Option<stat::Stat>,
    /// What it leads to may change without a word of it.
    is_link: bool,
    inode: Option<stat::Inode>,
    file: Arc<File>,
}

/// One file that is not what it was; `None` is one that was not there.
pub(super) struct Change {
    before: Option<Arc<File>>,
    now: Option<Arc<File>>,
}

#[derive(Debug, Default)]
pub(super) struct Files {
    /// By path; as text, for paths are compared part by part.
    files: BTreeMap<OsString, Watched>,
    names: Interner,
    /// The directory was taken over once.
    started: bool,
}

impl Change {
    pub(super) fn before(&self) -> Said<'_> {
        said(self.before.as_deref())
    }

    pub(super) fn now(&self) -> Said<'_> {
        said(self.now.as_deref())
    }
}

fn said(file: Option<&File>) -> Said<'_> {
    file.map_or(Said::NOTHING, |file| Said {
        objects: &file.objects,
        away: file.missing_since.is_some(),
    })
}

impl Files {
    /// Takes over the directory as it is now, as far as was `told`, and gives what is not
    /// as before; after an error nothing has changed.
    pub(super) fn load(
        &mut self,
        dir: &Path,
        told: &Told,
        now: Instant,
    ) -> Result<Vec<Change>, Error> {
        let mut names = std::mem::take(&mut self.names);
        let loaded = self.load_with((dir, told), now, &mut names);
        self.names = names;
        loaded
    }

    fn load_with(
        &mut self,
        (dir, told): (&Path, &Told),
        now: Instant,
        names: &mut Interner,
    ) -> Result<Vec<Change>, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let swap = || std::fs::read_link(dir.join("..data")).ok();
            let before = swap();
            let next = match told {
                Told::Everything => self.next(dir, now, names)?,
                Told::Names(told) => self.next_of((dir, told), now, names)?,
            };
            // Half of the files from before a swap and half from after it.
            if before == swap() || tries == TRIES {
                let before = std::mem::replace(&mut self.files, next);
                self.started = true;
                return Ok(self.changes(before));
            }
        }
    }

    fn changes(&self, mut before: BTreeMap<OsString, Watched>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (path, watched) in &self.files {
            let before = before.remove(path).map(|watched| watched.file);
            let is_same = |before: &Arc<File>| Arc::ptr_eq(before, &watched.file);
            if !before.as_ref().is_some_and(is_same) {
                let now = Some(watched.file.clone());
                changes.push(Change { before, now });
            }
        }
        changes.extend(before.into_values().map(|watched| Change {
            before: Some(watched.file),
            now: None,
        }));
        changes
    }

    fn next(
        &self,
        dir: &Path,
        now: Instant,
        names: &mut Interner,
    ) -> Result<BTreeMap<OsString, Watched>, Error> {
        let mut next = BTreeMap::new();
        let mut count = 0;
        for path in list(dir)? {
            let watched = self.watched(&path, now, names);
            count += watched.file.count;
            if count > MAX_DOCUMENTS {
                return Err(Error::TooManyDocuments(dir.to_owned()));
            }
            next.insert(path.into_os_string(), watched);
        }
        for (path, watched) in &self.files {
            if !next.contains_key(path) {
                next.extend(watched.gone(now).map(|gone| (path.clone(), gone)));
            }
        }
        Ok(next)
    }

    /// The same where only files of these names are others, and links: all else is as it was.
    fn next_of(
        &self,
        (dir, told): (&Path, &BTreeSet<OsString>),
        now: Instant,
        names: &mut Interner,
    ) -> Result<BTreeMap<OsString, Watched>, Error> {
        let must = |(_, watched): &(&OsString, &Watched)| watched.is_link || watched.stat.is_none();
        let must = self.files.iter().filter(must);
        let must = must.map(|(path, _)| PathBuf::from(path));
        let told = told.iter().map(|name| dir.join(name));
        let again: BTreeSet<PathBuf> = must
            .chain(told.filter(|path| is_configuration(path)))
            .collect();
        let mut next = self.files.clone();
        for path in again {
            let seen = path.symlink_metadata();
            let is_gone = seen.is_err_and(|error| error.kind() == ErrorKind::NotFound);
            let now = match is_gone {
                false => Some(self.watched(&path, now, names)),
                true => next
                    .get(path.as_os_str())
                    .and_then(|before| before.gone(now)),
            };
            match now {
                Some(watched) => next.insert(path.into_os_string(), watched),
                None => next.remove(path.as_os_str()),
            };
        }
        if next.len() > MAX_FILES {
            return Err(Error::TooManyFiles(dir.to_owned()));
        }
        let count: usize = next.values().map(|watched| watched.file.count).sum();
        if count > MAX_DOCUMENTS {
            return Err(Error::TooManyDocuments(dir.to_owned()));
        }
        Ok(next)
    }

    /// A file that is there.
    fn watched(&self, path: &Path, now: Instant, names: &mut Interner) -> Watched {
        let before = self.files.get(path.as_os_str());
        // Before it is read: what is written meanwhile makes another one.
        let stat = stat::of(path, SystemTime::now());
        if let Some(same) = before
            && stat.is_some()
            && same.stat == stat
            && same.is_here()
        {
            return same.clone();
        }
        let is_link = !path.symlink_metadata().is_ok_and(|meta| meta.is_file());
        let inode = stat::inode(path);
        let is_in_place = before.is_some_and(|before| before.inode == inode);
        let before = before.map(|watched| &watched.file);
        let file = self.read(path, (before, is_in_place), now, names);
        // Another one may have taken its place between.
        let stat = stat.filter(|_| stat::of(path, SystemTime::now()) == stat);
        Watched {
            stat,
            is_link,
            inode,
            file,
        }
    }

    /// `is_in_place`: it is the very file that was there before, which may be being written.
    /// Another one in its place is whole.
    fn read(
        &self,
        path: &Path,
        (before, is_in_place): (Option<&Arc<File>>, bool),
        now: Instant,
        names: &mut Interner,
    ) -> Arc<File> {
        match (read(path), before) {
            (Err(Fault::Io(ErrorKind::NotFound)), Some(before)) if waits(before, now) => {
                away(before, now)
            }
            (Err(fault), before)
                if hides_content(fault) && before.map_or(!self.started, |f| f.unknown) =>
            {
                unknown(path, fault)
            }
            (Err(Fault::Empty), before) if self.is_void(before, is_in_place) => {
                file(path, Ok(Vec::new()), before, names)
            }
            (found, before) => {
                let says = file(path, found, before, names);
                match before.filter(|before| is_in_place && !before.unknown) {
                    Some(before) => completed(says, before, now),
                    None => says,
                }
            }
        }
    }

    /// Does an empty file say that it says nothing? Of one that is there at a start nobody
    /// knows what it said.
    fn is_void(&self, before: Option<&Arc<File>>, is_in_place: bool) -> bool {
        let said_nothing =
            |file: &Arc<File>| file.objects.is_empty() && file.fault != Some(Fault::Empty);
        before.map_or(self.started, |file| !is_in_place || said_nothing(file))
    }

    /// When a file that is away is forgotten.
    pub(super) fn due(&self) -> Option<Instant> {
        let files = self.files.values();
        let waiting = files.filter_map(|watched| {
            let file = &watched.file;
            file.missing_since.or(file.cut_since)
        });
        waiting.min().map(|since| since + GRACE)
    }

    /// How many objects are of kinds that are not ours.
    pub(super) fn skipped(&self) -> usize {
        self.files
            .values()
            .map(|watched| watched.file.skipped)
            .sum()
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        let files = self.files.values();
        files.flat_map(|watched| &watched.file.problems)
    }
}

impl Watched {
    /// It was read, and as a whole.
    fn is_here(&self) -> bool {
        let file = &self.file;
        let is_whole = file.missing_since.is_none() && file.cut_since.is_none();
        file.fault.is_none() && is_whole && !file.unknown
    }

    /// What it is when it is there no more; `None` where that is so for long enough.
    fn gone(&self, now: Instant) -> Option<Self> {
        waits(&self.file, now).then(|| Self {
            stat: None,
            is_link: self.is_link,
            inode: self.inode,
            file: away(&self.file, now),
        })
    }
}

/// There is something, and it may be policy.
fn hides_content(fault: Fault) -> bool {
    match fault {
        Fault::TooLarge | Fault::NotText => true,
        // A link to nothing says nothing.
        Fault::Io(kind) => kind != ErrorKind::NotFound,
        Fault::NotAFile | Fault::Empty => false,
    }
}

/// Before anything worked, so nothing is taken down by refusing: a start
/// without what this file may deny would let in whom nobody allowed.
fn unknown(path: &Path, fault: Fault) -> Arc<File> {
    let message = format!("{fault}; until it can be read, connections to all pods are refused");
    let origin = Origin::line(Place::file(path), 1);
    let mut objects = policies::unreadable(&origin);
    objects.push(Object::unknown(&origin, Unknown::anything()));
    Arc::new(File {
        fault: Some(fault),
        documents: Arc::default(),
        objects: objects.into_iter().map(Arc::new).collect(),
        problems: [Problem::new(Code::UnreadableFile, origin, message)].into(),
        count: 0,
        skipped: 0,
        missing_since: None,
        cut_since: None,
        unknown: true,
    })
}

/// The very file that was there says less than it did, or is empty: it may be being written,
/// and any of its documents may be half. For [`GRACE`] it says what it said before.
fn completed(says: Arc<File>, before: &File, now: Instant) -> Arc<File> {
    let since = before.cut_since.unwrap_or(now);
    let is_cut = match says.fault {
        Some(Fault::Empty) => before.fault != Some(Fault::Empty),
        Some(_) => false,
        None => says_less(&says.objects, &before.objects),
    };
    if !is_cut || now.saturating_duration_since(since) >= GRACE {
        return says;
    }
    Arc::new(File {
        missing_since: None,
        cut_since: Some(since),
        unknown: false,
        ..before.clone()
    })
}

fn waits(file: &File, now: Instant) -> bool {
    file.missing_since
        .is_none_or(|since| now.saturating_duration_since(since) < GRACE)
}

fn away(before: &Arc<File>, now: Instant) -> Arc<File> {
    if before.missing_since.is_some() {
        return before.clone();
    }
    Arc::new(File {
        missing_since: Some(now),
        cut_since: None,
        ..File::clone(before)
    })
}

fn file(
    path: &Path,
    read: Result<Vec<u8>, Fault>,
    before: Option<&Arc<File>>,
    names: &mut Interner,
) -> Arc<File> {
    let before = before.filter(|f| !f.unknown);
    let known = before.map_or(&[][..], |file| &file.documents);
    let fault = read.as_ref().err().copied();
    let place = Place::file(path);
    let documents: Arc<[Document]> = match &read {
        Ok(bytes) => documents::parse_again(&place, bytes, known, names).into(),
        // What it said when it could be read is known for when it can be again.
        Err(_) => known.into(),
    };
    let is_same = |file: &&Arc<File>| {
        let same = documents.iter().zip(&*file.documents);
        file.fault == fault
            && file.missing_since.is_none()
            && file.cut_since.is_none()
            && file.documents.len() == documents.len()
            && same.into_iter().all(|(now, before)| now.is_same(before))
    };
    if let Some(same) = before.filter(is_same) {
        return same.clone();
    }
    let mut parsed = match fault {
        None => Parsed::of_documents(&place, &documents),
        Some(fault) => {
            let origin = Origin::line(place, 1);
            let problem = Problem::new(Code::UnreadableFile, origin, fault.to_string());
            Parsed::of_problem(problem)
        }
    };
    if parsed.problems.iter().any(Problem::is_mistake) {
        let before = before.map_or(&[][..], |file| &file.objects);
        keep_last_good(&mut parsed, before);
    }
    Arc::new(File {
        fault,
        documents,
        objects: parsed.objects.into(),
        problems: parsed.problems.into(),
        count: parsed.documents,
        skipped: parsed.skipped,
        missing_since: None,
        cut_since: None,
        unknown: false,
    })
}

/// By its name.
fn is_configuration(path: &Path) -> bool {
    let is_yaml = path
        .extension()
        .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    // Emacs' locks point nowhere.
    let is_lock = path
        .file_name()
        .is_some_and(|n| n.as_encoded_bytes().starts_with(b".#"));
    is_yaml && !is_lock
}

/// Configuration files by name, in order.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |error| Error::Unreadable {
        dir: dir.to_owned(),
        error,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if is_configuration(&path) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::TooManyFiles(dir.to_owned()));
        }
    }
    files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(files)
}

/// What a file says now, for pointing at it.
pub(super) fn text(path: &Path) -> Option<String> {
    String::from_utf8(read(path).ok()?).ok()
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let io = |e: std::io::Error| Fault::Io(e.kind());
    // A FIFO would wait for a writer.
    let mut open = std::fs::OpenOptions::new();
    let file = open.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(Fault::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.is_empty() {
        return Err(Fault::Empty);
    }
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
