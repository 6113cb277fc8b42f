//! Steps of a verb: each runs, is timed, and is named again at the end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Runs steps on after a failure, so that one run shows all that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    took: Duration,
    failure: Option<String>,
}

impl Steps {
    /// Runs one step; says whether later steps that need it may run.
    pub(crate) fn run(&mut self, name: &str, action: impl FnOnce() -> Result<()>) -> bool {
        eprintln!("== {name}");
        let start = Instant::now();
        let failure = action().err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            eprintln!("{name}: {failure}");
        }
        let passed = failure.is_none();
        self.done.push(Step {
            name: name.to_owned(),
            took: start.elapsed(),
            failure,
        });
        passed
    }

    /// Prints the table; an error if any step failed.
    pub(crate) fn finish(self, verb: &str) -> Result<()> {
        println!("{}", self.table());
        let failed: Vec<String> = self
            .done
            .into_iter()
            .filter_map(|step| Some(format!("{}: {}", step.name, step.failure?)))
            .collect();
        if !failed.is_empty() {
            bail!("{verb} failed\n{}", failed.join("\n"));
        }
        Ok(())
    }

    fn table(&self) -> String {
        let width = self.done.iter().map(|s| s.name.len()).max().unwrap_or(0);
        let mut table = String::new();
        for step in &self.done {
            let result = if step.failure.is_none() {
                "ok"
            } else {
                "FAILED"
            };
            let seconds = step.took.as_secs_f32();
            table.push_str(&format!(
                "\n{:width$}  {result:6}  {seconds:7.1} s",
                step.name
            ));
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_steps_run_after_a_failure_and_the_failure_is_named() {
        let mut steps = Steps::default();
        assert!(!steps.run("first", || bail!("`tool` failed")));
        assert!(steps.run("second", || Ok(())));
        assert!(steps.table().contains("second  ok"));
        let error = steps
            .finish("lint")
            .expect_err("one step failed")
            .to_string();
        assert!(error.contains("first: `tool` failed") && !error.contains("second"));
    }
}
