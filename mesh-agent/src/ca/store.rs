//! The state directory: safe permissions, whole files or none.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::errors::Error;

pub(super) struct Store {
    dir: PathBuf,
}

/// Tells that a file is another one than before: each write makes a new inode.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

impl Store {
    /// Makes the directory when there is none.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let store = Self {
            dir: dir.to_owned(),
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

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn failed(&self, name: &str, error: io::Error) -> Error {
        Error::Io {
            path: self.path(name),
            error,
        }
    }

    /// Held while state is read, changed and written.
    pub(super) fn lock(&self) -> Result<Flock<File>, Error> {
        self.flock("lock", FlockArg::LockExclusive)
    }

    /// One running authority per directory.
    pub(super) fn lock_to_run(&self) -> Result<Flock<File>, Error> {
        self.flock("run.lock", FlockArg::LockExclusiveNonblock)
    }

    fn flock(&self, name: &str, how: FlockArg) -> Result<Flock<File>, Error> {
        let file = private()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path(name));
        let file = file.map_err(|e| self.failed(name, e))?;
        Flock::lock(file, how).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::Running(self.dir.clone()),
            other => self.failed(name, other.into()),
        })
    }

    pub(super) fn stamp(&self, name: &str) -> Stamp {
        let meta = fs::metadata(self.path(name)).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    }

    /// None when it was never written.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.path(name);
        let text = match fs::read(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.failed(name, e)),
        };
        check_private(&path)?;
        let parsed = serde_json::from_slice(&text);
        parsed
            .map(Some)
            .map_err(|error| Error::Broken { path, error })
    }

    pub(super) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Error> {
        let path = self.path(name);
        let text =
            serde_json::to_vec_pretty(value).map_err(|error| Error::Broken { path, error })?;
        self.write_bytes(name, &Zeroizing::new(text))
    }

    /// All of it or, after a crash at any point, nothing of it.
    pub(super) fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let draft = self.path(&format!(".{name}.{}", std::process::id()));
        let write = || {
            // Left by a crash of a process with this number; absent is fine.
            let _absent = fs::remove_file(&draft);
            let mut file = private().create_new(true).write(true).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            // Before the file is there: what fails up to here has changed nothing.
            let dir = File::open(&self.dir)?;
            fs::rename(&draft, self.path(name))?;
            dir.sync_all()
        };
        write().map_err(|e| self.failed(name, e))
    }

    /// Removes drafts that crashes left; the lock is held, so nobody writes one.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        let entries = fs::read_dir(&self.dir).map_err(|e| self.failed("", e))?;
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path()).map_err(|e| self.failed("", e))?;
            }
        }
        Ok(())
    }

    /// One line at the end of a file, on disk when this returns.
    pub(super) fn append<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Error> {
        let path = self.path(name);
        let line = serde_json::to_vec(value).map_err(|error| Error::Broken { path, error })?;
        let write = || {
            let mut options = private();
            options.create(true).append(true).read(true);
            let mut file = options.open(self.path(name))?;
            // What a crash cut off stays a line of its own.
            let before: &[u8] = if ends_with_newline(&file)? {
                b""
            } else {
                b"\n"
            };
            file.write_all(&[before, line.as_slice(), b"\n"].concat())?;
            file.sync_data()
        };
        write().map_err(|e| self.failed(name, e))
    }

    /// The lines that can be read.
    pub(super) fn lines<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, Error> {
        let text = match fs::read_to_string(self.path(name)) {
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
        if !fs::metadata(self.path(name)).is_ok_and(|m| m.len() > limit) {
            return Ok(());
        }
        let part = |n: u32| match n {
            0 => self.path(name),
            n => self.path(&format!("{name}.{n}")),
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
        let known = |dir: &Path| Store::known(dir).err().expect("refused");
        assert!(matches!(known(&long), Error::Io { .. }), "{}", known(&long));
        let absent = file.path().with_extension("absent");
        assert!(matches!(known(&absent), Error::Empty(_)));
    }
}
