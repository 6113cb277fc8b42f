//! Takes all that agents left off a node: kernel state, files.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::capture;
use crate::sys::{netns, route};

/// What is removed as a whole, below the node's root.
const OWN: [&str; 2] = ["var/lib/mesh-agent", "run/mesh-agent"];
const PINS: &str = "sys/fs/bpf/mesh-agent";

/// Removes what agents left; gives the number of pods whose rules were removed.
pub fn cleanup(bpffs_dir: &Path) -> anyhow::Result<usize> {
    let cookies = capture::cleanup(bpffs_dir)?;
    let search = netns::find(&cookies);
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

/// `host`: where the node's root is seen from here. Gives the number of pods whose
/// rules were removed. Refused while an agent runs; may be repeated.
pub fn uninstall(host: &Path) -> anyhow::Result<usize> {
    let pods = cleanup(&host.join(PINS))?;
    for own in OWN {
        let dir = host.join(own);
        match std::fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {}", dir.display())),
        }
    }
    Ok(pods)
}

/// Waits for SIGTERM or SIGINT.
pub async fn ended() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
