//! `mesh-agent check-config`: a directory as an agent would take it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::locate::locate;
use super::origin::{Origin, Place};
use super::{Code, Directory, Error, Problem, Severity, Update};
use crate::model::policy::{Action, MeshSettings};
use crate::model::text::printable;
use crate::policy::{Here, PolicyStatus};

/// What is wrong with a directory, each thing once, and how its policies fare.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Checked {
    directory: PathBuf,
    mistakes: usize,
    warnings: usize,
    /// Objects of kinds that are not the mesh's.
    skipped: usize,
    problems: Vec<Found>,
    policies: Vec<Policy>,
}

#[derive(Debug, serde::Serialize)]
struct Found {
    severity: Severity,
    #[serde(flatten)]
    problem: Problem,
}

#[derive(Debug, serde::Serialize)]
struct Policy {
    /// `namespace/name`.
    policy: String,
    action: &'static str,
    dry_run: bool,
    workloads: usize,
    /// What it does instead of what it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<&'static str>,
}

/// What an agent would make of `dir`, with the exact place of each problem.
pub(crate) fn check(dir: &Path, settings: MeshSettings) -> Result<Update, Error> {
    let (directory, updates) = Directory::start(dir.to_owned(), settings, Here::default())?;
    let mut update = updates.borrow().clone();
    let mut problems = update.problems.to_vec();
    if directory.is_empty() && problems.is_empty() {
        let origin = Origin::whole(Place::file(dir));
        let message = "no *.yaml, *.yml or *.json in it has an object".to_owned();
        problems.push(Problem::new(Code::EmptyDirectory, origin, message));
    }
    locate(&mut problems);
    problems.dedup();
    update.problems = problems.into();
    Ok(update)
}

impl Checked {
    pub(crate) fn of(dir: &Path, settings: MeshSettings) -> Result<Self, Error> {
        let update = check(dir, settings)?;
        let problems = update.problems.to_vec();
        let count = |severity| {
            let of = |p: &&Problem| p.code.severity() == severity;
            problems.iter().filter(of).count()
        };
        Ok(Self {
            directory: dir.to_owned(),
            mistakes: count(Severity::Mistake),
            warnings: count(Severity::Warning),
            skipped: update.skipped,
            problems: problems.into_iter().map(Found::from).collect(),
            policies: update.policy.status().iter().map(Policy::from).collect(),
        })
    }

    /// Nothing but warnings.
    #[must_use]
    pub(crate) fn is_whole(&self) -> bool {
        self.mistakes == 0
    }
}

impl From<Problem> for Found {
    fn from(problem: Problem) -> Self {
        Self {
            severity: problem.code.severity(),
            problem,
        }
    }
}

impl From<&PolicyStatus> for Policy {
    fn from(status: &PolicyStatus) -> Self {
        let (action, instead) = match status.action {
            Action::Allow => ("ALLOW", "grants nothing"),
            Action::Deny => ("DENY", "denies all connections to what it selects"),
        };
        Self {
            policy: status.policy.to_string(),
            action,
            dry_run: status.dry_run,
            workloads: status.workloads,
            instead: status.broken.as_ref().map(|_| instead),
        }
    }
}

/// For people: problems by file and line, then policies, then the total.
impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for found in &self.problems {
            writeln!(f, "{} [{}]", found.problem, found.problem.code)?;
        }
        for policy in &self.policies {
            writeln!(f, "{policy}")?;
        }
        if self.skipped > 0 {
            let skipped = self.skipped;
            writeln!(f, "objects of other kinds, passed over: {skipped}")?;
        }
        let plural = |count: usize, what: &str| match count {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            many => format!("{many} {what}s"),
        };
        writeln!(
            f,
            "{}: {}, {}",
            printable(&self.directory.to_string_lossy()),
            plural(self.mistakes, "mistake"),
            plural(self.warnings, "warning")
        )
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, action) = (printable(&self.policy), self.action);
        write!(f, "AuthorizationPolicy {name}: {action}")?;
        if self.dry_run {
            f.write_str(" in dry run")?;
        }
        let workloads = match self.workloads {
            1 => "1 workload".to_owned(),
            count => format!("{count} workloads"),
        };
        write!(f, ", selects {workloads}")?;
        match self.instead {
            Some(instead) => write!(f, "; it has a mistake, so it {instead}"),
            None => Ok(()),
        }
    }
}
