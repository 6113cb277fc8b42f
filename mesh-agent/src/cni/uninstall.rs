//! Takes the plugin out of the node's chain, and says what is left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_cni::PLUGIN;
use serde::Deserialize;

use super::binary;
use super::folder::{CHANGED, Folder};
use super::list::{self, Network};
use super::own;
use super::places;
use super::settings::Settings;

/// Where the runtimes' library keeps what it called each sandbox's plugins with. CRI-O
/// takes a sandbox away by that, not by what is configured now.
const CACHE: &str = "/var/lib/cni/results";
/// Sockets of runtimes. containerd takes a sandbox away by what is configured now; nodes
/// of any other runtime count as CRI-O's.
const CONTAINERD: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];
const CRIO: &str = "/run/crio/crio.sock";
const MAX_CACHED: usize = 10_000;
const MAX_CACHED_BYTES: u64 = 4 << 20;
const ATTEMPTS: usize = 5;

/// What an uninstall came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Configurations that our entry was taken out of.
    pub(crate) changed: Vec<PathBuf>,
    /// Programs that were removed, and those that stay for sandboxes made with them.
    pub(crate) removed: Vec<PathBuf>,
    pub(crate) kept: Vec<PathBuf>,
    /// Sandboxes that were made with the plugin and are there still.
    pub(crate) sandboxes: usize,
}

/// The configuration first, then what the agent left for the plugin, then the program:
/// at no moment is something named that is not there. It may be repeated.
///
/// `also_program`: also where sandboxes still name it.
pub(crate) fn uninstall(settings: &Settings, also_program: bool) -> io::Result<Left> {
    let mut left = Left::default();
    let dirs = places::conf_dirs(settings);
    let mut is_linked = false;
    for dir in &dirs {
        let folder = Folder::open(&settings.seen(dir))?;
        for name in leave(&folder)? {
            left.changed.push(dir.join(name));
        }
        is_linked |= is_named_behind_a_link(settings, dir, &folder)?;
    }
    // Without it the plugin holds nobody up: a runtime may call it still.
    binary::gone(&settings.entry.outside_file)?;
    binary::gone(&settings.entry.socket)?;
    left.sandboxes = sandboxes(&settings.seen(Path::new(CACHE)))?;
    let is_noted = left.sandboxes > 0 && !ends_by_configuration(settings);
    // A runtime that has not read the change yet would call what is gone.
    let is_in_use = is_noted || is_linked || !left.changed.is_empty();
    for dir in places::bin_dirs(settings) {
        let program = dir.join(PLUGIN);
        if !settings.seen(&program).exists() {
            continue;
        }
        if is_in_use && !also_program {
            left.kept.push(program);
            continue;
        }
        binary::remove(&settings.seen(&dir))?;
        left.removed.push(program);
    }
    Ok(left)
}

/// What a link leads to is another program's and not changed, and a runtime follows it: one that
/// names a program which is gone starts no pod.
fn is_named_behind_a_link(settings: &Settings, dir: &Path, folder: &Folder) -> io::Result<bool> {
    let names = folder.names()?.into_iter();
    let mut linked = names.filter(|name| folder.link(name).is_some());
    Ok(linked.any(|name| {
        let content = super::folder::read(&settings.seen(&dir.join(name)));
        content.is_ok_and(|content| content.text.contains(PLUGIN))
    }))
}

/// Does the node's runtime take a sandbox away by what is configured at that time?
fn ends_by_configuration(settings: &Settings) -> bool {
    // What cannot be looked at may be there.
    let may_be = |path: &str| settings.seen(Path::new(path)).try_exists().unwrap_or(true);
    let is = |path: &&str| settings.seen(Path::new(path)).exists();
    !may_be(CRIO) && CONTAINERD.iter().any(is)
}

/// Takes our entry out of every file that has it, also of those that nobody reads
/// now: a program that put one aside may bring it back.
pub(super) fn leave(folder: &Folder) -> io::Result<Vec<String>> {
    folder.tidy()?;
    let mut changed = Vec::new();
    if folder.remove(own::FILE)? {
        changed.push(own::FILE.to_owned());
    }
    for name in folder.names()? {
        for attempt in 1.. {
            match leave_file(folder, &name) {
                Ok(is_changed) => {
                    changed.extend(is_changed.then(|| name.clone()));
                    break;
                }
                Err(error) if error.kind() == CHANGED && attempt < ATTEMPTS => {}
                Err(error) => {
                    let why = format!("{name}: {error}");
                    return Err(io::Error::new(error.kind(), why));
                }
            }
        }
    }
    Ok(changed)
}

