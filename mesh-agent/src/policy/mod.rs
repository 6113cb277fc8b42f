//! Who may connect to whom: authorization and peer authentication.
//!
//! An [`Engine`] is compiled once per snapshot and swapped with it. Order as
//! Istio's: a matching DENY, else one of the ALLOW policies that select the
//! workload must match, else allowed. Invariants: only [`Engine::check`] makes
//! a [`Permit`]; what is not understood, not known (an identity, an SNI) or
//! not decidable without HTTP is read the way that allows less.

mod compile;
mod index;
mod peer;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::policy::{Action, AuthorizationPolicy, PeerMode};
use crate::model::{RuleRef, Snapshot, SpiffeId, Workload};
use compile::Compiled;
use index::Index;
pub use peer::Decided;

/// One connection to decide on.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Proven by certificate or kernel; `None` for plaintext.
    pub source: Option<&'a SpiffeId>,
    pub source_ip: IpAddr,
    pub destination: &'a Workload,
    pub destination_ip: IpAddr,
    /// The application's own port.
    pub destination_port: u16,
    /// `None` when it is not known: conditions on it then read restrictively.
    pub sni: Option<&'a str>,
}

/// What a dry-run policy would have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    pub rule: RuleRef,
    pub allowed: bool,
}

type DryRuns = SmallVec<[DryRun; 1]>;

/// Proof that policy said yes; only [`Engine::check`] makes one.
#[derive(Debug)]
pub struct Permit {
    rule: Option<RuleRef>,
    dry_run: DryRuns,
}

impl Permit {
    /// The rule that allowed; `None` where no ALLOW policy selects the destination.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleRef> {
        self.rule.as_ref()
    }

    #[must_use]
    pub fn dry_run(&self) -> &[DryRun] {
        &self.dry_run
    }
}

/// Policy said no.
#[derive(Debug)]
pub struct Deny {
    rule: RuleRef,
    dry_run: DryRuns,
}

impl Deny {
    /// The rule that denied; without index: an ALLOW policy of which no rule
    /// matched (the first by name), or a policy that is not understood.
    #[must_use]
    pub fn rule(&self) -> &RuleRef {
        &self.rule
    }

    #[must_use]
    pub fn dry_run(&self) -> &[DryRun] {
        &self.dry_run
    }
}

/// The policies that select a workload; shared by all with the same ones.
#[derive(Debug, Default)]
struct Entry {
    deny: Vec<Arc<Compiled>>,
    allow: Vec<Arc<Compiled>>,
    dry_run: Vec<Arc<Compiled>>,
}

/// How one policy fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// `namespace/name`.
    pub policy: Arc<str>,
    pub action: Action,
    pub dry_run: bool,
    pub broken: Option<String>,
    /// Rules that need HTTP: they grant nothing (ALLOW), or deny as if their
    /// HTTP parts matched (DENY).
    pub http_rules: usize,
    pub workloads: usize,
}

/// One policy that was looked at, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    pub policy: Arc<str>,
    pub action: Action,
    pub dry_run: bool,
    /// The rule that matches, if any.
    pub matched: Option<RuleRef>,
    /// A rule of it looks at the caller's address.
    pub asks_address: bool,
    /// What it says and does not do.
    pub problem: Option<String>,
}

/// All policies of one snapshot, compiled.
#[derive(Debug, Default)]
pub struct Engine {
    index: Index,
    peers: peer::Peers,
    status: Vec<PolicyStatus>,
}

impl Engine {
    #[must_use]
    pub fn compile(snapshot: &Snapshot) -> Self {
        let (index, selected) = Index::build(snapshot);
        let status = snapshot.policies.iter().zip(selected).map(status).collect();
        Self {
            index,
            peers: peer::Peers::build(snapshot),
            status,
        }
    }

    /// May this connection be?
    pub fn check(&self, request: &Request<'_>) -> Result<Permit, Deny> {
        let entry = self.index.entry(request.destination);
        let verdict = entry.enforce(request);
        let dry_run = if entry.dry_run.is_empty() {
            DryRuns::new()
        } else {
            entry.rehearse(request)
        };
        match verdict {
            Ok(rule) => Ok(Permit { rule, dry_run }),
            Err(rule) => Err(Deny { rule, dry_run }),
        }
    }

