//! One owner of a directory of pins at a time.
//!
//! An agent, or `mesh-agent cleanup`. The lock is on the directory itself, so it
//! is the same under whatever path; it goes with its process, however that ends.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Error;
use super::pins;

/// The right to change what is below a directory of pins.
#[derive(Debug)]
pub(crate) struct Owner {
    dir: PathBuf,
    lock: Flock<File>,
    empty: bool,
}

impl Owner {
    /// Makes the directory where it is missing.
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Pins {
            dir: dir.to_owned(),
            source,
        };
        pins::must_be_bpffs(dir)?;
        // One that is made here by two at once is locked by one of them.
        loop {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(dir).map_err(failed)?;
            let file = File::open(dir).map_err(failed)?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::Owned {
                        dir: dir.to_owned(),
                    });
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            };
            let owner = Self {
                dir: dir.to_owned(),
                lock,
                empty: pins::is_empty(dir)?,
            };
            // The owner before may have removed it meanwhile.
            if owner.holds()? {
                return Ok(owner);
            }
        }
    }

    /// Was the directory empty: are there no pins of anybody to be lost?
    pub(super) fn found_nothing(&self) -> bool {
        self.empty
    }

    /// Is the directory of that path the one that is locked? Not where somebody
    /// removed it and it was made again.
    pub(super) fn holds(&self) -> Result<bool, Error> {
        let failed = |source| Error::Pins {
            dir: self.dir.clone(),
            source,
        };
        let locked = self.lock.metadata().map_err(failed)?.ino();
        match std::fs::metadata(&self.dir) {
            Ok(here) => Ok(here.ino() == locked),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Goes only where nothing is pinned in it.
        if self.holds().is_ok_and(|holds| holds) {
            let _stays_with_its_pins = std::fs::remove_dir(&self.dir);
        }
    }
}
