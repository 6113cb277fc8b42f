//! `test`: what `lint` checks, unit tests, and suites in network namespaces.
//!
//! One cargo profile (`itest`) and one package selection for everything, so
//! that no dependency is built twice: features are resolved per selection.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, run as run_command};
use crate::repo::Repo;
use crate::skips::{Tally, run_tests};
use crate::summary::Steps;
use crate::{build_ebpf, check_abi, kube, lint, setup};

pub(crate) const PROFILE: &str = "itest";
/// The programs under test, for suites, demo and benches.
pub(crate) const AGENT_BIN: &str = "MESH_AGENT_BIN";
pub(crate) const APP_BIN: &str = "MESH_APP_BIN";
const CNI_BIN: &str = "MESH_CNI_BIN";

const USAGE: &str = "usage: cargo xtask test [--unit | --net | --kube | SUITE...] [-- ARGS]";

/// Which tests to run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    checks: bool,
    unit: bool,
    suites: Vec<String>,
    /// For the test binaries.
    rest: Vec<String>,
}

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    let manifest = repo.root.join("tests/Cargo.toml");
    let manifest =
        fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
    let plan = Plan::parse(args, &suite_names(&manifest))?;
    let mut steps = Steps::default();
    let mut tally = Tally::default();

    let prepared = steps.run("setup", || setup::ensure_all(repo))
        && steps.run("build-ebpf", || build_ebpf::build(repo, false));
    if plan.checks {
        steps.run("check-abi", || check_abi::check(repo));
        lint::checks(repo, &mut steps);
    }
    if prepared && plan.unit {
        steps.run("unit tests", || unit(repo, &plan, &mut tally));
    }
    let (in_cluster, on_machine): (Vec<_>, Vec<_>) =
        plan.suites.iter().cloned().partition(|name| is_kube(name));
    let built = prepared && !plan.suites.is_empty() && steps.run("build", || build(repo));
    if built && !on_machine.is_empty() {
        steps.run("suites", || suites(repo, &on_machine, &plan, &mut tally));
    }
    if built && !in_cluster.is_empty() {
        cluster(repo, &in_cluster, &plan, &mut steps, &mut tally);
    }
    steps.run("skips", || judge_skips(&tally));
    let result = steps.finish("test");
    // A closing line of our own: the sum over all test binaries.
    println!(
        "\ntests: {} passed, {} failed, {} skipped",
        tally.passed,
        tally.failed,
        tally.skipped.len()
    );
    result
}

impl Plan {
    fn parse(args: &[String], known: &[String]) -> Result<Self> {
        let (ours, rest) = match args.iter().position(|arg| arg == "--") {
            Some(at) => (&args[..at], &args[at + 1..]),
            None => (args, &[][..]),
        };
        let all = ours.is_empty();
        let mut plan = Self {
            checks: all,
            unit: all,
            suites: if all { known.to_vec() } else { Vec::new() },
            rest: rest.to_vec(),
        };
        for arg in ours {
            plan.select(arg, known)?;
        }
        Ok(plan)
    }

    fn select(&mut self, arg: &str, known: &[String]) -> Result<()> {
        match arg {
            "--unit" => self.unit = true,
            "--net" => self.add(arg, known.iter().filter(|name| !is_kube(name)))?,
            "--kube" => self.add(arg, known.iter().filter(|name| is_kube(name)))?,
            name if known.iter().any(|suite| suite == name) => self.suites.push(name.to_owned()),
            other => bail!(
                "no suite '{other}'; there are: {}\n{USAGE}",
                known.join(" ")
            ),
        }
        Ok(())
    }

    /// A selection that selects nothing would pass without having run anything.
    fn add<'s>(&mut self, arg: &str, suites: impl Iterator<Item = &'s String>) -> Result<()> {
        let before = self.suites.len();
        self.suites.extend(suites.cloned());
        if self.suites.len() == before {
            bail!("{arg}: there is no such suite");
        }
        Ok(())
    }
}

/// Does that suite run in a cluster?
fn is_kube(suite: &str) -> bool {
    suite.starts_with("kube")
}

/// The names of the `[[test]]` targets of a manifest.
fn suite_names(manifest: &str) -> Vec<String> {
    manifest
        .split("[[test]]")
        .skip(1)
        .filter_map(|table| {
            let table = table.split("\n[").next()?;
            let line = table
                .lines()
                .find(|line| line.trim_start().starts_with("name"))?;
            Some(line.split('"').nth(1)?.to_owned())
        })
        .collect()
}

/// The one package selection and profile.
fn in_workspace(command: &mut Command) -> &mut Command {
    command.args([
        "--workspace",
        "--exclude",
        "mesh-ebpf",
        "--profile",
        PROFILE,
    ])
}

