//! Our entry in the network that the node's runtime uses.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_cni::PLUGIN;

use super::folder::{self, CHANGED, Content, Folder};
use super::list::{self, Network};
use super::settings::Settings;
use super::{binary, own, places, uninstall};

/// A file that somebody writes to all the time is left for the next look.
const ATTEMPTS: usize = 5;

/// How the plugin stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not looked at yet.
    Unknown,
    /// In the chain of this file.
    In(PathBuf),
    /// The node has no network (yet).
    NoNetwork(Vec<PathBuf>),
    /// It was taken out, and another attempt comes later.
    Waits(PathBuf),
    Failed {
        /// The file, or the folder.
        place: PathBuf,
        why: String,
    },
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not looked at yet"),
            Self::In(file) => write!(f, "in {}", file.display()),
            Self::NoNetwork(folders) => {
                f.write_str("the node has no network")?;
                for (at, folder) in folders.iter().enumerate() {
                    let word = if at == 0 { " in" } else { " or" };
                    write!(f, "{word} {}", folder.display())?;
                }
                Ok(())
            }
            Self::Waits(file) => write!(f, "not in {}", file.display()),
            Self::Failed { place, why } => write!(f, "{}: {why}", place.display()),
        }
    }
}

/// What may be done to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    Look,
    /// Add what is missing.
    Add,
    /// Also write anew what is another version's: once, at a start. Two agents that
    /// write what each holds for right would never end.
    Update,
}

/// One look; true with it: the chain was changed.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) standing: Standing,
    pub(super) is_changed: bool,
    /// Files that come before the network and cannot be used: containerd stops there.
    pub(super) broken: Vec<String>,
    pub(super) folders: Vec<PathBuf>,
}

pub(super) fn look(settings: &Settings, may: May) -> Looked {
    let mut looked = Looked {
        standing: Standing::NoNetwork(Vec::new()),
        is_changed: false,
        broken: Vec::new(),
        folders: Vec::new(),
    };
    if let Err(error) = settings.sees_host() {
        looked.standing = Standing::Failed {
            place: settings.host.clone(),
            why: error.to_string(),
        };
        return looked;
    }
    let dirs = places::conf_dirs(settings);
    for dir in &dirs {
        looked.folders.push(settings.seen(dir));
        match in_folder(settings, dir, may, &mut looked) {
            Ok(Some(standing)) => {
                looked.standing = standing;
                return looked;
            }
            Ok(None) => {}
            Err(error) => {
                looked.standing = Standing::Failed {
                    place: dir.clone(),
                    why: error.to_string(),
                };
                return looked;
            }
        }
    }
    looked.standing = Standing::NoNetwork(dirs);
    looked
}

/// `None`: no network is there.
fn in_folder(
    settings: &Settings,
    dir: &Path,
    may: May,
    looked: &mut Looked,
) -> io::Result<Option<Standing>> {
    let folder = Folder::open(&settings.seen(dir))?;
    let mut stuck = Vec::new();
    if may != May::Look {
        let all = folder.tidy()?.into_iter();
        stuck.extend(all.map(|(name, error)| format!("{name}: {error}")));
    }
    for _ in 0..ATTEMPTS {
        looked.broken.clone_from(&stuck);
        match first(settings, &folder, (dir, may), looked) {
            // Written to meanwhile, or gone.
            Err(error) if matches!(error.kind(), CHANGED | io::ErrorKind::NotFound) => {}
            found => return found,
        }
    }
    Err(io::Error::other("another program changes it all the time"))
}

