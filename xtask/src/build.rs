//! `build`: the kernel programs and the agent that embeds them.

use anyhow::Result;

use crate::build_ebpf;
use crate::command::{cargo, run as run_command};
use crate::repo::Repo;

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("build", args)?;
    build_ebpf::build(repo, false)?;
    run_command(cargo(repo).args(["build", "--release", "--package", "mesh-agent"]))?;
    println!("{}", repo.binary("release", "mesh-agent").display());
    Ok(())
}
