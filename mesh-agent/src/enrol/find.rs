//! Finds pods on a kubelet's node, where nobody says where they are.
//!
//! A pod is known by its UID: the kubelet names the pod's cgroup by it. Its network
//! namespace is that of a process in this cgroup, or, where a runtime runs no process
//! between sandbox and first container, the file of a namespace with the pod's address.
//! Whatever is found is verified: an address of the pod is inside, it is not the
//! node's own, and it is nobody else's. One that no process of the pod is in is taken
//! only where no process of another pod is in it either, for a pod may give itself
//! another's address, and where no other pod waits for its first process, for the
//! address may be of before and another's by now.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::model::{PodIps, Workload};
use crate::sys::netns::{Netns, NetnsError};
use crate::sys::{cgroup, kubepods};

/// All processes of the node are looked at no more often than this.
const LOOK_AGAIN: Duration = Duration::from_millis(900);
/// And where all pods are as they are to be, as often as this.
const LOOK_SELDOM: Duration = Duration::from_secs(30);
/// Of the processes that a pod has in a namespace so many are remembered: containers are
/// restarted one by one, and the others say where the pod is until the next look.
const PATHS: usize = 4;

/// Where one namespace was seen, at most [`PATHS`].
type Paths = Vec<PathBuf>;

/// Where a node has what is searched.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The cgroup of all pods; where there is none, the tree that it may come to be in.
    pub(crate) cgroups: PathBuf,
    /// The node's processes.
    pub(crate) proc_dir: PathBuf,
    /// Files of network namespaces.
    pub(crate) netns_dir: PathBuf,
    /// Where connects are captured; `None` where it cannot be told of a process.
    pub(crate) captured: Option<Captured>,
}

/// The part of the node's cgroups that the programs are attached at.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// Its group: what is below it is captured.
    pub(crate) below: PathBuf,
    /// What `/` in `/proc/PID/cgroup` is, in the same tree.
    pub(crate) shown_root: PathBuf,
}

impl Captured {
    /// The group, where it is there and not captured. One that is gone has no process.
    fn misses(&self, shown: &str) -> Option<PathBuf> {
        let dir = cgroup::at(&self.shown_root, shown);
        (!dir.starts_with(&self.below) && dir.is_dir()).then_some(dir)
    }
}

/// A cgroup that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) dir: PathBuf,
    pub(super) id: u64,
}

/// Why a pod is not found, or not taken for what was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFound {
    #[error("no process and no network namespace of it is on this node yet")]
    Nowhere,
    #[error(
        "no network namespace that its processes are in has an address of it ({ips}): its network is not set up yet, or its status is of before"
    )]
    WithoutAddress { ips: String },
    #[error(
        "several network namespaces have an address of it ({ips}), and no process of it is in one of them"
    )]
    Ambiguous { ips: String },
    #[error("cannot look at the node's {what}: {source}")]
    Look {
        what: &'static str,
        source: io::Error,
    },
    #[error("{0}; until then its processes are not told from others")]
    Unseen(String),
    #[error(
        "a process of it is in the cgroup {group}, and connects are captured below {captured}: what it connects to is not seen. Where the kubelet's cgroup driver is systemd, the container runtime's has to be (containerd: SystemdCgroup = true; CRI-O: cgroup_manager = \"systemd\"); then restart the runtime, and the pod"
    )]
    Elsewhere { group: String, captured: String },
}

/// The processes of pods, as they were at one moment.
#[derive(Debug, Default)]
struct Census {
    /// By pod: the namespaces that its processes are in, each with some of them.
    places: BTreeMap<String, BTreeMap<u64, Paths>>,
    /// By namespace: the pods that have a process in it.
    pods: BTreeMap<u64, BTreeSet<String>>,
    /// The pods that have a process in the node's own namespace.
    on_host: BTreeSet<String>,
    /// By pod: a group with a process of it whose connects are not captured.
    elsewhere: BTreeMap<String, PathBuf>,
}

impl Census {
    fn has_process(&self, uid: &str) -> bool {
        self.places.contains_key(uid) || self.on_host.contains(uid)
    }
}

