//! Runs test binaries through cargo, shows their output as it comes, and
//! counts what libtest's closing lines say and what was skipped.
//!
//! A suite that cannot run prints a line that begins with SKIPPED, or, as
//! libtest hides the output of tests that pass, appends it to the file named
//! by [`SKIP_LOG`].

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::describe;
use crate::stall;

pub(crate) const SKIP_LOG: &str = "MESH_SKIP_LOG";

/// What a set of test binaries said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    fn read_line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
        } else {
            self.read_skip(line);
        }
    }

    fn read_skip(&mut self, line: &str) {
        let line = line.trim();
        if line.starts_with("SKIPPED") && !self.skipped.iter().any(|known| known == line) {
            self.skipped.push(line.to_owned());
        }
    }
}

/// The number before `what` in libtest's closing line.
fn count(counts: &str, what: &str) -> usize {
    let words: Vec<&str> = counts
        .split([' ', ';', '.'])
        .filter(|w| !w.is_empty())
        .collect();
    words
        .windows(2)
        .find(|pair| pair[1] == what)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

/// Runs a `cargo test` and returns what it counted; an error if it failed.
pub(crate) fn run_tests(command: &mut Command, skip_log: &Path, tally: &mut Tally) -> Result<()> {
    eprintln!("+ {}", describe(command));
    let _ = fs::remove_file(skip_log);
    let mut child = command
        .env(SKIP_LOG, skip_log)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{}`", describe(command)))?;
    let stdout = child.stdout.take().context("take the tests' output")?;
    let mut counted = Tally::default();
    let all_ended = stall::read_lines(stdout, child.id(), stall::PATIENCE, |line| {
        println!("{line}");
        counted.read_line(line);
    });
    for line in fs::read_to_string(skip_log).unwrap_or_default().lines() {
        counted.read_skip(line);
    }
    tally.add(counted);
    let status = child.wait().context("wait for the tests")?;
    all_ended?;
    if !status.success() {
        bail!("`{}` failed: {status}", describe(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up_over_binaries() {
        let mut tally = Tally::default();
        tally.read_line("running 14 tests");
        tally.read_line("test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        tally.read_line("test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s");
        assert_eq!((tally.passed, tally.failed), (15, 1));
    }

    #[test]
    fn a_skip_is_found_once_whichever_way_it_came() {
        let mut tally = Tally::default();
        tally.read_line("  SKIPPED capture: not root");
        tally.read_skip("SKIPPED capture: not root");
        tally.read_line("nothing was SKIPPED here");
        assert_eq!(tally.skipped, ["SKIPPED capture: not root"]);
    }
}
