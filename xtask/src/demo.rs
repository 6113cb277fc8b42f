//! `demo`: builds for release, then hands over to the demo program.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, clean_cargo_environment, describe, run as run_command};
use crate::repo::Repo;
use crate::test::{AGENT_BIN, APP_BIN};
use crate::{build_ebpf, kube, setup};

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    match args {
        [flag] if flag == "--kube" => in_cluster(repo),
        _ => run_release_binary(repo, "demo", args),
    }
}

/// A cluster with the mesh and a small shop, and a shell in front of it.
fn in_cluster(repo: &Repo) -> Result<()> {
    if let Some(why) = kube::missing() {
        bail!("no cluster can be started here: {why}");
    }
    build_release(repo, "mesh-app")?;
    kube::build(repo)?;
    let images = kube::images(repo, "release")?;
    let mut command = kube::with_cluster(repo, &images)?;
    command.arg(kube::recipe(repo).join("demo.sh"));
    command.args(["mesh-agent.tar", "mesh-app.tar"].map(|image| images.join(image)));
    run_command(&mut command)
}

/// Builds the agent and the programs of `mesh-tests`, and becomes `name`.
///
/// Becomes, not starts: Ctrl-C then reaches only the program that cleans up,
/// and the prompt returns when it is done.
pub(crate) fn run_release_binary(repo: &Repo, name: &str, args: &[String]) -> Result<()> {
    build_release(repo, name)?;
    let mut command = release_command(repo, name);
    command.args(args);
    eprintln!("+ {}", describe(&command));
    let error = command.exec();
    Err(error).with_context(|| format!("start `{}`", describe(&command)))
}

/// Names its programs, so that a missing one fails before minutes of building.
pub(crate) fn build_release(repo: &Repo, name: &str) -> Result<()> {
    setup::ensure_all(repo)?;
    build_ebpf::build(repo, false)?;
    let packages = ["--package", "mesh-agent", "--package", "mesh-tests"];
    let programs = BTreeSet::from(["mesh-agent", "mesh-app", name]);
    let programs = programs.into_iter().flat_map(|program| ["--bin", program]);
    let mut build = cargo(repo);
    build.args(["build", "--release"]).args(packages);
    run_command(build.args(programs))
}

/// A program of `mesh-tests` that knows where agent and test app are.
pub(crate) fn release_command(repo: &Repo, name: &str) -> Command {
    let mut command = Command::new(repo.binary("release", name));
    clean_cargo_environment(&mut command);
    command
        .current_dir(&repo.root)
        .env(AGENT_BIN, repo.binary("release", "mesh-agent"))
        .env(APP_BIN, repo.binary("release", "mesh-app"));
    command
}