fn unit(repo: &Repo, plan: &Plan, tally: &mut Tally) -> Result<()> {
    let command = || {
        let mut command = cargo(repo);
        in_workspace(command.arg("test")).args(["--lib", "--bins"]);
        command
    };
    // Building says nothing on the output by which a test that hangs is told.
    run_command(command().arg("--no-run"))?;
    let mut command = command();
    command.arg("--no-fail-fast");
    with_rest(&mut command, &[], plan);
    run_tests(&mut command, &repo.target.join("skips.log"), tally)
}

/// `cargo test` alone would not build the agent's binary.
pub(crate) fn build(repo: &Repo) -> Result<()> {
    run_command(in_workspace(cargo(repo).arg("build")).args(["--bins", "--tests"]))
}

fn suites(repo: &Repo, suites: &[String], plan: &Plan, tally: &mut Tally) -> Result<()> {
    let mut command = cargo(repo);
    select(&mut command, suites);
    command
        .env(AGENT_BIN, repo.binary(PROFILE, "mesh-agent"))
        .env(APP_BIN, repo.binary(PROFILE, "mesh-app"))
        .env(CNI_BIN, repo.binary(PROFILE, "mesh-agent-cni"));
    with_rest(&mut command, &[], plan);
    run_tests(&mut command, &repo.target.join("skips.log"), tally)
}

fn select(command: &mut Command, suites: &[String]) {
    in_workspace(command.arg("test")).arg("--no-fail-fast");
    for suite in suites {
        command.args(["--test", suite]);
    }
}

/// Suites that share one cluster, which begins and ends with them: one test
/// after the other.
fn cluster(repo: &Repo, suites: &[String], plan: &Plan, steps: &mut Steps, tally: &mut Tally) {
    if let Some(why) = kube::missing() {
        tally
            .skipped
            .push(format!("SKIPPED {}: {why}", suites.join(" ")));
        return;
    }
    let mut images = None;
    let prepared = steps.run("cluster: build", || kube::build(repo))
        && steps.run("cluster: images", || {
            images = Some(kube::images(repo, PROFILE)?);
            Ok(())
        });
    if let Some(images) = images.filter(|_| prepared) {
        steps.run("cluster: suites", || {
            let mut command = kube::with_cluster(repo, &images)?;
            command.arg("cargo");
            select(&mut command, suites);
            // What was measured stands in the output of tests that pass.
            with_rest(&mut command, &["--test-threads=1", "--show-output"], plan);
            run_tests(&mut command, &repo.target.join("skips.log"), tally)
        });
    }
}

fn with_rest(command: &mut Command, ours: &[&str], plan: &Plan) {
    if !ours.is_empty() || !plan.rest.is_empty() {
        command.arg("--").args(ours).args(&plan.rest);
    }
}

/// What did not run is not proven: a machine of the CI must run everything.
fn judge_skips(tally: &Tally) -> Result<()> {
    for line in &tally.skipped {
        println!("{line}");
    }
    if !tally.skipped.is_empty() && is_ci() {
        bail!(
            "{} skipped, and in CI a skip is a failure",
            tally.skipped.len()
        );
    }
    Ok(())
}

pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn suites_are_the_test_targets_of_the_manifest() {
        let manifest = "[package]\nname = \"p\"\n\n[[test]]\nname = \"capture\"\npath = \"suites/capture.rs\"\n\n\
                        [[test]]\npath = \"x\"\nname=\"kube_api\"\n[dependencies]\nname = \"1\"\n";
        assert_eq!(suite_names(manifest), ["capture", "kube_api"]);
    }

    #[test]
    fn without_a_selection_everything_runs() {
        let plan = Plan::parse(&words("-- --nocapture"), &words("capture kube")).expect("a plan");
        assert!(plan.checks && plan.unit);
        assert_eq!(
            (plan.suites, plan.rest),
            (words("capture kube"), words("--nocapture"))
        );
    }

    #[test]
    fn a_selection_runs_only_that() {
        let known = words("capture relay kube");
        let plan = Plan::parse(&words("--net"), &known).expect("a plan");
        assert!(!plan.unit && !plan.checks && plan.suites == words("capture relay"));
        let plan = Plan::parse(&words("--unit relay"), &known).expect("a plan");
        assert!(plan.unit && plan.suites == words("relay"));
    }

    #[test]
    fn a_selection_of_nothing_is_a_mistake() {
        for (arg, known) in [("--kube", "capture"), ("--net", "kube_api")] {
            let error = Plan::parse(&words(arg), &words(known)).expect_err("nothing to run");
            assert!(error.to_string().contains(arg), "{error}");
        }
    }

    #[test]
    fn an_unknown_suite_is_refused_with_the_known_ones() {
        let error = Plan::parse(&words("nope"), &words("capture")).expect_err("unknown");
        assert!(error.to_string().contains("there are: capture"));
    }
}
