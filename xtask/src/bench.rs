//! `bench`: the same load without and with the mesh, on release builds.

use anyhow::Result;

use crate::demo::run_release_binary;
use crate::repo::Repo;

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    run_release_binary(repo, "bench", args)
}