#[derive(Debug)]
pub(super) struct Finder {
    node: Node,
    /// The node's own namespace, and the agent's, where that is another one.
    own: BTreeSet<u64>,
    census: Option<(Instant, Census)>,
    /// How long until all processes are looked at again for pods that have none.
    patience: Duration,
    /// By cookie: where each namespace that was found was seen.
    seen: BTreeMap<u64, Paths>,
}

impl Finder {
    pub(super) fn new(node: Node) -> Self {
        let mut own = BTreeSet::new();
        own.extend(inode(Path::new("/proc/self/ns/net")));
        own.extend(inode(&node.proc_dir.join("1/ns/net")));
        Self {
            node,
            own,
            census: None,
            patience: LOOK_AGAIN,
            seen: BTreeMap::new(),
        }
    }

    /// Is it still to be seen where it was found?
    pub(super) fn is_still(&self, netns: &Netns) -> bool {
        let is_at = |path: &PathBuf| inode(path) == Some(netns.inode());
        let seen = self.seen.get(&netns.cookie());
        seen.is_some_and(|paths| paths.iter().any(is_at))
    }

    /// Forgets where namespaces were seen that nobody asks for any more.
    pub(super) fn retain(&mut self, is_known: impl Fn(u64) -> bool) {
        self.seen.retain(|cookie, _| is_known(*cookie));
    }

    /// The cgroups of all pods, by UID.
    pub(super) fn cgroups(&self) -> Result<BTreeMap<String, Vec<PathBuf>>, NotFound> {
        let looked = |source| NotFound::Look {
            what: "cgroups",
            source,
        };
        let Some(root) = self.root().map_err(looked)? else {
            return Ok(BTreeMap::new());
        };
        match kubepods::pods(&root) {
            // The kubelet makes it with the first pod.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            pods => pods.map_err(looked),
        }
    }

    /// The groups that those of pods are made in, as far as they can be seen.
    pub(super) fn above_pods(&self) -> Vec<PathBuf> {
        let root = self.root().ok().flatten();
        root.and_then(|root| kubepods::above_pods(&root).ok())
            .unwrap_or_default()
    }

    fn root(&self) -> io::Result<Option<PathBuf>> {
        let root = &self.node.cgroups;
        match kubepods::is_root(root) {
            true => Ok(Some(root.clone())),
            false => kubepods::root(root),
        }
    }

    /// May all processes be looked at again?
    pub(super) fn is_due(&self) -> bool {
        self.is_older(LOOK_AGAIN)
    }

    fn is_older(&self, age: Duration) -> bool {
        let at = self.census.as_ref().map(|(at, _)| *at);
        at.is_none_or(|at| at.elapsed() >= age)
    }

    /// Are all processes of the pod where the programs see what they connect to, as far as
    /// they have been looked at? `is_told`: the runtime has said where it is, and its processes
    /// are not looked for; whoever looks next sees them.
    pub(super) fn check_captured(&mut self, uid: &str, is_told: bool) -> Result<(), NotFound> {
        let Some(captured) = self.node.captured.clone() else {
            return Ok(());
        };
        let is_enough = |census: &Census| is_told || census.has_process(uid);
        let census = match &self.census {
            Some((_, census)) if is_enough(census) => census,
            None if is_told => return Ok(()),
            Some(_) | None => self.census()?,
        };
        match census.elsewhere.get(uid) {
            None => Ok(()),
            Some(group) => Err(NotFound::Elsewhere {
                group: group.display().to_string(),
                captured: captured.below.display().to_string(),
            }),
        }
    }

