//! Takes the plugin out of the node's chain, and says what is left.

use std::fmt;
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

/// What could not be done, or looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) place: PathBuf,
    pub(crate) why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place.display(), self.why)
    }
}

fn failure(place: &Path, why: &impl ToString) -> Failure {
    Failure {
        place: place.to_owned(),
        why: why.to_string(),
    }
}

/// Why a program stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Something of a configuration failed: it may name the program still.
    Unsure,
    /// This leads to a configuration that names it.
    Link(PathBuf),
    /// So many were made with it.
    Sandboxes(usize),
    /// A runtime that has not read the change yet would call what is gone.
    JustChanged,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsure => f.write_str("what failed may name it still"),
            Self::Link(link) => {
                write!(
                    f,
                    "{} leads to a configuration that names it",
                    link.display()
                )
            }
            Self::Sandboxes(1) => {
                f.write_str("a sandbox that was made with it may need it to be taken away")
            }
            Self::Sandboxes(count) => write!(
                f,
                "{count} sandboxes that were made with it may need it to be taken away"
            ),
            Self::JustChanged => {
                f.write_str("the runtime may not have read the changed configuration yet")
            }
        }
    }
}

/// What an uninstall came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Configurations that our entry was taken out of.
    pub(crate) changed: Vec<PathBuf>,
    /// Programs that were removed, and those that stay, for at least one of these needs.
    pub(crate) removed: Vec<PathBuf>,
    pub(crate) kept: Vec<PathBuf>,
    pub(crate) needs: Vec<Need>,
    /// One does not keep the others from being handled.
    pub(crate) failures: Vec<Failure>,
}

/// The configuration first, then what the agent left for the plugin, then the program:
/// at no moment is something named that is not there. It may be repeated.
///
/// `also_program`: also where sandboxes still name it.
pub(crate) fn uninstall(settings: &Settings, also_program: bool) -> Left {
    let mut left = Left::default();
    if let Err(error) = settings.sees_host() {
        left.failures.push(failure(&settings.host, &error));
        return left;
    }
    for dir in places::conf_dirs(settings) {
        leave_folder(settings, &dir, &mut left);
    }
    let is_unsure = !left.failures.is_empty();
    // Without it the plugin holds nobody up: a runtime may call it still.
    for path in [&settings.entry.outside_file, &settings.entry.socket] {
        if let Err(error) = binary::gone(path) {
            left.failures.push(failure(path, &error));
        }
    }
    left.count_sandboxes(settings);
    if !left.changed.is_empty() {
        left.needs.push(Need::JustChanged);
    }
    if also_program {
        left.needs.clear();
    }
    // Where it is named and not there no pod starts: no flag is for that.
    if is_unsure {
        left.needs.push(Need::Unsure);
    }
    for dir in places::bin_dirs(settings) {
        left.leave_program(settings, &dir);
    }
    if left.kept.is_empty() {
        left.needs.clear();
    }
    left
}

impl Left {
    fn count_sandboxes(&mut self, settings: &Settings) {
        let cache = Path::new(CACHE);
        let is_noted = match sandboxes(&settings.seen(cache)) {
            Ok(count) => (count > 0).then_some(Need::Sandboxes(count)),
            Err(error) => {
                self.failures.push(failure(cache, &error));
                Some(Need::Unsure)
            }
        };
        self.needs
            .extend(is_noted.filter(|_| !ends_by_configuration(settings)));
    }

    fn leave_program(&mut self, settings: &Settings, dir: &Path) {
        let program = dir.join(PLUGIN);
        let removed = match settings.seen(&program).try_exists() {
            Ok(false) => return,
            Ok(true) if !self.needs.is_empty() => {
                self.kept.push(program);
                return;
            }
            Ok(true) => binary::remove(&settings.seen(dir)),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => self.removed.push(program),
            Err(error) => self.failures.push(failure(&program, &error)),
        }
    }
}

/// Takes our entry out of all files of a folder.
fn leave_folder(settings: &Settings, dir: &Path, left: &mut Left) {
    let folder = match Folder::open(&settings.seen(dir)) {
        Ok(folder) => folder,
        Err(error) => return left.failures.push(failure(dir, &error)),
    };
    let took = leave(&folder);
    left.changed
        .extend(took.changed.iter().map(|name| dir.join(name)));
    let failed = took.failed.iter();
    left.failures
        .extend(failed.map(|(name, why)| match name.is_empty() {
            true => failure(dir, why),
            false => failure(&dir.join(name), why),
        }));
    match links(settings, dir, &folder) {
        Ok((needs, failed)) => {
            left.needs.extend(needs);
            left.failures.extend(failed);
        }
        // Told above.
        Err(_) if !left.failures.is_empty() => {}
        Err(error) => left.failures.push(failure(dir, &error)),
    }
}

