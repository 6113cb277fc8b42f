//! What the plugin's place in the node's chain depends on.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use mesh_cni::Entry;

use super::links;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the host's root is seen from here.
    pub(crate) host: PathBuf,
    /// All of it is: what is not there is not on the host either.
    pub(crate) is_whole: bool,
    /// Folders of the host; looked for where they are not given.
    pub(crate) conf_dir: Option<PathBuf>,
    pub(crate) bin_dir: Option<PathBuf>,
    /// Our entry is in a file of our own, where that comes first.
    pub(crate) own_file: bool,
    /// The plugin's program, as it is copied to the host.
    pub(crate) program: PathBuf,
    pub(crate) entry: Entry,
}

impl Settings {
    /// Where there is no such directory, nothing of the host is known.
    pub(super) fn sees_host(&self) -> io::Result<()> {
        match fs::metadata(&self.host)?.is_dir() {
            true => Ok(()),
            false => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// A path of the host's, as it is seen from here: by its links, as they lead there.
    pub(super) fn seen(&self, path: &Path) -> PathBuf {
        links::followed(&self.host, path)
    }
}