    /// Those of the pods that have a process whose connects are not captured. All processes
    /// are looked at again while one of the pods had none, ever later, and else seldom.
    pub(super) fn elsewhere<'u>(
        &mut self,
        uids: impl Iterator<Item = &'u str> + Clone,
    ) -> Result<BTreeSet<&'u str>, NotFound> {
        if self.node.captured.is_none() {
            return Ok(BTreeSet::new());
        }
        let census = self.census.as_ref().map(|(_, census)| census);
        let knows = |uid: &str| census.is_some_and(|census| census.has_process(uid));
        if uids.clone().all(knows) {
            self.patience = LOOK_AGAIN;
        }
        let pause = match uids.clone().all(knows) {
            true => LOOK_SELDOM,
            false => self.patience,
        };
        if self.is_older(pause) {
            self.patience = (self.patience * 2).min(LOOK_SELDOM);
            self.census()?;
        }
        let census = self.census.as_ref().map(|(_, census)| census);
        let is_elsewhere =
            |uid: &&str| census.is_some_and(|census| census.elsewhere.contains_key(*uid));
        Ok(uids.filter(is_elsewhere).collect())
    }

    /// The pod's namespace. `is_anothers`: by cookie, of those that pods are known to be in.
    pub(super) fn find(
        &mut self,
        workload: &Workload,
        is_anothers: impl Fn(u64) -> bool,
    ) -> Result<Netns, NotFound> {
        let census = self.census()?;
        let none = BTreeMap::new();
        let places = census
            .places
            .get(workload.runtime_uid().as_str())
            .unwrap_or(&none);
        let (mut found, mut have_ended) = (Vec::new(), false);
        for (inode, paths) in places {
            match verified((paths, *inode), workload.ips, &is_anothers)? {
                Verified::Its(netns) => found.push((netns, paths.clone())),
                Verified::Anothers => {}
                Verified::Gone => have_ended = true,
            }
        }
        if found.is_empty() && !places.is_empty() {
            // Those that came since may have it: the next look tells.
            return Err(match have_ended {
                true => NotFound::Nowhere,
                false => NotFound::WithoutAddress {
                    ips: listed(workload.ips),
                },
            });
        }
        if found.is_empty() && self.is_alone(workload)? {
            found = self.by_file(workload, &is_anothers)?;
        }
        let (one, paths) = found.pop().ok_or(NotFound::Nowhere)?;
        match found.is_empty() {
            true => {
                self.seen.insert(one.cookie(), paths);
                Ok(one)
            }
            false => Err(NotFound::Ambiguous {
                ips: listed(workload.ips),
            }),
        }
    }

    /// Of the node's pods, is it the only one that has no process? Then a namespace
    /// without a process is no other pod's.
    fn is_alone(&self, workload: &Workload) -> Result<bool, NotFound> {
        let Some((_, census)) = &self.census else {
            return Ok(false);
        };
        let own = workload.runtime_uid().as_str();
        let mut uids = self.cgroups()?.into_keys();
        Ok(uids.all(|uid| uid == own || census.has_process(&uid)))
    }

    /// The pods that have a process in the namespace with this inode.
    pub(super) fn pods_in(&mut self, inode: u64) -> Result<BTreeSet<String>, NotFound> {
        Ok(self.census()?.pods.get(&inode).cloned().unwrap_or_default())
    }

    /// The pods all of whose processes are in the node's own namespace.
    pub(super) fn on_host(&mut self) -> Result<BTreeSet<String>, NotFound> {
        let census = self.census()?;
        let alone = census
            .on_host
            .iter()
            .filter(|uid| !census.places.contains_key(*uid));
        Ok(alone.cloned().collect())
    }

    /// Has the kubelet made the cgroup of all pods? What cannot be looked at is not there.
    pub(super) fn has_pods_group(&self) -> bool {
        let root = &self.node.cgroups;
        let is_there = || matches!(kubepods::root(root), Ok(Some(_)));
        (kubepods::is_root(root) && root.is_dir()) || is_there()
    }

    /// Is a pod that was said to be in this namespace elsewhere by now? Only where its
    /// processes say so: they are in others, and nothing of it is in this one.
    /// `since`: a look of before says nothing.
    pub(super) fn has_left(&mut self, uid: &str, netns: &Netns, since: Instant) -> bool {
        if self.is_still(netns) || self.census().is_err() {
            return false;
        }
        let census = self.census.as_ref().filter(|(at, _)| *at > since);
        let Some(places) = census.and_then(|(_, census)| census.places.get(uid)) else {
            return false;
        };
        let Some(paths) = places.get(&netns.inode()).cloned() else {
            return true;
        };
        self.seen.insert(netns.cookie(), paths);
        false
    }

    /// Among the files of namespaces that no process of a pod is in.
    fn by_file(
        &self,
        workload: &Workload,
        is_anothers: &impl Fn(u64) -> bool,
    ) -> Result<Vec<(Netns, Paths)>, NotFound> {
        let looked = |source| NotFound::Look {
            what: "network namespaces",
            source,
        };
        let entries = match std::fs::read_dir(&self.node.netns_dir) {
            // It comes with the first pod.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(looked)?,
        };
        let lived_in = |at: u64| {
            let census = self.census.as_ref();
            census.is_some_and(|(_, census)| census.pods.contains_key(&at))
        };
        let (mut found, mut seen) = (Vec::new(), self.own.clone());
        for entry in entries {
            let path = entry.map_err(looked)?.path();
            let Some(inode) = inode(&path) else { continue };
            if !seen.insert(inode) || lived_in(inode) {
                continue;
            }
            let paths = vec![path];
            if let Verified::Its(netns) = verified((&paths, inode), workload.ips, is_anothers)? {
                found.push((netns, paths));
            }
        }
        Ok(found)
    }

    fn census(&mut self) -> Result<&Census, NotFound> {
        if self.is_due() {
            let census = self.count().map_err(|source| NotFound::Look {
                what: "processes",
                source,
            })?;
            self.census = Some((Instant::now(), census));
        }
        self.census
            .as_ref()
            .map(|(_, census)| census)
            .ok_or(NotFound::Nowhere)
    }

    fn count(&self) -> io::Result<Census> {
        let mut census = Census::default();
        for entry in std::fs::read_dir(&self.node.proc_dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name
                .to_str()
                .is_none_or(|name| name.parse::<u32>().is_err())
            {
                continue;
            }
            // A process that ends meanwhile is nobody's.
            let path = entry.path().join("ns/net");
            let Ok(groups) = std::fs::read_to_string(entry.path().join("cgroup")) else {
                continue;
            };
            let Some(group) = cgroup::named(&groups) else {
                continue;
            };
            for uid in kubepods::uids(group) {
                let Some(inode) = inode(&path) else { continue };
                if self.own.contains(&inode) {
                    census.on_host.insert(uid);
                    continue;
                }
                let captured = self.node.captured.as_ref();
                if let Some(dir) = captured.and_then(|captured| captured.misses(group)) {
                    census.elsewhere.insert(uid.clone(), dir);
                }
                census.pods.entry(inode).or_default().insert(uid.clone());
                let of_pod = census.places.entry(uid).or_default();
                let paths = of_pod.entry(inode).or_default();
                if paths.len() < PATHS {
                    paths.push(path.clone());
                }
            }
        }
        Ok(census)
    }
}