fn first(
    settings: &Settings,
    folder: &Folder,
    (dir, may): (&Path, May),
    looked: &mut Looked,
) -> io::Result<Option<Standing>> {
    let names = folder.names()?.into_iter();
    let is_networks = |name: &String| list::is_configuration(name) && name != own::FILE;
    for name in names.filter(is_networks) {
        let place = dir.join(&name);
        let link = folder.link(&name);
        let content = match (
            content(settings, folder, (&name, &place), link.as_deref()),
            &link,
        ) {
            (Ok(content), _) => content,
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            // Where it leads may not be mounted here.
            (Err(error), Some(to)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(linked(place, to)));
            }
            // No runtime takes a folder for a configuration.
            (Err(error), Some(_)) if leads_to_no_file(&settings.seen(&place)) => {
                looked.broken.push(format!("{name}: {error}"));
                continue;
            }
            (Err(error), None) if !folder.is_file(&name)? => {
                looked.broken.push(format!("{name}: {error}"));
                continue;
            }
            // The runtime may read what we cannot: the next one is not the network then.
            (Err(error), _) => {
                let why = error.to_string();
                return Ok(Some(Standing::Failed { place, why }));
            }
        };
        let network = match Network::read(&name, &content.text) {
            Ok(network) => network,
            Err(list::Unfit::Loopback) => continue,
            Err(why) => {
                looked.broken.push(format!("{name}: {why}"));
                continue;
            }
        };
        let has_own = settings.own_file && own::comes_before(&name);
        if let Some(to) = link.as_ref().filter(|_| !has_own) {
            return Ok(Some(linked(place, to)));
        }
        let found = Found {
            name: &name,
            content: &content,
            network: &network,
            has_own,
            place,
        };
        return found.stands(settings, folder, (dir, may), looked).map(Some);
    }
    // Ours outlasts the network's file, which may be away for a moment only.
    if may != May::Look && !settings.own_file {
        looked.is_changed = leave_own(folder, looked)?;
    }
    Ok(None)
}

/// Removes the file of our own. False: there is none.
fn leave_own(folder: &Folder, looked: &mut Looked) -> io::Result<bool> {
    match folder.remove(own::FILE) {
        // No runtime takes a folder for a configuration.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            looked.broken.push(error.to_string());
            Ok(false)
        }
        removed => removed,
    }
}

/// A file as the runtime reads it: by a link, too.
fn content(
    settings: &Settings,
    folder: &Folder,
    (name, place): (&str, &Path),
    link: Option<&Path>,
) -> io::Result<Content> {
    match link {
        None => folder.read(name),
        Some(_) => folder::read(&settings.seen(place)),
    }
}

/// A folder or the like, for certain.
fn leads_to_no_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| !meta.is_file())
}

/// The network is what a link leads to, which is another program's: that is not changed,
/// and no runtime reads the files behind it.
fn linked(place: PathBuf, to: &Path) -> Standing {
    let why = format!(
        "it is a link to {}, and what a link leads to is not changed: have a file in its place",
        to.display()
    );
    Standing::Failed { place, why }
}

/// Where the programs of a network are that our plugin can be in.
fn programs(
    settings: &Settings,
    dir: &Path,
    network: &Network<'_>,
) -> Result<Vec<PathBuf>, String> {
    network.may_chain().map_err(|why| why.to_string())?;
    places::programs_of(settings, dir, network.others())
}

/// The network that the node's runtime uses.
struct Found<'f> {
    name: &'f str,
    content: &'f Content,
    network: &'f Network<'f>,
    /// Our entry is to be in a file of our own, which is taken before this one.
    has_own: bool,
    place: PathBuf,
}

