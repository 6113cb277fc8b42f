//! Licences, sources, banned crates, and known vulnerabilities of what we
//! depend on, by cargo-deny.
//!
//! Vulnerabilities are looked up in a database that not every machine can
//! reach: where it is, they are a part of the check, else the run says that
//! they were not.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{cargo, run as run_command, which};
use crate::repo::Repo;
use crate::test::is_ci;

const VERSION: &str = "0.20.2";
const DATABASE: &str = "https://github.com/RustSec/advisory-db";
/// For the look whether the database can be reached.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn check(repo: &Repo) -> Result<()> {
    let reachable = is_database_reachable();
    let mut tool = find(repo);
    if tool.is_none() && reachable && is_ci() {
        install(repo)?;
        tool = find(repo);
    }
    let Some(tool) = tool else {
        eprintln!(
            "deny: not run, cargo-deny is not installed; licences, bans and sources were looked at without it"
        );
        return Ok(());
    };
    if !reachable {
        eprintln!("deny: advisories not checked, {DATABASE} is not reachable");
    }
    run_command(
        Command::new(tool)
            .current_dir(&repo.root)
            .stdin(Stdio::null())
            .arg("check")
            .args(parts(reachable)),
    )
}

fn parts(reachable: bool) -> &'static [&'static str] {
    if reachable {
        &["advisories", "bans", "licenses", "sources"]
    } else {
        &["bans", "licenses", "sources"]
    }
}

fn find(repo: &Repo) -> Option<PathBuf> {
    let ours = root(repo).join("bin/cargo-deny");
    which("cargo-deny").or_else(|| ours.is_file().then_some(ours))
}

fn root(repo: &Repo) -> PathBuf {
    repo.target.join("tools/cargo-deny")
}

fn install(repo: &Repo) -> Result<()> {
    eprintln!("deny: building cargo-deny {VERSION} (some minutes)");
    run_command(
        cargo(repo)
            .args(["install", "cargo-deny", "--quiet", "--locked"])
            .args(["--version", VERSION])
            .arg("--root")
            .arg(root(repo))
            .env("CARGO_TARGET_DIR", repo.target.join("tools/build")),
    )
    .context("build cargo-deny")?;
    // Nothing needs it again.
    let _ = std::fs::remove_dir_all(repo.target.join("tools/build"));
    Ok(())
}

fn is_database_reachable() -> bool {
    let limit = PATIENCE.as_secs().to_string();
    let asked = Command::new("timeout")
        .args([&limit, "git", "ls-remote", "--quiet", DATABASE, "HEAD"])
        // It must never ask for a password.
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vulnerabilities_are_looked_for_where_their_database_is() {
        assert!(parts(true).contains(&"advisories"));
        assert!(!parts(false).contains(&"advisories"));
        assert!(parts(false).contains(&"licenses"));
    }
}
