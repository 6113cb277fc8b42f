//! Who probes the node's pods: the cgroups that flags name, and the kubelet's.

use std::io;
use std::path::{Path, PathBuf};

use crate::capture::Capture;
use crate::sys::netns::Netns;
use crate::sys::{cgroup, kubepods, sock_diag};

/// Where probers are looked for.
#[derive(Clone, Debug)]
pub(crate) struct Where {
    /// Named by flags.
    pub(crate) cgroups: Vec<PathBuf>,
    /// The port that the kubelet listens on; `None` where no kubelet is looked for.
    pub(crate) kubelet_port: Option<u16>,
    /// The node's cgroup2 tree.
    pub(crate) tree: PathBuf,
    /// The node's first process is in the node's network namespace.
    pub(crate) proc_dir: PathBuf,
}

#[derive(Debug)]
pub(super) struct Probers {
    at: Where,
    /// The kubelet's cgroup, as it was found last.
    kubelet: Option<(u64, PathBuf)>,
    /// They were looked at once.
    looked: bool,
}

/// Why the kubelet's probes are not told from others' connections.
#[derive(Debug, thiserror::Error)]
enum NoKubelet {
    #[error("nobody listens on port {0} yet")]
    Nobody(u16),
    #[error("cannot ask the kernel who listens on port {port}: {source}")]
    Ask { port: u16, source: io::Error },
    #[error("who listens on port {0} is in no cgroup that the agent sees")]
    Unseen(u16),
    #[error("who listens on port {port} is in {dir}, which has pods in it")]
    WithPods { port: u16, dir: PathBuf },
}

impl Probers {
    pub(super) fn new(at: Where) -> Self {
        Self {
            at,
            kubelet: None,
            looked: false,
        }
    }

    /// Has the kernel know who probes now. Gives what was to be done, and what could not.
    pub(super) fn follow(&mut self, capture: &mut Capture) -> (usize, Vec<String>) {
        let (mut done, mut failed) = (0, Vec::new());
        for (i, dir) in self.at.cgroups.iter().enumerate() {
            match capture.follow_prober(&i.to_string(), dir) {
                Ok(news) => done += usize::from(news && self.looked),
                Err(error) => failed.push(error.to_string()),
            }
        }
        self.looked = true;
        let Some(port) = self.at.kubelet_port else {
            return (done, failed);
        };
        match self.kubelet(port).map(Path::to_owned) {
            Ok(dir) => match capture.follow_prober(KUBELET, &dir) {
                Ok(true) => tracing::info!(cgroup = %dir.display(), "found the kubelet"),
                Ok(false) => {}
                Err(error) => failed.push(error.to_string()),
            },
            Err(error) => failed.push(format!(
                "the kubelet is not found, its probes of closed pods fail: {error}"
            )),
        }
        (done, failed)
    }

    /// The kubelet's cgroup now. A kubelet that is started again may have another one.
    fn kubelet(&mut self, port: u16) -> Result<&Path, NoKubelet> {
        let asked = |source| NoKubelet::Ask { port, source };
        let mut listening = sock_diag::listening(port).map_err(asked)?;
        if listening.is_empty() {
            // An agent with a network of its own does not see the node's.
            let of_node = Netns::at(&self.at.proc_dir.join("1/ns/net"));
            let there = of_node.map(|node| node.run(|| sock_diag::listening(port)));
            listening = there
                .ok()
                .transpose()
                .map_err(asked)?
                .transpose()
                .map_err(asked)?
                .unwrap_or_default();
        }
        let ids: Vec<u64> = listening.iter().map(|one| one.cgroup).collect();
        if ids.is_empty() {
            return Err(NoKubelet::Nobody(port));
        }
        let known = self.kubelet.as_ref();
        let is_known = known.is_some_and(|(id, dir)| {
            ids.contains(id) && cgroup::id(dir).is_ok_and(|now| now == *id)
        });
        if !is_known {
            self.kubelet = None;
            let mut why = NoKubelet::Unseen(port);
            for id in ids {
                match self.outside_of_pods(port, id) {
                    Ok(dir) => {
                        self.kubelet = Some((id, dir));
                        break;
                    }
                    Err(error) => why = error,
                }
            }
            if self.kubelet.is_none() {
                return Err(why);
            }
        }
        let found = self.kubelet.as_ref().map(|(_, dir)| dir.as_path());
        found.ok_or(NoKubelet::Unseen(port))
    }

    /// A pod of the host network may listen on that port, too; and what is above pods
    /// would let all of them through.
    fn outside_of_pods(&self, port: u16, id: u64) -> Result<PathBuf, NoKubelet> {
        let asked = |source| NoKubelet::Ask { port, source };
        let found = cgroup::find(&self.at.tree, id).map_err(asked)?;
        let dir = found.ok_or(NoKubelet::Unseen(port))?;
        let inside = dir.ancestors().any(kubepods::is_root);
        let pods_below = kubepods::root(&dir).map_err(asked)?.is_some();
        match inside || pods_below {
            true => Err(NoKubelet::WithPods { port, dir }),
            false => Ok(dir),
        }
    }
}

const KUBELET: &str = "kubelet";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_on_the_kubelets_port_is_no_kubelet() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = held.local_addr().expect("its address").port();
        drop(held);
        let at = Where {
            cgroups: Vec::new(),
            kubelet_port: Some(port),
            tree: PathBuf::from("/nonexistent"),
            proc_dir: PathBuf::from("/nonexistent"),
        };
        let found = Probers::new(at).kubelet(port).map(Path::to_owned);
        assert!(matches!(found, Err(NoKubelet::Nobody(_))), "{found:?}");
    }
}