impl Found<'_> {
    fn failed(&self, why: String) -> Standing {
        let place = self.place.clone();
        Standing::Failed { place, why }
    }

    /// How the plugin stands in it, and is put into it where that may be.
    fn stands(
        self,
        settings: &Settings,
        folder: &Folder,
        (dir, may): (&Path, May),
        looked: &mut Looked,
    ) -> io::Result<Standing> {
        let bins = match programs(settings, dir, self.network) {
            Err(why) => return Ok(self.failed(why)),
            Ok(bins) => bins,
        };
        let seen = bins.iter().map(|bin| settings.seen(bin));
        looked.folders.extend(seen);
        if may == May::Look {
            return self.look(settings, folder, &bins);
        }
        let has_own = self.has_own;
        let (standing, is_changed) = self.put(settings, folder, (&bins, may))?;
        looked.is_changed = is_changed;
        if !has_own && matches!(standing, Standing::In(_)) {
            // Of an agent that had it so.
            looked.is_changed |= leave_own(folder, looked)?;
        }
        Ok(standing)
    }

    fn look(self, settings: &Settings, folder: &Folder, bins: &[PathBuf]) -> io::Result<Standing> {
        let lacks = |bin: &&PathBuf| !binary::is_executable(&settings.seen(bin).join(PLUGIN));
        let has_ours = match self.has_own {
            true => own::is_alike(&self.found_own(folder), &self.own_text(settings)?),
            false => self.network.has_ours(),
        };
        Ok(match (has_ours, bins.iter().find(lacks)) {
            (true, None) => Standing::In(self.entrys_place()),
            (true, Some(bin)) => self.failed(format!("its program is not in {}", bin.display())),
            (false, _) => Standing::Waits(self.entrys_place()),
        })
    }

    /// The file that has our entry, or is to have it.
    fn entrys_place(&self) -> PathBuf {
        match self.has_own {
            true => self.place.with_file_name(own::FILE),
            false => self.place.clone(),
        }
    }

    fn own_text(&self, settings: &Settings) -> io::Result<String> {
        own::text((self.name, self.network), &settings.entry).map_err(io::Error::other)
    }

    /// Nothing where there is none, or what it is cannot be read.
    fn found_own(&self, folder: &Folder) -> String {
        let found = folder.read(own::FILE);
        found.map(|content| content.text).unwrap_or_default()
    }

    /// True with it: the file was changed.
    fn put(
        self,
        settings: &Settings,
        folder: &Folder,
        (bins, may): (&[PathBuf], May),
    ) -> io::Result<(Standing, bool)> {
        // The program first: a configuration that names what is not there stops the
        // node's network.
        for bin in bins {
            let seen = settings.seen(bin);
            let is_there = may != May::Update && binary::is_executable(&seen.join(PLUGIN));
            if !is_there && let Err(error) = binary::install(&settings.program, &seen) {
                let (from, to) = (settings.program.display(), bin.display());
                let why =
                    format!("the plugin's program cannot be copied from {from} to {to}: {error}");
                return Ok((self.failed(why), false));
            }
        }
        match self.has_own {
            true => self.put_own(settings, folder, may),
            false => self.put_entry(settings, folder, may),
        }
    }

    fn put_own(
        self,
        settings: &Settings,
        folder: &Folder,
        may: May,
    ) -> io::Result<(Standing, bool)> {
        let wanted = self.own_text(settings)?;
        let found = self.found_own(folder);
        let is_right = match may {
            May::Update => found == wanted,
            May::Add | May::Look => own::is_alike(&found, &wanted),
        };
        if !is_right {
            folder.put(own::FILE, &wanted, self.content)?;
        }
        // Behind it: of an agent that had it in the network's own file.
        let is_left = self.network.has_ours() && uninstall::leave_file(folder, self.name)?;
        Ok((Standing::In(self.entrys_place()), !is_right || is_left))
    }

    fn put_entry(
        self,
        settings: &Settings,
        folder: &Folder,
        may: May,
    ) -> io::Result<(Standing, bool)> {
        let is_right = match may {
            May::Update => self.network.has(&settings.entry),
            May::Add | May::Look => self.network.has_ours(),
        };
        if is_right {
            return Ok((Standing::In(self.place), false));
        }
        let plain = self.network.without();
        let plain = Network::read(self.name, &plain).map_err(io::Error::other)?;
        let text = plain.with(&settings.entry);
        let place = match list::list_name(self.name) {
            None => {
                folder.replace(self.name, self.content, &text)?;
                self.place
            }
            Some(list) => {
                folder.supersede((self.name, self.content), &list, &text)?;
                self.place.with_file_name(list)
            }
        };
        Ok((Standing::In(place), true))
    }
}

/// One attempt, in a folder that is open already.
#[cfg(test)]
pub(super) fn put_in(settings: &Settings, folder: &Folder) -> io::Result<()> {
    let mut looked = Looked {
        standing: Standing::Unknown,
        is_changed: false,
        broken: Vec::new(),
        folders: Vec::new(),
    };
    let dir = Path::new("/etc/cni/net.d");
    first(settings, folder, (dir, May::Update), &mut looked).map(drop)
}
