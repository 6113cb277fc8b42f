//! `build`: the kernel programs, the agent that embeds them, the CNI plugin.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::build_ebpf;
use crate::command::{cargo, run as run_command};
use crate::repo::Repo;

const PLUGIN: &str = "mesh-agent-cni";

/// Of what is installed, and of what the benches measure: optimised across crates. It builds
/// for twice as long as `release`, which demo and tools have, and a request costs a fifth less.
pub(crate) const SHIPPED: &str = "dist";

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("build", args)?;
    build_ebpf::build(repo, false)?;
    println!("{}", agent(repo, SHIPPED)?.display());
    println!("{}", plugin(repo)?.display());
    Ok(())
}

/// The agent alone; the kernel programs are there.
pub(crate) fn agent(repo: &Repo, profile: &str) -> Result<PathBuf> {
    let mut build = cargo(repo);
    build.args(["build", "--profile", profile, "--package", "mesh-agent"]);
    run_command(build.args(["--bin", "mesh-agent"]))?;
    Ok(repo.binary(profile, "mesh-agent"))
}

/// The CNI plugin, without a shared library: the host that runs it may have another C
/// library than the agent's image, or none. At a place of its own, since a build of
/// the whole workspace links one with shared libraries.
pub(crate) fn plugin(repo: &Repo) -> Result<PathBuf> {
    let mut build = cargo(repo);
    build.args(["rustc", "--release", "--package", "mesh-cni"]);
    build.args(["--bin", PLUGIN, "--"]);
    build.args(["-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    run_command(&mut build)?;
    let dir = repo.target.join("plugin");
    let plugin = dir.join(PLUGIN);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    fs::copy(repo.binary("release", PLUGIN), &plugin)
        .with_context(|| format!("write {}", plugin.display()))?;
    Ok(plugin)
}
