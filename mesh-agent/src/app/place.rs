//! Where the agent is on its node, and where its programs go.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::capture;
use crate::config::{LinkGuard, Run};
use crate::enrol::{find, probers};
use crate::sys::netns::{self, Netns};
use crate::sys::{cgroup, kubepods};

/// What follows from the flags and the machine.
pub(super) struct Place {
    pub(super) capture: capture::Config,
    /// Where pods are looked for; `None` where annotations say where they are.
    pub(super) find: Option<find::Node>,
    pub(super) probers: probers::Where,
    /// A file on the node's disk that is there once a pod of the mesh was.
    mark: Option<PathBuf>,
}

impl Place {
    pub(super) fn new(flags: &Run) -> anyhow::Result<Self> {
        match flags.host.find_pods || flags.api.kubernetes {
            true => Self::among_pods(flags),
            false => Self::alone(flags),
        }
    }

    /// On a kubelet's node: the agent stays in its cgroup, whose limits are its pod's.
    fn among_pods(flags: &Run) -> anyhow::Result<Self> {
        let tree = tree(flags)?;
        let pods = kubepods::root(&tree).with_context(|| format!("search {}", tree.display()))?;
        let root = match (&flags.cgroup_root, &pods) {
            (Some(dir), _) => is_group(dir)?,
            // Programs of others at the root are not disturbed, nor do they disturb.
            (None, Some(pods)) => pods.clone(),
            (None, None) => whole(&tree)?,
        };
        let own = match &flags.agent_cgroup {
            Some(dir) => dir.clone(),
            None => own(&tree)?,
        };
        anyhow::ensure!(
            cgroup::id(&own)? != cgroup::id(&tree)?,
            "the agent is in {}, with everybody else: it needs a cgroup of its own, as a container or a unit has",
            tree.display()
        );
        let port = flags.host.kubelet_port;
        let probers = probers::Where {
            kubelet_port: (port != 0).then_some(port),
            ..probers(flags, tree.clone())
        };
        let captured = captured(&tree, &root);
        let find = find::Node {
            cgroups: pods.clone().unwrap_or(tree),
            captured,
            proc_dir: flags.host.host_proc_dir.clone(),
            netns_dir: flags.host.host_netns_dir.clone(),
        };
        let mark = flags.on_disk.has_pods();
        Ok(Self {
            capture: capture::Config {
                // Of a node that never had a pod of the mesh nothing was promised. Before
                // the kubelet has made the group of all pods it may be anywhere.
                hold: mark.exists().then(|| pods.unwrap_or_else(|| root.clone())),
                ..config(flags, root, own)?
            },
            mark: Some(mark),
            find: Some(find),
            probers,
        })
    }

    /// A pod of the mesh is on this node: after a reboot nothing passes before it is known
    /// which ones are.
    pub(super) fn note_pods(&mut self) {
        if let Some(mark) = self.mark.take() {
            tokio::task::spawn_blocking(move || note(&mark));
        }
    }

    fn alone(flags: &Run) -> anyhow::Result<Self> {
        let root = match &flags.cgroup_root {
            Some(dir) => is_group(dir)?,
            None => whole(&tree(flags)?)?,
        };
        let agent = match &flags.agent_cgroup {
            Some(dir) => dir.clone(),
            None => {
                let own = own(&tree(flags)?)?;
                // Exempting the root would exempt everything that is in it.
                match cgroup::id(&own)? == cgroup::id(&root)? {
                    true => root.join("mesh-agent"),
                    false => own,
                }
            }
        };
        cgroup::enter(&agent).with_context(|| format!("enter the cgroup {}", agent.display()))?;
        Ok(Self {
            probers: probers(flags, root.clone()),
            capture: config(flags, root, agent)?,
            find: None,
            mark: None,
        })
    }
}

fn note(mark: &Path) {
    if mark.exists() {
        return;
    }
    let dir = mark.parent().unwrap_or(mark);
    let made = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(mark, ""));
    if let Err(error) = made {
        tracing::warn!(%error, file = %mark.display(), "cannot note that pods of the mesh are here: after a reboot they may connect before they are enrolled");
    }
}

/// Where processes are captured with programs at `root`; told of each by its path.
fn captured(tree: &Path, root: &Path) -> Option<find::Captured> {
    let own = cgroup::own_cgroup(tree).ok()?;
    // Whichever mount shows it: in the same tree.
    let below = cgroup::find(tree, cgroup::id(root).ok()?).ok()??;
    Some(find::Captured {
        below,
        shown_root: cgroup::shown_root(&own)?,
    })
}

/// The node's cgroup2 tree.
fn tree(flags: &Run) -> anyhow::Result<PathBuf> {
    let Some(dir) = &flags.host.host_cgroup_dir else {
        return Ok(cgroup::cgroup2_mount()?);
    };
    match cgroup::is_cgroup2(dir) {
        true => Ok(dir.clone()),
        false => is_group(&dir.join("unified")),
    }
}

fn is_group(dir: &Path) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(
        cgroup::is_cgroup2(dir),
        "{} is not a directory of a cgroup2 mount; `mesh-agent doctor` shows where one is, give it as --cgroup-root",
        dir.display()
    );
    Ok(dir.to_owned())
}

/// Programs at a part of the tree would not see the pods that are not in it.
fn whole(tree: &Path) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(
        cgroup::is_whole_tree(tree),
        "{} shows a part of the node's cgroups, and no pods in it: mount the node's /sys/fs/cgroup into the agent's container and give it as --host-cgroup-dir, or say with --cgroup-root what is to be captured",
        tree.display()
    );
    Ok(tree.to_owned())
}

fn own(tree: &Path) -> anyhow::Result<PathBuf> {
    let own = cgroup::own_cgroup(tree).with_context(|| {
        format!(
            "find the agent's own cgroup in {}: does it show the node's whole tree?",
            tree.display()
        )
    })?;
    Ok(own)
}

fn probers(flags: &Run, tree: PathBuf) -> probers::Where {
    probers::Where {
        cgroups: flags.probe_cgroup.clone(),
        kubelet_port: None,
        tree,
        proc_dir: flags.host.host_proc_dir.clone(),
    }
}

fn config(
    flags: &Run,
    cgroup_root: PathBuf,
    agent_cgroup: PathBuf,
) -> anyhow::Result<capture::Config> {
    Ok(capture::Config {
        hold: None,
        cgroup_tree: tree(flags).unwrap_or_else(|_| cgroup_root.clone()),
        node_cookie: Netns::current()?.cookie(),
        names: netns::Names::seen(
            flags.host.host_proc_dir.clone(),
            flags.host.host_netns_dir.clone(),
        ),
        bpffs_dir: flags.place.bpffs_dir.clone(),
        cgroup_root,
        agent_cgroup,
        guard_cgroups: flags.guard_cgroup.clone(),
        link_guard: match flags.link_guard {
            LinkGuard::Auto => capture::LinkGuard::of_kernel(),
            LinkGuard::Tcx => capture::LinkGuard::Tcx,
            LinkGuard::Clsact => capture::LinkGuard::Clsact,
            LinkGuard::Off => capture::LinkGuard::Off,
        },
    })
}
