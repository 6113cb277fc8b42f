//! Which state a command is for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::errors::Error;
use super::files::Files;
use super::store::Store;

/// Where an authority's state is.
#[derive(Clone)]
pub(crate) struct Place(Kept);

#[derive(Clone)]
enum Kept {
    Directory(PathBuf),
    Open(Arc<dyn Store>),
}

impl<T: AsRef<Path> + ?Sized> From<&T> for Place {
    fn from(dir: &T) -> Self {
        Self(Kept::Directory(dir.as_ref().to_owned()))
    }
}

impl Place {
    pub(super) fn open(store: Arc<dyn Store>) -> Self {
        Self(Kept::Open(store))
    }

    /// Of an authority that was started once: asking must not make one.
    pub(super) fn known(self) -> Result<Arc<dyn Store>, Error> {
        match self.0 {
            Kept::Directory(dir) => Ok(Arc::new(Files::known(&dir)?)),
            Kept::Open(store) => Ok(store),
        }
    }
}
