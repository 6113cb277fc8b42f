//! `check-abi`
use crate::repo::Repo;
use anyhow::Result;
pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("check-abi", args)?;
    check(repo)
}
pub(crate) fn check(_repo: &Repo) -> Result<()> {
    Ok(())
}
