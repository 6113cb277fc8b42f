//! Looks for namespaces of which only the cookies are known.
//!
//! Not found is not gone: whatever could not be looked at is said.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Netns, NetnsError};

/// What a search for namespaces came to.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) found: Vec<Netns>,
    /// Some could not be looked at: those that were not found may be there.
    pub(crate) unasked: Option<NetnsError>,
}

/// Where what gives names to the node's namespaces is seen from here. A container's own
/// /proc shows the container's processes alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) processes: PathBuf,
    pub(crate) files: Vec<PathBuf>,
}

impl Default for Names {
    fn default() -> Self {
        Self::seen("/proc".into(), "/run/netns".into())
    }
}

impl Names {
    #[must_use]
    pub(crate) fn seen(processes: PathBuf, files: PathBuf) -> Self {
        let files = vec![files, "/var/run/netns".into()];
        Self { processes, files }
    }
}

/// Opens those namespaces of `cookies` that a file or a process still gives a name to.
#[must_use]
pub(crate) fn find(at: &Names, cookies: &[u64]) -> Search {
    let names = named(at);
    let mut search = Search {
        found: Vec::new(),
        unasked: names.unasked,
    };
    let mut seen: HashSet<u64> = table(Path::new("/proc/thread-self")).into_iter().collect();
    for path in names.found {
        let netns = match Netns::at(&path) {
            Ok(netns) => netns,
            Err(NetnsError::NotANetns(_)) => continue,
            Err(NetnsError::Open { source, .. }) if is_gone(&path, &source) => continue,
            Err(error) => {
                search.unasked = Some(error);
                continue;
            }
        };
        if !names.denied.is_empty() {
            let table = netns.run(|| table(Path::new("/proc/thread-self")));
            seen.extend(table.flatten());
        }
        if cookies.contains(&netns.cookie()) {
            search.found.push(netns);
        }
    }
    for (path, source) in names.denied {
        // In one that was looked at there is nothing else to be found.
        let table = process_of(&path).and_then(|process| table(process).ok());
        if !table.is_some_and(|table| seen.contains(&table)) && !is_gone(&path, &source) {
            search.unasked = Some(NetnsError::Open { path, source });
        }
    }
    search
}

/// What tells a process's namespace from others, also where it may not be opened:
/// the inode of a table of that namespace.
fn table(process: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(process.join("net/dev"))?.ino())
}

/// Files of namespaces.
#[derive(Default)]
struct Named {
    /// One for each namespace.
    found: Vec<PathBuf>,
    /// Of processes whose namespace may not be looked at.
    denied: Vec<(PathBuf, io::Error)>,
    /// Why there may be more.
    unasked: Option<NetnsError>,
}

impl Named {
    /// What is not there does not undo what could not be asked.
    fn tell(&mut self, path: &Path, source: io::Error) {
        let path = path.to_owned();
        if is_gone(&path, &source) {
        } else if process_of(&path).is_some() && is_denied(&source) {
            self.denied.push((path, source));
        } else {
            self.unasked = Some(NetnsError::Open { path, source });
        }
    }
}

fn named(at: &Names) -> Named {
    let mut names = Named::default();
    let mut paths = Vec::new();
    let processes = &at.processes;
    for dir in at.files.iter().chain([processes]) {
        let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.unwrap_or_else(|error| {
            names.tell(dir, error);
            Vec::new()
        });
        let all = entries.iter().map(std::fs::DirEntry::path);
        match dir == processes {
            false => paths.extend(all),
            true => paths.extend(
                all.map(|p| p.join("ns/net"))
                    .filter(|p| process_of(p).is_some()),
            ),
        }
    }
    let mut inodes = HashSet::new();
    for path in paths {
        match std::fs::metadata(&path) {
            Ok(meta) if inodes.insert(meta.ino()) => names.found.push(path),
            Ok(_) => {}
            Err(error) => names.tell(&path, error),
        }
    }
    names
}

/// The directory of the process that a file of a namespace belongs to.
fn process_of(file: &Path) -> Option<&Path> {
    let dir = file.ancestors().nth(2)?;
    let number = dir.file_name()?.to_str()?.parse::<u32>();
    number.is_ok().then_some(dir)
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}

/// Does the error say that there is no such file? Any other one is no answer.
fn is_gone(file: &Path, error: &io::Error) -> bool {
    let absent = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
    // /proc denies a process that ends just now, too.
    let ended = || process_of(file)?.symlink_metadata().err();
    absent(error) || (is_denied(error) && ended().is_some_and(|e| absent(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_gone_in_a_search() {
        let dir = tempfile::tempdir().expect("a directory");
        let (names, processes) = (dir.path().join("netns"), dir.path().join("proc"));
        let links = processes.join("17/ns");
        std::fs::create_dir_all(&links).expect("a process");
        let at = Names {
            processes: processes.clone(),
            files: vec![names.clone()],
        };
        let ask = || named(&at);
        // A directory that nobody made, and a process without a namespace any more.
        let asked = ask();
        assert!(asked.found.is_empty() && asked.unasked.is_none());
        std::fs::write(links.join("net"), "").expect("a file");
        assert_eq!(ask().found, [links.join("net")]);
        // One that cannot be told, for whatever reason.
        std::fs::remove_file(links.join("net")).expect("removed");
        std::os::unix::fs::symlink("net", links.join("net")).expect("a loop");
        let asked = ask();
        assert!(asked.found.is_empty() && asked.unasked.is_some());
        // A file where a directory should be does not say that there are no names.
        std::fs::write(&names, "").expect("a file");
        std::fs::remove_file(links.join("net")).expect("removed");
        assert!(ask().unasked.is_some());
    }

    #[test]
    fn processes_of_one_namespace_are_told_to_be_without_opening_it() {
        let own = table(Path::new("/proc/thread-self")).expect("told");
        let process = PathBuf::from(format!("/proc/{}", std::process::id()));
        assert_eq!(table(&process).expect("told"), own);
    }

    #[test]
    fn a_process_that_may_not_be_looked_at_is_there_and_one_that_ended_is_not() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let gone = |file: &str| is_gone(Path::new(file), &denied);
        assert!(!gone(&format!("/proc/{}/ns/net", std::process::id())));
        assert!(gone("/proc/4194305/ns/net"), "no process has that number");
        assert!(!gone("/run/netns/a"));
        let short = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(!is_gone(Path::new("/proc/4194305/ns/net"), &short));
    }
}
