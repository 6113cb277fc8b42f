//! The pins: `DIR/abi-N/{maps,links}`, one `links/netns-COOKIE` per pod.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, MapType};
use mesh_common::abi::{ABI_NAME, Addr, RefusalEvent};

use super::Error;
use crate::sys::bpf;

const POD_PREFIX: &str = "netns-";
/// Of programs that record what agents and probers dial.
const RECORDER_PREFIX: &str = "sockops-";
const AGENT_PREFIX: &str = "sockops-agent-";
const PROBER_PREFIX: &str = "sockops-probe-";
/// Of a link that is to replace another one's pin. (bpffs refuses names with dots.)
const UNFINISHED: &str = "new-";

#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// Makes the directories, readable by root alone.
    pub(super) fn prepare(root: &Path) -> Result<Self, Error> {
        let version = root.join(ABI_NAME);
        let failed = |source| Error::Pins {
            dir: root.to_owned(),
            source,
        };
        must_be_bpffs(root)?;
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
        maps_of(&self.version)
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        link_of(&self.version, name)
    }

    pub(super) fn pod(&self, cookie: u64) -> PathBuf {
        pod_of(&self.version, cookie)
    }

    /// Of all pinned links.
    pub(super) fn link_names(&self) -> Result<Vec<String>, Error> {
        names(&self.version.join("links"))
    }

    pub(super) fn pod_cookies(&self) -> Result<Vec<u64>, Error> {
        pod_cookies(&self.version)
    }

    /// What a start that was killed left, when all of its links are replaced.
    pub(super) fn remove_unfinished(&self) -> Result<(), Error> {
        for name in self.link_names()? {
            if name.starts_with(UNFINISHED) {
                unpin(&self.link(&name))?;
            }
        }
        Ok(())
    }

    /// The directories of other versions of the agent.
    pub(super) fn other_versions(&self) -> Result<Vec<PathBuf>, Error> {
        let mut dirs = subdirectories(&self.root)?;
        dirs.retain(|dir| *dir != self.version);
        Ok(dirs)
    }

    pub(super) fn pods_of_other_versions(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let mut pods = Vec::new();
        for dir in self.other_versions()? {
            let pin = |cookie: u64| pod_of(&dir, cookie);
            pods.extend(pod_cookies(&dir)?.into_iter().map(|c| (c, pin(c))));
        }
        Ok(pods)
    }
}

/// The directory, or the one that it is to be made in.
pub(super) fn must_be_bpffs(dir: &Path) -> Result<(), Error> {
    let existing = dir.ancestors().find(|dir| dir.is_dir());
    if existing.is_some_and(is_bpffs) {
        return Ok(());
    }
    Err(Error::NoBpffs {
        dir: dir.to_owned(),
    })
}

