//! The pins: `DIR/abi-N/{maps,links}`, one `links/netns-COOKIE` per pod.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, MapType};
use aya::programs::links::FdLink;
use mesh_common::abi::{ABI_VERSION, Addr, RefusalEvent};

use super::Error;
use crate::sys::bpf;

const POD_PREFIX: &str = "netns-";

#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// Makes the directories, readable by root alone.
    pub(super) fn prepare(root: &Path) -> Result<Self, Error> {
        let version = root.join(format!("abi-{ABI_VERSION}"));
        let failed = |source| Error::Pins {
            dir: root.to_owned(),
            source,
        };
        let existing = root.ancestors().find(|dir| dir.is_dir());
        if !existing.is_some_and(is_bpffs) {
            return Err(Error::NoBpffs {
                dir: root.to_owned(),
            });
        }
        for dir in [version.join("maps"), version.join("links")] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(failed)?;
        }
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(Self {
            root: root.to_owned(),
            version,
        })
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.version.join("maps")
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.version.join("links").join(name)
    }

    pub(super) fn sock_ops(&self, role: &str) -> PathBuf {
        self.link(&format!("sockops-{role}"))
    }

    pub(super) fn pod(&self, cookie: u64) -> PathBuf {
        self.link(&format!("{POD_PREFIX}{cookie}"))
    }

    /// Of all pinned links.
    pub(super) fn link_names(&self) -> Result<Vec<String>, Error> {
        let dir = self.version.join("links");
        let failed = |source| Error::Pins {
            dir: dir.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(name.into_string());
        }
        Ok(names)
    }

    pub(super) fn pod_cookies(&self) -> Result<Vec<u64>, Error> {
        pod_cookies(&self.version)
    }

    /// Called when ours are attached: there is no moment without programs.
    pub(super) fn remove_other_versions(&self) -> Result<(), Error> {
        for dir in subdirectories(&self.root)? {
            if dir != self.version {
                remove_tree(&dir)?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_all(&self) -> Result<(), Error> {
        remove_tree(&self.root).map(drop)
    }
}

fn is_bpffs(dir: &Path) -> bool {
    nix::sys::statfs::statfs(dir)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Pins {
        dir: dir.to_owned(),
        source,
    };
    let mut dirs = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            dirs.push(path);
        }
    }
    Ok(dirs)
}

/// Those of every version.
pub(super) fn map_directories(root: &Path) -> Result<Vec<PathBuf>, Error> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    let versions = subdirectories(root)?;
    Ok(versions.into_iter().map(|dir| dir.join("maps")).collect())
}

fn pod_cookies(version: &Path) -> Result<Vec<u64>, Error> {
    let dir = version.join("links");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Pins { dir, source }),
    };
    Ok(entries
        .filter_map(Result::ok)
        .filter_map(|e| {
            e.file_name()
                .to_str()?
                .strip_prefix(POD_PREFIX)?
                .parse()
                .ok()
        })
        .collect())
}

/// Removes a directory of pins; gives the cookies of pods found in it.
pub(super) fn remove_tree(dir: &Path) -> Result<Vec<u64>, Error> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut cookies = pod_cookies(dir)?;
    for version in subdirectories(dir)? {
        cookies.extend(pod_cookies(&version)?);
    }
    for links in [dir.join("links")].into_iter().chain(
        subdirectories(dir)?
            .into_iter()
            .map(|version| version.join("links")),
    ) {
        for link in std::fs::read_dir(links).into_iter().flatten().flatten() {
            detach(&link.path());
        }
    }
    std::fs::remove_dir_all(dir).map_err(|source| Error::Pins {
        dir: dir.to_owned(),
        source,
    })?;
    Ok(cookies)
}

pub(super) fn pin(link: FdLink, path: &Path) -> Result<(), Error> {
    link.pin(path).map(drop).map_err(|e| Error::Pins {
        dir: path.to_owned(),
        source: io::Error::other(e),
    })
}

/// Of a pin that is about to replace another. Without a dot: the file system keeps
/// such names for itself.
const UNFINISHED: &str = "-new";

/// Those of an agent that was killed in between.
pub(super) fn unpin_unfinished(pins: &Pins) -> Result<(), Error> {
    let names = pins.link_names()?.into_iter();
    let mut unfinished = names.filter(|name| name.ends_with(UNFINISHED));
    unfinished.try_for_each(|name| unpin(&pins.link(&name)))
}

/// Pins a link in the place of one that may be there: never a moment without a pin.
pub(super) fn pin_over(link: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Pins {
        dir: path.to_owned(),
        source,
    };
    let mut new = path.as_os_str().to_owned();
    new.push(UNFINISHED);
    // Of an agent that was killed here.
    if let Err(e) = std::fs::remove_file(&new)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(failed(e));
    }
    bpf::pin(link, Path::new(&new)).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}

/// At once, where removing the pin alone would detach a moment later. A link
/// that cannot be detached (its namespace is gone) goes with its pin.
fn detach(path: &Path) {
    if let Ok(link) = bpf::open_pin(path)
        && let Err(error) = bpf::link_detach(link.as_fd())
    {
        tracing::debug!(%error, path = %path.display(), "the link is detached later");
    }
}

pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    detach(path);
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::Pins {
            dir: path.to_owned(),
            source: e,
        }),
        _ => Ok(()),
    }
}

/// Gives a pinned link a new program; false where there is no such pin.
pub(super) fn swap(path: &Path, program: BorrowedFd<'_>) -> Result<bool, Error> {
    let failed = |source| Error::Pins {
        dir: path.to_owned(),
        source,
    };
    match bpf::open_pin(path) {
        Ok(link) => bpf::link_update(link.as_fd(), program)
            .map(|()| true)
            .map_err(|source| Error::Swap {
                path: path.to_owned(),
                source,
            }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed(e)),
    }
}

/// The map kinds that we use; a pin of another kind is refused.
pub(super) fn typed(data: MapData) -> Result<Map, MapError> {
    Ok(match data.info()?.map_type()? {
        MapType::Hash => Map::HashMap(data),
        MapType::PerCpuArray => Map::PerCpuArray(data),
        MapType::RingBuf => Map::RingBuf(data),
        MapType::SockHash => Map::SockHash(data),
        other => {
            return Err(MapError::InvalidMapType {
                map_type: other as u32,
            });
        }
    })
}

/// Decodes an event; one of another size is not ours.
pub(super) fn event(bytes: &[u8]) -> Option<RefusalEvent> {
    let bytes: &[u8; size_of::<RefusalEvent>()] = bytes.try_into().ok()?;
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    let long = |i: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[i..i + 8]);
        u64::from_ne_bytes(eight)
    };
    Some(RefusalEvent {
        netns_cookie: long(0),
        cgroup_id: long(8),
        destination: Addr {
            words_be: [word(16), word(20), word(24), word(28)],
        },
        destination_port: word(32),
        counter: word(36),
    })
}
