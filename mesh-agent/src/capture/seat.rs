//! One agent in a cgroup.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Error;

/// The agent's own cgroup, in which no other agent is: what one of two dials there could
/// not be told from what the other one does, and the first that leaves takes both away.
#[derive(Debug)]
pub(crate) struct Seat {
    _lock: Flock<File>,
}

impl Seat {
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let dir = dir.to_owned();
        let lock = File::open(&dir).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
        match lock {
            Ok(Ok(lock)) => Ok(Self { _lock: lock }),
            Ok(Err((_, Errno::EWOULDBLOCK))) => Err(Error::SharedCgroup { dir }),
            Ok(Err((_, errno))) => Err(Error::Cgroup {
                dir,
                source: errno.into(),
            }),
            Err(source) => Err(Error::Cgroup { dir, source }),
        }
    }
}
