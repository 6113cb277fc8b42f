//! `lint`: everything that needs no running program. `test` runs it too, so
//! that nothing lands on the strength of a check that only some machine made.

use anyhow::Result;

use crate::command::{cargo, run as run_command};
use crate::repo::Repo;
use crate::summary::Steps;
use crate::test::PROFILE;
use crate::{deny, dependencies, gen_files, tidy};

type Check = fn(&Repo) -> Result<()>;

/// What holds for the sources, in the order in which a mistake costs least.
const CHECKS: &[(&str, Check)] = &[
    ("fmt", fmt),
    ("tidy", tidy::check),
    ("gen --check", gen_files::check),
    ("clippy", clippy),
    ("doc", doc),
    ("dependencies", dependencies::check),
    ("deny", deny::check),
];

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    crate::no_arguments("lint", args)?;
    let mut steps = Steps::default();
    checks(repo, &mut steps);
    steps.finish("lint")
}

pub(crate) fn checks(repo: &Repo, steps: &mut Steps) {
    for (name, check) in CHECKS {
        steps.run(name, || check(repo));
    }
}

fn fmt(repo: &Repo) -> Result<()> {
    run_command(cargo(repo).args(["fmt", "--all", "--check"]))
}

/// In the tests' profile: build scripts (one compiles the cryptography in C)
/// and macros are then those of the tests, and not built a second time.
fn clippy(repo: &Repo) -> Result<()> {
    run_command(
        cargo(repo)
            .args(["clippy", "--workspace", "--exclude", "mesh-ebpf"])
            .args(["--profile", PROFILE])
            .args(["--all-targets", "--", "-D", "warnings"]),
    )
}

/// What clippy has checked of the dependencies serves this too.
fn doc(repo: &Repo) -> Result<()> {
    run_command(
        cargo(repo)
            .args(["doc", "--workspace", "--exclude", "mesh-ebpf", "--no-deps"])
            .args(["--profile", PROFILE])
            .arg("--document-private-items")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_landing_is_checked_for_form_mistakes_documentation_and_dependencies() {
        let names: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "fmt",
                "tidy",
                "gen --check",
                "clippy",
                "doc",
                "dependencies",
                "deny"
            ]
        );
    }
}
