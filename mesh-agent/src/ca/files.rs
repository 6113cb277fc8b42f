//! A directory: safe permissions, whole files or none.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::errors::Error;
use super::records::{AUDIT, AUTHORITY, BUNDLE, CRL, ISSUED, Issued, REFUSED, REVOKED, TOKENS};
use super::store::{Change, Documents, FileStamp, LiveCertificates, Log, Stamp, Store};

const MAX_LOG: u64 = 64 * 1024 * 1024;
/// Former parts that are kept.
const AUDIT_PARTS: u32 = 8;
const REFUSED_PARTS: u32 = 1;

/// What a change begins with.
const READ: [&str; 3] = [AUTHORITY, TOKENS, REVOKED];
/// What it may write, in this order.
const WRITTEN: [&str; 5] = [AUTHORITY, TOKENS, REVOKED, CRL, BUNDLE];

pub(super) struct Files {
    dir: PathBuf,
    /// One line at a time: a log is begun anew when it is too large. One for each
    /// log: who signs does not wait for refusals.
    auditing: Mutex<()>,
    refusing: Mutex<()>,
}

impl Files {
    /// Makes the directory when there is none.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let store = Self {
            dir: dir.to_owned(),
            auditing: Mutex::default(),
            refusing: Mutex::default(),
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| store.failed("", e))?;
        check_private(dir)?;
        Ok(store)
    }

    /// Of an authority that was started once: asking must not make one.
    pub(super) fn known(dir: &Path) -> Result<Self, Error> {
        let exists = dir.try_exists().map_err(|error| Error::Io {
            path: dir.to_owned(),
            error,
        })?;
        if !exists {
            return Err(Error::Empty(dir.to_owned()));
        }
        Self::open(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn failed(&self, name: &str, error: io::Error) -> Error {
        Error::Io {
            path: self.at(name),
            error,
        }
    }

    fn broken(&self, name: &str, error: serde_json::Error) -> Error {
        let path = self.at(name);
        Error::Broken { path, error }
    }

    /// Held while state is read, changed and written.
    fn lock(&self) -> Result<Flock<File>, Error> {
        self.flock("lock", FlockArg::LockExclusive)
    }

    fn flock(&self, name: &str, how: FlockArg) -> Result<Flock<File>, Error> {
        let file = private()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.at(name));
        let file = file.map_err(|e| self.failed(name, e))?;
        Flock::lock(file, how).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::Running(self.dir.clone()),
            other => self.failed(name, other.into()),
        })
    }

    fn stamp_of(&self, name: &str) -> FileStamp {
        let meta = fs::metadata(self.at(name)).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    }

    /// None when it was never written.
    fn read_bytes(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let path = self.at(name);
        match fs::read(&path) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                check_private(&path)?;
                Ok(Some(text))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(name, e)),
        }
    }

    /// All of it or, after a crash at any point, nothing of it.
    fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let draft = self.at(&format!(".{name}.{}", std::process::id()));
        let write = || {
            // Left by a crash of a process with this number; absent is fine.
            let _absent = fs::remove_file(&draft);
            let mut file = private().create_new(true).write(true).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // Before the file is there: what fails up to here has changed nothing.
            let dir = File::open(&self.dir)?;
            fs::rename(&draft, self.at(name))?;
            dir.sync_all()
        };
        write().map_err(|e| self.failed(name, e))
    }

    /// Removes drafts that crashes left; the lock is held, so nobody writes one.
    fn sweep(&self) -> Result<(), Error> {
        let entries = fs::read_dir(&self.dir).map_err(|e| self.failed("", e))?;
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path()).map_err(|e| self.failed("", e))?;
            }
        }
        Ok(())
    }

    /// One line at the end of a file, on disk when this returns.
    pub(super) fn append(&self, name: &str, line: &[u8]) -> Result<(), Error> {
        let write = || {
            let mut options = private();
            options.create(true).append(true).read(true);
            let mut file = options.open(self.at(name))?;
            // What a crash cut off stays a line of its own.
            let before: &[u8] = if ends_with_newline(&file)? {
                b""
            } else {
                b"\n"
            };
            file.write_all(&[before, line, b"\n"].concat())?;
            file.sync_data()
        };
        write().map_err(|e| self.failed(name, e))
    }

    /// The lines that can be read.
    pub(super) fn lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, Error> {
        let text = match fs::read_to_string(self.at(name)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.failed(name, e)),
        };
        let parsed = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(parsed.collect())
    }

    /// Begins the file anew when it is too large; keeps `parts` former ones.
    pub(super) fn rotate_log(&self, name: &str, limit: u64, parts: u32) -> Result<(), Error> {
        if !fs::metadata(self.at(name)).is_ok_and(|m| m.len() > limit) {
            return Ok(());
        }
        let part = |n: u32| match n {
            0 => self.at(name),
            n => self.at(&format!("{name}.{n}")),
        };
        for n in (0..parts).rev() {
            match fs::rename(part(n), part(n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.failed(name, e)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Store for Files {
    fn stamp(&self) -> Result<Stamp, Error> {
        let stamps = [AUTHORITY, TOKENS].map(|name| self.stamp_of(name));
        Ok(Stamp::Files(stamps))
    }

    fn read(&self) -> Result<Documents, Error> {
        let mut held = BTreeMap::new();
        for name in READ {
            if let Some(bytes) = self.read_bytes(name)? {
                held.insert(name.to_owned(), bytes);
            }
        }
        Ok(Documents::new(self.dir.clone(), held))
    }

    fn change(&self, change: &mut Change<'_>) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.sweep()?;
        let mut documents = self.read()?;
        change(&mut documents)?;
        for (name, bytes) in documents.changes(&WRITTEN) {
            self.write_bytes(name, bytes)?;
        }
        Ok(())
    }

    fn remember(&self, issued: &Issued) -> Result<(), Error> {
        let line = serde_json::to_vec(issued).map_err(|error| self.broken(ISSUED, error))?;
        self.append(ISSUED, &line)
    }

    fn forget_expired(&self, now: u64) -> Result<Vec<String>, Error> {
        let _lock = self.lock()?;
        let mut live = self.lines::<Issued>(ISSUED)?;
        live.retain(|i| i.not_after > now);
        let lines = live.iter().filter_map(|i| serde_json::to_string(i).ok());
        let text: String = lines.map(|line| line + "\n").collect();
        self.write_bytes(ISSUED, text.as_bytes())?;
        Ok(live.into_iter().map(|i| i.caller).collect())
    }

    fn callers(&self) -> Result<Vec<String>, Error> {
        let issued = self.lines::<Issued>(ISSUED)?;
        Ok(issued.into_iter().map(|i| i.caller).collect())
    }

    fn live(&self, now: u64) -> Result<LiveCertificates, Error> {
        let mut issued = self.lines::<Issued>(ISSUED)?;
        issued.retain(|i| i.not_after > now);
        Ok(LiveCertificates::Listed(issued))
    }

    fn write_down(&self, log: Log, line: &[u8]) -> Result<(), Error> {
        let (name, parts, logging) = match log {
            Log::Audit => (AUDIT, AUDIT_PARTS, &self.auditing),
            Log::Refused => (REFUSED, REFUSED_PARTS, &self.refusing),
        };
        let _logging = logging.lock();
        self.rotate_log(name, MAX_LOG, parts)?;
        self.append(name, line)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at(name)
    }

    fn begin_to_run(&self) -> Result<Box<dyn Send>, Error> {
        let locked = self.flock("run.lock", FlockArg::LockExclusiveNonblock)?;
        Ok(Box::new(locked))
    }
}

/// So does an empty one.
fn ends_with_newline(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == *b"\n")
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Nobody else may read keys or write tokens.
pub(super) fn check_private(path: &Path) -> Result<(), Error> {
    let meta = fs::metadata(path).map_err(|error| Error::Io {
        path: path.to_owned(),
        error,
    })?;
    let user = nix::unistd::geteuid().as_raw();
    must_be_private(path, (meta.uid(), meta.mode()), user)
}

fn must_be_private(path: &Path, (owner, mode): (u32, u32), user: u32) -> Result<(), Error> {
    let path = path.to_owned();
    if owner != user {
        // Whatever its mode: what this user wrote there would be closed to the owner.
        return Err(Error::Owner { path, owner, user });
    }
    if mode & 0o077 != 0 {
        let mode = mode & 0o7777;
        return Err(Error::Permissions { path, mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_the_owner_is_told_whose_it_is_and_no_mode() {
        let path = Path::new("/state");
        let refused = |owner, mode, user| match must_be_private(path, (owner, mode), user) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(refused(7, 0o40_700, 7), "");
        for (user, mode) in [(8, 0o40_700), (0, 0o40_755)] {
            let said = refused(7, mode, user);
            assert!(said.contains("run it as user 7"), "{said}");
            assert!(!said.contains("chmod"), "{said}");
        }
        let said = refused(7, 0o40_750, 7);
        assert!(
            said.contains("chmod go-rwx") && said.contains("750"),
            "{said}"
        );
    }

    #[test]
    fn a_directory_that_cannot_be_looked_for_is_not_said_to_be_absent() {
        // A name below a file: no answer, where a missing one has the answer no.
        let file = tempfile::NamedTempFile::new().expect("a file");
        let long = file.path().with_file_name("x".repeat(300));
        let known = |dir: &Path| Files::known(dir).err().expect("refused");
        assert!(matches!(known(&long), Error::Io { .. }), "{}", known(&long));
        let absent = file.path().with_extension("absent");
        assert!(matches!(known(&absent), Error::Empty(_)));
    }
}
