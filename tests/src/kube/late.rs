//! Agents that come later than the rest of their node.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::Cluster;

/// Much less than an agent needs from its first instruction to its first program.
const LOOK: Duration = Duration::from_millis(20);

/// The agents of a node stand still from their start on, until this is dropped.
pub struct LateAgents {
    comes: Arc<AtomicBool>,
    holder: Option<JoinHandle<()>>,
}

impl LateAgents {
    pub(super) fn of(cluster: &Cluster, node: usize) -> Self {
        // How its cgroups are called.
        let group = format!("/{}-node{node}/", cluster.name());
        let comes = Arc::new(AtomicBool::new(false));
        let told = comes.clone();
        let holder = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                each(&group, Signal::SIGSTOP);
                std::thread::sleep(LOOK);
            }
            each(&group, Signal::SIGCONT);
        });
        Self {
            comes,
            holder: Some(holder),
        }
    }
}

impl Drop for LateAgents {
    fn drop(&mut self) {
        self.comes.store(true, Ordering::Relaxed);
        if let Some(holder) = self.holder.take() {
            // A test that panics has said why already.
            let _ended = holder.join();
        }
    }
}

/// Each `mesh-agent run` of these cgroups.
fn each(group: &str, signal: Signal) {
    let Ok(all) = fs::read_dir("/proc") else {
        return;
    };
    let ids = all.flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for id in ids.filter(|id| is_agent(*id, group)) {
        // It may have ended.
        let _gone = kill(Pid::from_raw(id), signal);
    }
}

fn is_agent(id: i32, group: &str) -> bool {
    let read = |what: &str| fs::read_to_string(format!("/proc/{id}/{what}")).unwrap_or_default();
    read("comm").trim() == "mesh-agent"
        && read("cmdline").split('\0').nth(1) == Some("run")
        && read("cgroup").contains(group)
}
