//! What a cluster needs of the machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{is_executable, output, which};
use crate::setup;

/// From this one on Go fetches the version that a module asks for.
const OLDEST_GO: (u32, u32) = (1, 21);
/// Where Go's own archive is unpacked to, which is on few users' PATH.
const GO: &str = "/usr/local/go/bin/go";
/// Beside those that tests need anyway.
const PROGRAMS: &[&str] = &[
    "nsenter", "unshare", "cc", "strip", "ldd", "dpkg", "apt-get",
];

/// What keeps a cluster from starting here, in words for people.
pub(crate) fn missing() -> Option<String> {
    if !setup::is_root() {
        return Some("not root".to_owned());
    }
    // The recipe's kubelet is in v1 mode (tests/kube/README.md).
    if !Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        return Some("no cgroup2 at /sys/fs/cgroup/unified (hybrid mode)".to_owned());
    }
    if let Some(program) = PROGRAMS.iter().find(|program| which(program).is_none()) {
        return Some(format!("no program {program}"));
    }
    go().err().map(|error| format!("{error:#}"))
}

/// Installs Go where there is none, as far as the distribution has a new one.
pub(crate) fn ensure() {
    if go().is_err()
        && let Err(error) = setup::install_go()
    {
        eprintln!("setup: Go, for tests in a cluster: {error:#}");
    }
}

/// With Go first on the command's PATH.
pub(super) fn with_go(command: &mut Command) -> Result<()> {
    let go = go()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = go.parent().map(Path::to_path_buf);
    let dirs: Vec<PathBuf> = first
        .into_iter()
        .chain(std::env::split_paths(&path))
        .collect();
    let path: OsString = std::env::join_paths(dirs).context("put Go on the PATH")?;
    command.env("PATH", path);
    Ok(())
}

fn go() -> Result<PathBuf> {
    let usual = PathBuf::from(GO);
    let go = which("go").or_else(|| is_executable(&usual).then_some(usual));
    let go = go.context("no Go; install 1.21 or newer (https://go.dev/dl/)")?;
    let said = output(Command::new(&go).args(["env", "GOVERSION"]))?;
    match version(&said) {
        Some(version) if version >= OLDEST_GO => Ok(go),
        _ => bail!(
            "{} is {}; 1.21 or newer is needed",
            go.display(),
            said.trim()
        ),
    }
}

/// Of `go1.26.8`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.trim().strip_prefix("go")?.split(['.', '-', 'r', 'b']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_also_of_what_comes_before_a_release() {
        assert_eq!(version("go1.26.8\n"), Some((1, 26)));
        assert_eq!(version("go1.27rc1"), Some((1, 27)));
        assert_eq!(version("devel"), None);
        assert!(version("go1.19").expect("a version") < OLDEST_GO);
    }
}
