//! The folder of the node's CNI configuration, changed so that whoever reads it at any
//! moment, also after a crash, finds whole files only.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::list;
use crate::sys::files::exchange;

/// Most of one file that is read, and so most that is written; and most files of a folder that
/// a runtime may read, or an agent left.
pub(super) const MAX_BYTES: u64 = 1 << 20;
pub(super) const MAX_FILES: usize = 1_000;
/// Most of one that is searched for a name.
const MAX_SEARCHED: u64 = 64 << 20;
const SEARCHED_AT_ONCE: u64 = 1 << 16;
const LOCK_ATTEMPTS: usize = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Of our own files beside the others': no runtime reads such a name. One that a
/// crash left is written over by the next one, or goes with the next look.
const UNFINISHED: &str = ".mesh-agent-new";
/// A file with a single plugin that has a list in its place now.
const REPLACED: &str = ".mesh-agent-replaced";

/// A file as it was read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) text: String,
    meta: Metadata,
}

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Of several agents one changes something at a time.
    lock: Flock<File>,
    #[cfg(test)]
    pub(super) crash: std::cell::Cell<Option<usize>>,
}

/// For who holds it a moment; one that stands still is not waited for.
fn locked(mut folder: File) -> io::Result<Flock<File>> {
    for _ in 0..LOCK_ATTEMPTS {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::Error::EWOULDBLOCK)) => folder = back,
            Err((_, error)) => return Err(error.into()),
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Err(io::Error::other("another agent is at work in it"))
}

/// Only a file of its own: what a link leads to may be another program's.
fn opened(path: &Path) -> io::Result<(File, Metadata)> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path)?;
    let meta = file.metadata()?;
    match meta.is_file() {
        true => Ok((file, meta)),
        false => Err(io::Error::other("it is no regular file")),
    }
}

pub(super) fn read(path: &Path) -> io::Result<Content> {
    let (file, meta) = opened(path)?;
    let mut bytes = Vec::new();
    // It may have grown since.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let length = meta.len().max(bytes.len() as u64);
    if length > MAX_BYTES {
        let why = format!("it has {length} bytes, and no more than {MAX_BYTES} are read");
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))?;
    Ok(Content { text, meta })
}

/// Are these words in it? Also of a file that is no text, or larger than what is read.
pub(super) fn has(path: &Path, words: &str) -> io::Result<bool> {
    let (file, _) = opened(path)?;
    let mut rest = file.take(MAX_SEARCHED);
    let mut bytes = Vec::new();
    loop {
        let read = (&mut rest).take(SEARCHED_AT_ONCE).read_to_end(&mut bytes)?;
        if bytes.windows(words.len()).any(|at| at == words.as_bytes()) {
            return Ok(true);
        }
        if read == 0 {
            break;
        }
        // They may have begun here.
        bytes.drain(..bytes.len().saturating_sub(words.len()));
    }
    match rest.limit() {
        0 => {
            let why = format!("no more than {MAX_SEARCHED} bytes are searched");
            Err(io::Error::new(ErrorKind::FileTooLarge, why))
        }
        _ => Ok(false),
    }
}

/// The same, with what it is about.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Owner and group of the file before, where they may be given. Else it is of who writes
/// it, with the same mode: a container runtime, which is root, reads it all the same.
fn give(file: &File, like: &Metadata) -> io::Result<()> {
    match fchown(file, Some(like.uid()), Some(like.gid())) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let (uid, gid) = (like.uid(), like.gid());
            tracing::warn!(%error, uid, gid, "the owner of the node's CNI configuration cannot be kept: CAP_CHOWN is missing");
            Ok(())
        }
        given => given,
    }
}

/// Does a runtime read it, or did an agent leave it?
fn counts(name: &str) -> bool {
    list::is_configuration(name) || [UNFINISHED, REPLACED].iter().any(|end| name.ends_with(end))
}

