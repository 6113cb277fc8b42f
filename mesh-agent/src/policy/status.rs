//! How policies fare.

use std::fmt;
use std::sync::Arc;

use super::compile::{self, Compiled};
use crate::model::policy::{Action, Rule};

/// What [`compile::is_unserved`] finds, for people.
pub(crate) const UNSERVED: &str = "a token or for what X-Forwarded-For says, which are not read";

/// How one policy fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyStatus {
    /// `namespace/name`.
    pub(crate) policy: Arc<str>,
    pub(crate) action: Action,
    pub(crate) dry_run: bool,
    pub(crate) broken: Option<String>,
    /// Rules that are decided for each request: what is no HTTP is denied by them.
    pub(crate) http_rules: usize,
    /// Rules that ask for what is never known: they grant nothing (ALLOW), or deny as if
    /// these parts matched (DENY).
    pub(crate) unserved_rules: usize,
    pub(crate) workloads: usize,
}

/// One line for `check-config`.
impl fmt::Display for PolicyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problem() {
            Some(sentence) => f.write_str(&sentence)?,
            None => write!(f, "AuthorizationPolicy {}: accepted", self.policy)?,
        }
        let dry_run = if self.dry_run { ", dry run" } else { "" };
        write!(f, "; selects {} workloads{dry_run}", self.workloads)
    }
}

impl PolicyStatus {
    pub(super) fn of(compiled: &Compiled, workloads: usize) -> Self {
        let rules = &compiled.policy.rules;
        let count = |is: fn(&Rule) -> bool| rules.iter().filter(|rule| is(rule)).count();
        Self {
            policy: compiled.name.clone(),
            action: compiled.action,
            dry_run: compiled.dry_run,
            broken: compiled.broken.clone(),
            http_rules: count(compile::has_http),
            unserved_rules: count(compile::is_unserved),
            workloads,
        }
    }

    /// A sentence for people, where it does not do all that it says.
    #[must_use]
    pub(crate) fn problem(&self) -> Option<String> {
        let (name, action) = (&self.policy, self.action);
        if let Some(reason) = &self.broken {
            let effect = match action {
                Action::Allow => "it grants nothing",
                Action::Deny => "it denies all connections to what it selects",
            };
            return Some(format!("AuthorizationPolicy {name}: {reason}; {effect}"));
        }
        let effect = match action {
            Action::Allow => "they grant nothing",
            Action::Deny => "they deny as if these parts matched",
        };
        let rules = self.unserved_rules;
        (rules > 0).then(|| {
            format!("AuthorizationPolicy {name}: {rules} rules ask for {UNSERVED}; {effect}")
        })
    }
}