/// Whose a namespace is.
enum Verified {
    Its(Netns),
    Anothers,
    /// It is at none of the paths any more.
    Gone,
}

/// The namespace with this inode that was at the paths. What cannot be looked at is told
/// only where no other path tells.
fn verified(
    (paths, inode): (&[PathBuf], u64),
    ips: PodIps,
    is_anothers: &impl Fn(u64) -> bool,
) -> Result<Verified, NotFound> {
    let looked = |source| NotFound::Look {
        what: "network namespaces",
        source,
    };
    let mut failed = None;
    for path in paths {
        match Netns::at(path) {
            // Its process is elsewhere by now, or the number is another's.
            Ok(netns) if netns.inode() != inode => {}
            Ok(netns) if is_anothers(netns.cookie()) => return Ok(Verified::Anothers),
            Ok(netns) => match netns.has_any(ips) {
                Ok(true) => return Ok(Verified::Its(netns)),
                Ok(false) => return Ok(Verified::Anothers),
                Err(error) => failed = Some(error),
            },
            // Its process has ended.
            Err(NetnsError::Open { source, .. })
                if source.kind() == io::ErrorKind::NotFound || !path.exists() => {}
            // It names no namespace (any more).
            Err(NetnsError::NotANetns(_)) => {}
            Err(NetnsError::Open { source, .. } | NetnsError::Enter(source)) => {
                failed = Some(source);
            }
            Err(other) => failed = Some(io::Error::other(other.to_string())),
        }
    }
    failed.map_or(Ok(Verified::Gone), |error| Err(looked(error)))
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| meta.ino())
}

fn listed(ips: PodIps) -> String {
    let ips: Vec<String> = ips.iter().map(|ip| ip.to_string()).collect();
    ips.join(", ")
}

#[cfg(test)]
mod tests;