/// Somebody else changed the file meanwhile: it is looked at again.
pub(super) const CHANGED: ErrorKind = ErrorKind::ResourceBusy;

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let folder = File::open(path)?;
        if !folder.metadata()?.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        let lock = locked(folder)?;
        Ok(Self {
            path: path.to_owned(),
            lock,
            #[cfg(test)]
            crash: std::cell::Cell::new(None),
        })
    }

    /// The names of its files, in the order in which runtimes take them. All or none: one that
    /// is not looked at may be the one that counts. What other programs leave half-made does not
    /// count towards the most: it may grow for ever.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let (mut names, mut count) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // A name that is no text is none of a configuration.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            count += usize::from(is_link || counts(&name));
            if count > MAX_FILES {
                let why = format!("it has more than {MAX_FILES} configurations and links");
                return Err(io::Error::new(ErrorKind::QuotaExceeded, why));
            }
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    /// A folder, a link or a socket is not, and what is gone is not.
    pub(super) fn is_file(&self, name: &str) -> io::Result<bool> {
        match fs::symlink_metadata(self.path.join(name)) {
            Ok(meta) => Ok(meta.is_file()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Content> {
        read(&self.path.join(name))
    }

    pub(super) fn has(&self, name: &str, words: &str) -> io::Result<bool> {
        has(&self.path.join(name), words)
    }

    /// Where it leads, of a link.
    pub(super) fn link(&self, name: &str) -> Option<PathBuf> {
        fs::read_link(self.path.join(name)).ok()
    }

    /// Writes another text into a file that is as it was `before`, mode and owner kept.
    ///
    /// The old and the new file change their names at one moment, and the old one is
    /// looked at after that: what somebody else wrote meanwhile is not lost.
    pub(super) fn replace(&self, name: &str, before: &Content, text: &str) -> io::Result<()> {
        let path = self.path.join(name);
        let unfinished = self.write(name, text, &before.meta)?;
        self.step()?;
        match exchange(&unfinished, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(CHANGED.into()),
            // A file system without that: as close together as it goes.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                if self.read(name)?.text != before.text {
                    return Err(CHANGED.into());
                }
                fs::rename(&unfinished, &path)?;
                return self.settle();
            }
            Err(error) => return Err(at(&path)(error)),
        }
        self.step()?;
        let was = fs::read(&unfinished)?;
        if was != before.text.as_bytes() {
            exchange(&unfinished, &path)?;
            return Err(CHANGED.into());
        }
        fs::remove_file(&unfinished)?;
        self.settle()
    }

    /// Writes a file of our own, readable as that one is.
    pub(super) fn put(&self, name: &str, text: &str, like: &Content) -> io::Result<()> {
        let unfinished = self.write(name, text, &like.meta)?;
        self.step()?;
        let path = self.path.join(name);
        fs::rename(&unfinished, &path).map_err(at(&path))?;
        self.settle()
    }

    /// False: there is none.
    pub(super) fn remove(&self, name: &str) -> io::Result<bool> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Ok(()) => self.settle().map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Puts a list in the place of a file with a single plugin: first beside it, where
    /// the old one comes first still, then the old one gets a name that nobody reads.
    pub(super) fn supersede(
        &self,
        (single, before): (&str, &Content),
        list: &str,
        text: &str,
    ) -> io::Result<()> {
        let unfinished = self.write(list, text, &before.meta)?;
        self.step()?;
        let path = self.path.join(list);
        fs::rename(&unfinished, &path).map_err(at(&path))?;
        self.settle()?;
        self.step()?;
        let replaced = self.path.join(format!("{single}{REPLACED}"));
        fs::rename(self.path.join(single), &replaced)?;
        self.settle()?;
        if fs::read(&replaced)? != before.text.as_bytes() {
            // Written anew meanwhile: it counts, until it is looked at again.
            fs::rename(&replaced, self.path.join(single))?;
            return Err(CHANGED.into());
        }
        Ok(())
    }

    /// The other way round.
    pub(super) fn restore(&self, single: &str, list: &str) -> io::Result<()> {
        self.step()?;
        let replaced = self.path.join(format!("{single}{REPLACED}"));
        match fs::rename(replaced, self.path.join(single)) {
            // A crash came between the two.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        self.settle()?;
        self.step()?;
        fs::remove_file(self.path.join(list))?;
        self.settle()
    }

    /// The file with a single plugin that a list stands for. What cannot be read is none:
    /// nothing could be put back from it.
    pub(super) fn single_of(&self, list: &str) -> Option<(String, Content)> {
        let stem = list.strip_suffix(".conflist")?;
        let singles = [".conf", ".json"].map(|ending| format!("{stem}{ending}"));
        singles.into_iter().find_map(|single| {
            let content = match self.read(&format!("{single}{REPLACED}")) {
                // A crash came before it got that name.
                Err(error) if error.kind() == ErrorKind::NotFound => self.read(&single),
                replaced => replaced,
            };
            content.ok().map(|content| (single, content))
        })
    }

    /// Removes what a crash left; gives what cannot be removed, and why.
    pub(super) fn tidy(&self) -> io::Result<Vec<(String, io::Error)>> {
        let mut stuck = Vec::new();
        for name in self.names()? {
            if !name.ends_with(UNFINISHED) {
                continue;
            }
            match fs::remove_file(self.path.join(&name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => stuck.push((name, error)),
                _ => {}
            }
        }
        Ok(stuck)
    }

    /// A file beside the one of that name, which it is to become.
    fn write(&self, name: &str, text: &str, like: &Metadata) -> io::Result<PathBuf> {
        self.step()?;
        if text.len() as u64 > MAX_BYTES {
            // Who wrote it could not take it out again.
            let why = format!(
                "{} would have {} bytes, and no more than {MAX_BYTES} are read again",
                self.path.join(name).display(),
                text.len()
            );
            return Err(io::Error::new(ErrorKind::FileTooLarge, why));
        }
        let unfinished = self.path.join(format!(".{name}{UNFINISHED}"));
        self.fill(&unfinished, text, like)
            .map_err(at(&unfinished))?;
        Ok(unfinished)
    }

    fn fill(&self, path: &Path, text: &str, like: &Metadata) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(path)?;
        // Before it is another's: to set his mode takes one more capability.
        file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
        give(&file, like)?;
        self.step()?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Names are on the disk.
    fn settle(&self) -> io::Result<()> {
        self.lock.sync_all()
    }

    /// Where a test has the agent end.
    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        match self.crash.get() {
            Some(0) => return Err(io::Error::other("crashed")),
            Some(left) => self.crash.set(Some(left - 1)),
            None => {}
        }
        Ok(())
    }

    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "of tests alone"
    )]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }
}
