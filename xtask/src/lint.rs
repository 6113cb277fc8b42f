//! `lint`: everything that needs no running program.

use anyhow::Result;

use crate::command::{cargo, run as run_command, which};
use crate::repo::Repo;
use crate::summary::Steps;
use crate::tidy;

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("lint", args)?;
    let mut steps = Steps::default();
    steps.run("fmt", || fmt(repo));
    steps.run("tidy", || tidy::check(repo));
    steps.run("clippy", || clippy(repo));
    steps.run("doc", || doc(repo));
    if which("cargo-deny").is_some() {
        steps.run("deny", || deny(repo));
    } else {
        eprintln!("deny: not run, cargo-deny is not installed");
    }
    steps.finish("lint")
}

pub(crate) fn fmt(repo: &Repo) -> Result<()> {
    run_command(cargo(repo).args(["fmt", "--all", "--check"]))
}

fn clippy(repo: &Repo) -> Result<()> {
    run_command(
        cargo(repo)
            .args(["clippy", "--workspace", "--exclude", "mesh-ebpf"])
            .args(["--all-targets", "--", "-D", "warnings"]),
    )
}

fn doc(repo: &Repo) -> Result<()> {
    run_command(
        cargo(repo)
            .args(["doc", "--workspace", "--exclude", "mesh-ebpf", "--no-deps"])
            .arg("--document-private-items")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Not the advisories: their database is not reachable from everywhere.
fn deny(repo: &Repo) -> Result<()> {
    run_command(cargo(repo).args(["deny", "check", "bans", "licenses", "sources"]))
}