    /// What leaves a pod towards another agent, or out of the mesh, is decided
    /// where it arrives: nothing forbids it here.
    #[must_use]
    pub fn egress(&self) -> Permit {
        Permit {
            rule: None,
            dry_run: DryRuns::new(),
        }
    }

    /// What `port` of the workload takes.
    #[must_use]
    pub fn peer_mode(&self, workload: &Workload, port: u16) -> PeerMode {
        self.peers.mode(workload, port)
    }

    /// Every policy that selects the destination, and whether it matches.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Vec<Considered> {
        let entry = self.index.entry(request.destination);
        let all = entry.deny.iter().chain(&entry.allow).chain(&entry.dry_run);
        all.map(|policy| Considered {
            policy: policy.name.clone(),
            action: policy.action,
            dry_run: policy.dry_run,
            matched: policy.matching(request),
            asks_address: policy.asks_address(),
            problem: self.problem(&policy.name),
        })
        .collect()
    }

    fn problem(&self, policy: &str) -> Option<String> {
        let status = self.status.iter().find(|s| &*s.policy == policy)?;
        sentence(status)
    }

    /// What `port` of the workload takes, and the object that says so.
    #[must_use]
    pub fn peer_mode_by(&self, workload: &Workload, port: u16) -> Decided {
        self.peers.decided(workload, port)
    }

    #[must_use]
    pub fn status(&self) -> &[PolicyStatus] {
        &self.status
    }

    /// Sentences for status pages: policies that do not do all they say.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.status.iter().filter_map(sentence).collect()
    }
}

impl Entry {
    fn enforce(&self, request: &Request<'_>) -> Result<Option<RuleRef>, RuleRef> {
        if let Some(rule) = self.deny.iter().find_map(|p| p.matching(request)) {
            return Err(rule);
        }
        let Some(first) = self.allow.first() else {
            return Ok(None);
        };
        match self.allow.iter().find_map(|p| p.matching(request)) {
            Some(rule) => Ok(Some(rule)),
            None => Err(first.reference(None)),
        }
    }

    /// Each dry-run policy by itself; an ALLOW that does not match would deny.
    fn rehearse(&self, request: &Request<'_>) -> DryRuns {
        let mut said = DryRuns::new();
        for policy in &self.dry_run {
            match (policy.action, policy.matching(request)) {
                (Action::Deny, None) => {}
                (Action::Deny, Some(rule)) => said.push(DryRun {
                    rule,
                    allowed: false,
                }),
                (Action::Allow, matched) => said.push(DryRun {
                    allowed: matched.is_some(),
                    rule: matched.unwrap_or_else(|| policy.reference(None)),
                }),
            }
        }
        said
    }
}

fn status((policy, workloads): (&AuthorizationPolicy, usize)) -> PolicyStatus {
    PolicyStatus {
        policy: compile::name(policy),
        action: policy.action,
        dry_run: policy.dry_run,
        broken: policy.broken.clone(),
        http_rules: policy.rules.iter().filter(|r| compile::has_http(r)).count(),
        workloads,
    }
}

/// One line for `check-config`.
impl fmt::Display for PolicyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match sentence(self) {
            Some(sentence) => f.write_str(&sentence)?,
            None => write!(f, "AuthorizationPolicy {}: accepted", self.policy)?,
        }
        let dry_run = if self.dry_run { ", dry run" } else { "" };
        write!(f, "; selects {} workloads{dry_run}", self.workloads)
    }
}

fn sentence(status: &PolicyStatus) -> Option<String> {
    let (name, action) = (&status.policy, status.action);
    if let Some(reason) = &status.broken {
        let effect = match action {
            Action::Allow => "it grants nothing",
            Action::Deny => "it denies all connections to what it selects",
        };
        return Some(format!("AuthorizationPolicy {name}: {reason}; {effect}"));
    }
    let effect = match action {
        Action::Allow => "they grant nothing",
        Action::Deny => "they deny as if their HTTP parts matched",
    };
    (status.http_rules > 0).then(|| {
        let rules = status.http_rules;
        format!("AuthorizationPolicy {name}: {rules} rules need HTTP, which is not decided yet; {effect}")
    })
}
