//! What takes `unsafe`: starting a program inside a namespace and a cgroup,
//! and epoll.

pub mod epoll;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// The program starts in the namespace and the cgroup, with no signal blocked,
/// and dies with its starter.
pub(crate) fn start_inside(command: &mut Command, netns: &Path, procs: &Path) {
    let netns = fs::File::open(netns);
    let procs = procs.to_owned();
    // SAFETY: only system calls and a write to an open path happen between fork and exec.
    unsafe {
        command.pre_exec(move || {
            fs::write(&procs, "0")?;
            let netns = netns.as_ref().map_err(|e| std::io::Error::from(e.kind()))?;
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            nix::sys::signal::SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
}