/// False: it has no entry of ours.
pub(super) fn leave_file(folder: &Folder, name: &str) -> io::Result<bool> {
    // What is no list of plugins has no entry of ours.
    let Ok(content) = folder.read(name) else {
        return Ok(false);
    };
    let Ok(network) = Network::read(&as_list(name), &content.text) else {
        return Ok(false);
    };
    if !network.has_ours() {
        return Ok(false);
    }
    if list::is_configuration(name)
        && let Some((single, before)) = folder.single_of(name)
        && network.is_made_of(&before.text)
    {
        folder.restore(&single, name)?;
        return Ok(true);
    }
    folder.replace(name, &content, &network.without())?;
    Ok(true)
}

/// A file that was put aside is read as what it was.
fn as_list(name: &str) -> String {
    match list::is_configuration(name) {
        true => name.to_owned(),
        false => format!("{name}.conflist"),
    }
}

/// How many sandboxes were made with our plugin.
fn sandboxes(cache: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for entry in entries.take(MAX_CACHED) {
        count += usize::from(names_ours(&entry?.path()));
    }
    Ok(count)
}

/// One that cannot be read may.
fn names_ours(path: &Path) -> bool {
    #[derive(Deserialize)]
    struct Cached {
        /// In base64.
        #[serde(default)]
        config: String,
    }
    let is_small = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_CACHED_BYTES);
    let text = match is_small.then(|| fs::read(path)) {
        Some(Ok(text)) => text,
        // Gone meanwhile, with its sandbox.
        Some(Err(error)) => return error.kind() != io::ErrorKind::NotFound,
        None => return path.is_file(),
    };
    let Ok(cached) = serde_json::from_slice::<Cached>(&text) else {
        // A result of an old library says nothing of plugins.
        return false;
    };
    let quoted = format!("\"{PLUGIN}\"");
    let config = decoded(&cached.config);
    config
        .windows(quoted.len())
        .any(|at| at == quoted.as_bytes())
}

/// Base64, up to what is none.
fn decoded(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bits, mut have, mut bytes) = (0_u32, 0, Vec::new());
    for value in text.bytes().map_while(value) {
        bits = bits << 6 | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::samples::KINDNET;
    use crate::cni::tests::{BIN, Host};

    #[test]
    fn the_program_stays_while_a_link_leads_to_a_chain_that_names_it() {
        let host = Host::new(&[("10-n.conflist", KINDNET)]);
        host.install();
        let moved = host.root().join("moved");
        fs::rename(host.conf("10-n.conflist"), &moved).expect("moved");
        std::os::unix::fs::symlink("/moved", host.conf("10-n.conflist")).expect("a link");
        let left = uninstall(&host.settings, false).expect("left");
        assert_eq!((left.kept.len(), left.removed.len()), (1, 0));
        assert!(host.root().join(BIN).join(PLUGIN).exists());
        fs::remove_file(host.conf("10-n.conflist")).expect("removed");
        let left = uninstall(&host.settings, false).expect("left");
        assert_eq!(left.removed.len(), 1);
    }

    #[test]
    fn a_sandbox_that_was_made_with_the_plugin_is_known_by_the_runtimes_own_notes() {
        let dir = tempfile::tempdir().expect("a directory");
        let note = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
        };
        assert_eq!(sandboxes(dir.path()).expect("read"), 0);
        // {"plugins":[{"type":"mesh-agent-cni"}]}
        note(
            "pods-1-eth0",
            r#"{"kind":"cniCacheV1","containerId":"1","config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoibWVzaC1hZ2VudC1jbmkifV19"}"#,
        );
        // {"plugins":[{"type":"ptp"}]}
        note(
            "pods-2-eth0",
            r#"{"config":"eyJwbHVnaW5zIjpbeyJ0eXBlIjoicHRwIn1dfQ=="}"#,
        );
        note("pods-3-eth0", r#"{"cniVersion":"0.3.1"}"#);
        note("pods-4-eth0", "nonsense");
        assert_eq!(sandboxes(dir.path()).expect("read"), 1);
        assert_eq!(sandboxes(&dir.path().join("none")).expect("read"), 0);
    }
}
