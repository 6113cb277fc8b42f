//! Takes all that agents left off a node: kernel state, the CNI plugin, files.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::capture;
use crate::cni::{self, Left};
use crate::config::Folders;
use crate::sys::{netns, route};

/// What is removed as a whole, below the node's root.
const OWN: [&str; 2] = ["var/lib/mesh-agent", "run/mesh-agent"];
const PINS: &str = "sys/fs/bpf/mesh-agent";
const RUN_DIR: &str = "/run/mesh-agent";
/// Runtimes read a changed configuration at once, and tell nobody when they have.
const READ_BY_THEN: Duration = Duration::from_secs(2);
/// How often a program that had to stay is looked at.
const AGAIN: Duration = Duration::from_secs(10);

/// Removes what agents left; gives the number of pods whose rules were removed.
pub(crate) fn cleanup(bpffs_dir: &Path) -> anyhow::Result<usize> {
    cleanup_seen(bpffs_dir, &netns::Names::default())
}

fn cleanup_seen(bpffs_dir: &Path, names: &netns::Names) -> anyhow::Result<usize> {
    let cookies = capture::cleanup(bpffs_dir)?;
    let search = netns::find(names, &cookies);
    let mut removed = Ok(search.found.len());
    if let Some(error) = search.unasked {
        removed = Err(error.into());
    }
    for namespace in &search.found {
        // Of one alone: the others' go all the same.
        if let Err(error) = route::remove(namespace) {
            removed = Err(error.into());
        }
    }
    removed
}

/// What an uninstall came to.
pub(crate) struct Uninstalled {
    /// Whose rules were removed.
    pub(crate) pods: usize,
    pub(crate) plugin: Left,
}

/// `host`: where the node's root is seen from here. Refused while an agent runs; may be
/// repeated.
///
/// What cannot be removed from a pod does not keep the plugin in the node's chain:
/// there it would hold up every new pod.
pub(crate) fn uninstall(host: &Path, folders: &Folders) -> anyhow::Result<Uninstalled> {
    let mut names = netns::Names::seen(host.join("proc"), host.join("run/netns"));
    names.files.push("/run/netns".into());
    let pods = cleanup_seen(&host.join(PINS), &names);
    if let Err(error) = &pods
        && let Some(capture::Error::Owned { .. }) = error.downcast_ref()
    {
        return pods.map(|pods| Uninstalled {
            pods,
            plugin: Left::default(),
        });
    }
    let plugin = take_out(host, folders)?;
    for own in OWN {
        let dir = host.join(own);
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", dir.display())),
        }
    }
    let pods = pods?;
    Ok(Uninstalled { pods, plugin })
}

/// The program goes when no runtime can have the old configuration in mind any more.
fn take_out(host: &Path, folders: &Folders) -> anyhow::Result<Left> {
    let settings = folders.settings(host, Path::new(RUN_DIR));
    let mut left = cni::uninstall(&settings, false).context("take out the CNI plugin")?;
    if left.changed.is_empty() || left.kept.is_empty() {
        return Ok(left);
    }
    std::thread::sleep(READ_BY_THEN);
    let again = cni::uninstall(&settings, false).context("remove the CNI plugin")?;
    left.changed.extend(again.changed);
    Ok(Left {
        changed: left.changed,
        ..again
    })
}

/// Stays until SIGTERM or SIGINT. A program of the plugin that had to stay is removed
/// when nothing needs it any more; `told` of what is done.
pub(crate) async fn plugin_away(
    host: &Path,
    folders: &Folders,
    left: &Left,
    told: impl Fn(&Left),
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut is_kept = !left.kept.is_empty();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = tokio::time::sleep(AGAIN), if is_kept => {
                let (host, folders) = (host.to_owned(), folders.clone());
                let look = move || take_out(&host, &folders);
                let left = tokio::task::spawn_blocking(look).await??;
                is_kept = !left.kept.is_empty();
                if !is_kept || !left.changed.is_empty() {
                    told(&left);
                }
            }
        }
    }
}