/// What a link leads to is another program's and not changed, and a runtime follows it: one that
/// names a program which is gone starts no pod.
fn links(
    settings: &Settings,
    dir: &Path,
    folder: &Folder,
) -> io::Result<(Vec<Need>, Vec<Failure>)> {
    let (mut needs, mut failed) = (Vec::new(), Vec::new());
    for name in folder.names()? {
        if folder.link(&name).is_none() {
            continue;
        }
        let link = dir.join(&name);
        match names_program(&settings.seen(&link), list::is_configuration(&name)) {
            Ok(true) => needs.push(Need::Link(link)),
            Ok(false) => {}
            Err(error) => failed.push(failure(&link, &format!("what it leads to: {error}"))),
        }
    }
    Ok((needs, failed))
}

/// `is_configuration`: a runtime reads it, and what it leads to may not be mounted here.
fn names_program(path: &Path, is_configuration: bool) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_configuration => {
            return Ok(false);
        }
        _ => {}
    }
    super::folder::read(path).map(|content| content.text.contains(PLUGIN))
}

/// Does the node's runtime take a sandbox away by what is configured at that time?
fn ends_by_configuration(settings: &Settings) -> bool {
    // What cannot be looked at may be there.
    let may_be = |path: &str| settings.seen(Path::new(path)).try_exists().unwrap_or(true);
    let is = |path: &&str| settings.seen(Path::new(path)).exists();
    !may_be(CRIO) && CONTAINERD.iter().any(is)
}

/// What became of the files of a folder.
#[derive(Debug, Default)]
pub(super) struct Took {
    pub(super) changed: Vec<String>,
    /// Empty: the folder itself.
    pub(super) failed: Vec<(String, io::Error)>,
}

impl Took {
    fn take(&mut self, name: String, is_changed: io::Result<bool>) {
        match is_changed {
            Ok(true) => self.changed.push(name),
            Ok(false) => {}
            Err(error) => self.failed.push((name, error)),
        }
    }
}

/// Takes our entry out of every file that has it, also of those that nobody reads
/// now: a program that put one aside may bring it back.
pub(super) fn leave(folder: &Folder) -> Took {
    let mut took = Took::default();
    match folder.tidy() {
        Ok(stuck) => took.failed.extend(stuck),
        Err(error) => took.failed.push((String::new(), error)),
    }
    let is_removed = folder.remove(own::FILE);
    took.take(own::FILE.to_owned(), is_removed);
    let names = match folder.names() {
        Ok(names) => names,
        // It fails alike, and is told once.
        Err(_) if !took.failed.is_empty() => Vec::new(),
        Err(error) => {
            took.failed.push((String::new(), error));
            Vec::new()
        }
    };
    for name in names {
        let mut is_changed = leave_file(folder, &name);
        for _ in 1..ATTEMPTS {
            match &is_changed {
                Err(error) if error.kind() == CHANGED => is_changed = leave_file(folder, &name),
                _ => break,
            }
        }
        took.take(name, is_changed);
    }
    took
}

/// False: it has no entry of ours. An error: it may have, for all that can be known.
pub(super) fn leave_file(folder: &Folder, name: &str) -> io::Result<bool> {
    if !folder.is_file(name)? {
        return Ok(false);
    }
    let content = match folder.read(name) {
        Ok(content) => content,
        // Gone meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let network = match Network::read(&as_list(name), &content.text) {
        Ok(network) => network,
        // A runtime may understand more of it.
        Err(why) if list::is_configuration(name) && content.text.contains(PLUGIN) => {
            let why = format!("it names {PLUGIN}, which cannot be taken out: {why}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        // What is no list of plugins has no entry of ours.
        Err(_) => return Ok(false),
    };
    if !network.has_ours() {
        return Ok(false);
    }
    if list::is_configuration(name)
        && let Some((single, before)) = folder.single_of(name)?
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
    for (at, entry) in entries.enumerate() {
        if at == MAX_CACHED {
            let why = format!("it has more than {MAX_CACHED} files");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
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
    let text = match fs::metadata(path) {
        Ok(meta) if !meta.is_file() => return false,
        Ok(meta) if meta.len() > MAX_CACHED_BYTES => return true,
        Ok(_) => fs::read(path),
        Err(error) => Err(error),
    };
    let text = match text {
        Ok(text) => text,
        // Gone meanwhile, with its sandbox.
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
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
        let left = uninstall(&host.settings, false);
        assert_eq!((left.kept.len(), left.removed.len()), (1, 0));
        assert!(host.root().join(BIN).join(PLUGIN).exists());
        fs::remove_file(host.conf("10-n.conflist")).expect("removed");
        let left = uninstall(&host.settings, false);
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
