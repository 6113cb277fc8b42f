//! Takes the plugin out of the node's chain, and says what is left.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_cni::PLUGIN;
use serde::Deserialize;

use super::binary;
use super::folder::{self, CHANGED, Content, Folder};
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
pub(super) const MAX_CACHED: usize = 10_000;
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
    /// This configuration names it elsewhere than where an agent put it.
    Named(PathBuf),
    /// So many were made with it.
    Sandboxes(usize),
    /// So many notes of sandboxes are there that they are not counted.
    ManyNotes,
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
            Self::Named(file) => write!(f, "{} names it still", file.display()),
            Self::ManyNotes => write!(
                f,
                "{CACHE} has more than {MAX_CACHED} files, and a sandbox of them may need it to be taken away"
            ),
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        // The notes do not matter there, nor that they cannot be read.
        if ends_by_configuration(settings) {
            return;
        }
        let cache = Path::new(CACHE);
        match sandboxes(&settings.seen(cache)) {
            Ok(need) => self.needs.extend(need),
            Err(error) => {
                self.failures.push(failure(cache, &error));
                self.needs.push(Need::Unsure);
            }
        }
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
    let names = match folder.names() {
        Ok(names) => names,
        // Told above.
        Err(_) if !left.failures.is_empty() => return,
        Err(error) => return left.failures.push(failure(dir, &error)),
    };
    for name in names {
        // Told above.
        if took.failed.iter().any(|(failed, _)| *failed == name) {
            continue;
        }
        match still_needs(settings, dir, &folder, &name) {
            Ok(need) => left.needs.extend(need),
            Err(error) => left.failures.push(failure(&dir.join(&name), &error)),
        }
    }
}

/// What names the program where our entry is not: one that does, and the program gone, starts
/// no pod.
fn still_needs(
    settings: &Settings,
    dir: &Path,
    folder: &Folder,
    name: &str,
) -> io::Result<Option<Need>> {
    let place = dir.join(name);
    let is_configuration = list::is_configuration(name);
    // What a link leads to is another program's and not changed, and a runtime follows it.
    if folder.link(name).is_some() {
        let names_it = match link_names_program(settings, &place, is_configuration) {
            // No runtime reads it.
            Err(_) if !is_configuration => Ok(false),
            Err(error) => Err(io::Error::other(format!("what it leads to: {error}"))),
            names_it => names_it,
        };
        return Ok(names_it?.then_some(Need::Link(place)));
    }
    if !is_configuration || !folder.is_file(name)? {
        return Ok(None);
    }
    // Another program may have taken the network over with all its plugins (Multus' delegates).
    match folder.has(name, &format!("\"{PLUGIN}\"")) {
        // Gone meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        has => Ok(has?.then_some(Need::Named(place))),
    }
}

fn link_names_program(
    settings: &Settings,
    link: &Path,
    is_configuration: bool,
) -> io::Result<bool> {
    let path = settings.seen(link);
    match fs::metadata(&path) {
        Ok(meta) if !meta.is_file() => Ok(false),
        // Else what it leads to may not be mounted here.
        Err(error) if settings.is_whole && leads_nowhere(&error) => Ok(false),
        Err(error) => Err(error),
        Ok(_) if is_configuration => folder::has(&path, PLUGIN),
        // It may be put in a configuration's place; a program or an archive never is.
        Ok(_) => folder::read(&path).map(|content| content.text.contains(PLUGIN)),
    }
}

/// To nothing, through a file, or round and round: no runtime reads anything there.
fn leads_nowhere(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory) || error.raw_os_error() == Some(libc::ELOOP)
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
    let Some(content) = content(folder, name)? else {
        return Ok(false);
    };
    let network = match read_as_any(name, &content.text) {
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
        && let Some((single, before)) = folder.single_of(name)
        && network.is_made_of(&before.text)
    {
        folder.restore(&single, name)?;
        return Ok(true);
    }
    folder.replace(name, &content, &network.without())?;
    Ok(true)
}

/// Nothing where it has no entry of ours for certain, or where no runtime reads it.
fn content(folder: &Folder, name: &str) -> io::Result<Option<Content>> {
    use io::ErrorKind::{FileTooLarge, InvalidData, NotFound};
    let content = match folder.is_file(name) {
        Ok(false) => return Ok(None),
        Ok(true) => folder.read(name),
        Err(error) => Err(error),
    };
    match content {
        Ok(content) => Ok(Some(content)),
        Err(_) if !list::is_configuration(name) => Ok(None),
        Err(error) => match error.kind() {
            // Gone meanwhile.
            NotFound => Ok(None),
            // What cannot be changed need not be, where it does not name the plugin.
            InvalidData | FileTooLarge if matches!(folder.has(name, PLUGIN), Ok(false)) => Ok(None),
            _ => Err(error),
        },
    }
}

/// A file that was put aside is read as what it was, and a copy of a list as a list, whatever
/// its name says.
fn read_as_any<'a>(name: &str, text: &'a str) -> Result<Network<'a>, list::Unfit> {
    let as_list = format!("{name}.conflist");
    let as_named = match list::is_configuration(name) {
        true => name,
        false => &as_list,
    };
    Network::read(as_named, text).or_else(|why| Network::read(&as_list, text).map_err(|_| why))
}

/// What sandboxes that were made with our plugin need.
fn sandboxes(cache: &Path) -> io::Result<Option<Need>> {
    let entries = match fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut count = 0;
    for (at, entry) in entries.enumerate() {
        // Runtimes may leave them behind for ever.
        if at == MAX_CACHED {
            return Ok(Some(Need::ManyNotes));
        }
        count += usize::from(names_ours(&entry?.path()));
    }
    Ok((count > 0).then_some(Need::Sandboxes(count)))
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
        assert_eq!(sandboxes(dir.path()).expect("read"), None);
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
        let need = sandboxes(dir.path()).expect("read");
        assert_eq!(need, Some(Need::Sandboxes(1)));
        assert_eq!(sandboxes(&dir.path().join("none")).expect("read"), None);
    }
}