pub(super) fn is_empty(dir: &Path) -> Result<bool, Error> {
    Ok(names(dir)?.is_empty())
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
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// Of every version.
pub(super) fn map_directories(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let versions = subdirectories(root)?;
    Ok(versions.iter().map(|dir| maps_of(dir)).collect())
}

pub(super) fn maps_of(version: &Path) -> PathBuf {
    version.join("maps")
}

/// Pin of a link of that name.
pub(super) fn link_of(version: &Path, name: &str) -> PathBuf {
    version.join("links").join(name)
}

/// Pin of the program that records what the agent with this cgroup dials and answers.
pub(super) fn agent_pin(id: u64) -> String {
    format!("{AGENT_PREFIX}{id}")
}

/// Whose pin of that kind it is.
fn agent_of(pin: &str) -> Option<u64> {
    pin.strip_prefix(AGENT_PREFIX)?.parse().ok()
}

/// cgroup ids of agents of the version whose program is pinned.
pub(super) fn agents_of(version: &Path) -> Result<Vec<u64>, Error> {
    let names = names(&version.join("links"))?;
    Ok(names.iter().filter_map(|name| agent_of(name)).collect())
}

/// Pin of the program that records what a prober dials.
pub(super) fn prober_pin(name: &str) -> String {
    format!("{PROBER_PREFIX}{name}")
}

/// Any pin of that program of the version.
pub(super) fn a_prober_of(version: &Path) -> Result<Option<PathBuf>, Error> {
    let mut names = names(&version.join("links"))?.into_iter();
    let found = names.find(|name| name.starts_with(PROBER_PREFIX));
    Ok(found.map(|name| link_of(version, &name)))
}

/// Of a version whose agents still run: what they need for the connections that they
/// have stays, which is the programs of pods, and with these all that record who dials:
/// what those do not know is not let through to a pod by them.
pub(super) fn narrow(version: &Path) -> Result<(), Error> {
    for name in names(&version.join("links"))? {
        if !name.starts_with(POD_PREFIX) && !name.starts_with(RECORDER_PREFIX) {
            unpin(&link_of(version, &name))?;
        }
    }
    Ok(())
}

/// Pin of the program of an enrolled namespace.
pub(super) fn pod_of(version: &Path, cookie: u64) -> PathBuf {
    link_of(version, &format!("{POD_PREFIX}{cookie}"))
}

fn pod_cookies(version: &Path) -> Result<Vec<u64>, Error> {
    let names = names(&version.join("links"))?.into_iter();
    Ok(names
        .filter_map(|name| name.strip_prefix(POD_PREFIX)?.parse().ok())
        .collect())
}

/// What is in a directory; nothing where it is not there.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Pins {
        dir: dir.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Removes the pins of a version beside this one. The programs of its pods go first: one whose
/// recorder is gone before it takes what this agent dials for a stranger's, and refuses it.
pub(super) fn remove_version(version: &Path) -> Result<(), Error> {
    for name in names(&version.join("links"))? {
        // Also one that an agent was about to put in the other's place when it was killed.
        let name_of_it = name.strip_prefix(UNFINISHED).unwrap_or(&name);
        if name_of_it.starts_with(POD_PREFIX) {
            unpin(&link_of(version, &name))?;
        }
    }
    remove_tree(version)?;
    Ok(())
}

/// Removes a directory of pins; gives the cookies of pods found in it.
pub(super) fn remove_tree(dir: &Path) -> Result<Vec<u64>, Error> {
    if !is_there(dir)? {
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

/// Gives a link this name. What has it already keeps it until the link has it:
/// there is no moment in which the name is nobody's.
pub(super) fn put(link: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Pins {
        dir: path.to_owned(),
        source,
    };
    match bpf::pin(link, path) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
        pinned => return pinned.map_err(failed),
    }
    let name = path.file_name().unwrap_or_default().display();
    let new = path.with_file_name(format!("{UNFINISHED}{name}"));
    // Of a start that was killed between these two steps.
    remove(&new)?;
    bpf::pin(link, &new).map_err(failed)?;
    std::fs::rename(&new, path).map_err(|source| {
        // It attaches nothing that is not attached by the old one.
        let _shown_by_the_first_error = remove(&new);
        failed(source)
    })
}

/// Is there something of that name? An error is no answer.
pub(super) fn is_there(path: &Path) -> Result<bool, Error> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Pins {
            dir: path.to_owned(),
            source,
        }),
    }
}

/// Takes the name away; whoever holds the link keeps it attached.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::Pins {
            dir: path.to_owned(),
            source: e,
        }),
        _ => Ok(()),
    }
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

/// Detaches the link at the pin now, and takes the pin away.
pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    detach(path);
    remove(path)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_version_whose_agents_run_all_that_records_dials_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let links = dir.path().join("links");
        std::fs::create_dir(&links).expect("links");
        let kept = [
            "netns-7",
            "sockops-agent-7",
            "sockops-probe-0",
            "sockops-probe-kubelet",
        ];
        for name in kept
            .iter()
            .chain(&["mesh_connect4", "guard-1-2-mesh_enter"])
        {
            std::fs::write(links.join(name), "").expect("a pin");
        }
        narrow(dir.path()).expect("narrowed");
        let there = std::fs::read_dir(&links).expect("links");
        let there = there.map(|e| e.expect("one").file_name().into_string().expect("a name"));
        let mut there: Vec<String> = there.collect();
        there.sort_unstable();
        assert_eq!(there, kept);
        let prober = a_prober_of(dir.path()).expect("a look").expect("one");
        assert!(prober.starts_with(&links));
    }
}
