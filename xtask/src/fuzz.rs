//! `fuzz`: the parsers of outside bytes under libFuzzer, with a nightly compiler.
//!
//! New inputs go below the target directory; what a run finds is minimised and
//! put into `fuzz/corpus` by hand. `test` replays the committed ones on stable.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::{clean_toolchain_environment, run as run_command};
use crate::repo::Repo;

const USAGE: &str = "usage: cargo xtask fuzz [--seconds N] [TARGET...]";
const SECONDS: u32 = 60;
/// What coverage-guided fuzzing needs of the compiler; the address sanitizer
/// also watches the C code under the cryptography.
const RUSTFLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
];
/// An input that takes longer hangs, one that takes more memory swells.
const LIMITS: &[&str] = &[
    "-timeout=10",
    "-rss_limit_mb=1024",
    "-malloc_limit_mb=64",
    "-max_len=16384",
    "-print_final_stats=1",
];

/// What to run.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    seconds: u32,
    targets: Vec<String>,
}

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    let plan = Plan::parse(args, &targets(repo)?)?;
    let host = host()?;
    let target_dir = repo.target.join("fuzz");
    let mut build = Command::new("cargo");
    clean_toolchain_environment(&mut build);
    build
        .args(["+nightly", "build", "--release", "--target", &host])
        .current_dir(repo.root.join("fuzz"))
        .stdin(Stdio::null())
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"));
    for target in &plan.targets {
        build.args(["--bin", target]);
    }
    run_command(&mut build).context("build the fuzz targets (a rustup nightly is needed)")?;
    let programs = target_dir.join(host).join("release");
    for target in &plan.targets {
        let found = target_dir.join("corpus").join(target);
        let artifacts = target_dir.join("artifacts").join(target);
        for dir in [&found, &artifacts] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let mut fuzz = Command::new(programs.join(target));
        fuzz.arg(format!("-max_total_time={}", plan.seconds))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(LIMITS)
            .arg(found)
            .arg(repo.root.join("fuzz/corpus").join(target))
            .stdin(Stdio::null());
        run_command(&mut fuzz)?;
    }
    Ok(())
}

impl Plan {
    fn parse(args: &[String], known: &[String]) -> Result<Self> {
        let mut plan = Self {
            seconds: SECONDS,
            targets: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--seconds" => plan.seconds = args.next().context(USAGE)?.parse()?,
                name if known.iter().any(|k| k == name) => plan.targets.push(name.to_owned()),
                _ => bail!("no target '{arg}'; there are: {}\n{USAGE}", known.join(" ")),
            }
        }
        if plan.targets.is_empty() {
            plan.targets = known.to_vec();
        }
        Ok(plan)
    }
}

/// By their files, in order.
fn targets(repo: &Repo) -> Result<Vec<String>> {
    let dir = repo.root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
    let paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>>>()?;
    let mut names: Vec<String> = paths
        .iter()
        .filter_map(|p| Some(p.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Named, so that build scripts are built without the flags above.
fn host() -> Result<String> {
    let output = Command::new("rustc")
        .args(["+nightly", "-vV"])
        .output()
        .context("ask for the nightly compiler's host")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("no nightly compiler: `rustup toolchain install nightly`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn without_a_name_every_target_runs() {
        let known = words("frames hello");
        let plan = Plan::parse(&words("--seconds 5"), &known).expect("a plan");
        assert_eq!((plan.seconds, plan.targets), (5, known.clone()));
        let plan = Plan::parse(&words("hello"), &known).expect("a plan");
        assert_eq!((plan.seconds, plan.targets), (60, words("hello")));
        assert!(Plan::parse(&words("helo"), &known).is_err());
        assert!(Plan::parse(&words("--seconds"), &known).is_err());
    }
}
