//! Certificates from a directory: `NAMESPACE.SERVICE_ACCOUNT.crt` (leaf, then
//! intermediates), `NAMESPACE.SERVICE_ACCOUNT.key`, and `ca.crt` with the roots.
//! Whoever fills it renews it; it is looked at every half second.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::source::{CertificateSource, Change, Fetch, Fetched, SourceError, read};
use crate::model::SpiffeId;
use crate::tls::PrivateKey;

/// Most files that are looked at.
const MAX_FILES: usize = 10_000;

/// What tells that a file is another one than before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    path: PathBuf,
    id: (u64, u64, u64),
    modified: (i64, i64),
}

impl Stamp {
    /// None when there is no such file. Follows links, as mounted
    /// configuration is swapped by them.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            path: path.to_owned(),
            id: (meta.dev(), meta.ino(), meta.len()),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

pub(super) struct Files {
    dir: PathBuf,
    seen: Mutex<Vec<Stamp>>,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        let seen = Mutex::new(stamps(&dir));
        Self { dir, seen }
    }

    async fn load(dir: PathBuf, id: SpiffeId) -> Result<Fetched, SourceError> {
        let name = format!("{}.{}", id.namespace(), id.service_account());
        let path = dir.join(format!("{name}.crt"));
        let chain =
            String::from_utf8(read(path.clone()).await?).map_err(|_| SourceError::NotText(path))?;
        let key = Zeroizing::new(read(dir.join(format!("{name}.key"))).await?);
        Ok(Fetched {
            chain,
            key: PrivateKey::from_pem(&key)?,
            roots: read(dir.join("ca.crt")).await?,
            token: None,
        })
    }
}

impl CertificateSource for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn renews(&self) -> bool {
        false
    }

    fn fetch(self: Arc<Self>, id: SpiffeId) -> Fetch {
        Box::pin(Self::load(self.dir.clone(), id))
    }

    fn look(&self) -> Change {
        let now = stamps(&self.dir);
        let mut seen = self.seen.lock();
        let changed = *seen != now;
        *seen = now;
        match changed {
            true => Change::Certificates,
            false => Change::Nothing,
        }
    }

    fn new_token(&self) -> String {
        String::new()
    }
}

fn stamps(dir: &Path) -> Vec<Stamp> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut stamps: Vec<Stamp> = entries
        .filter_map(Result::ok)
        .take(MAX_FILES)
        .filter_map(|entry| Stamp::of(&entry.path()))
        .collect();
    stamps.sort();
    stamps
}
