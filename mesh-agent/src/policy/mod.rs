//! Who may connect to whom: authorization and peer authentication.
//!
//! An [`Engine`] is compiled once per snapshot and swapped with it. Order as
//! Istio's: a matching DENY, else one of the ALLOW policies that select the
//! workload must match, or else one of those of each Service that leads to the
//! port, else allowed. Invariants: only [`Engine::check`] makes a [`Permit`],
//! for one address and port; what is not understood, not known (an identity, an SNI) or
//! not decidable without HTTP is read the way that allows less.

mod compile;
mod index;
mod peer;
mod principal;
mod reach;
mod request;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::policy::{Action, AuthorizationPolicy, PeerMode, Rule};
use crate::model::{RuleRef, Snapshot, Workload};
use compile::Compiled;
pub use compile::{has_http, has_sni};
use index::{Entry, Group, Index};
pub use peer::{Decided, Level, level, oldest, selects};
pub use principal::{localize, nobody};
use reach::Ports;
pub use request::Request;

/// What a dry-run policy would have said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    pub rule: RuleRef,
    pub allowed: bool,
}

type DryRuns = SmallVec<[DryRun; 1]>;

/// Proof that policy lets a connection arrive at one address and port of a
/// pod; only [`Engine::check`] makes one, of the request that it checked.
///
/// ```compile_fail,E0451
/// let at = "10.0.0.1:80".parse().unwrap();
/// let _forged = mesh_agent::policy::Permit { destination: at, ..unimplemented!() };
/// ```
#[derive(Debug)]
pub struct Permit {
    destination: SocketAddr,
    rule: Option<RuleRef>,
    dry_run: DryRuns,
}

impl Permit {
    /// Where the connection may arrive, and nowhere else.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

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
    /// Rules that ask for `connection.sni`, which is not known: likewise.
    pub sni_rules: usize,
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

/// One kind of a group's policies.
type Kind = fn(&Group) -> &[Arc<Compiled>];

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
        let policies = snapshot.policies.iter().zip(index.compiled());
        let status = policies.zip(selected).map(status).collect();
        Self {
            index,
            peers: peer::Peers::build(snapshot),
            status,
        }
    }

    /// May this connection be?
    pub fn check(&self, request: &Request<'_>) -> Result<Permit, Deny> {
        let entry = self.index.entry(request.destination);
        let dry_run = rehearse(&entry, request);
        let destination = SocketAddr::new(request.destination_ip, request.destination_port);
        match enforce(&entry, request) {
            Ok(rule) => Ok(Permit {
                destination,
                rule,
                dry_run,
            }),
            Err(rule) => Err(Deny { rule, dry_run }),
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
        let kinds: [Kind; 3] = [|g| &g.deny, |g| &g.allow, |g| &g.dry_run];
        let mut considered = Vec::new();
        for kind in kinds {
            for (group, ports) in entry.groups(request.destination_port) {
                let policies = kind(group).iter();
                considered.extend(policies.map(|policy| Considered {
                    policy: policy.name.clone(),
                    action: policy.action,
                    dry_run: policy.dry_run,
                    matched: policy.matching(request, ports),
                    asks_address: policy.asks_address(),
                    problem: self.problem(&policy.name),
                }));
            }
        }
        considered
    }

    fn problem(&self, policy: &str) -> Option<String> {
        let status = self.status.iter().find(|s| &*s.policy == policy)?;
        status.problem()
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
}

/// A DENY that matches, else the rule that allows; `None` where no ALLOW policy
/// is of concern. What the workload's own policies let in, or else those of
/// every Service that leads to the port.
fn enforce(entry: &Entry, request: &Request<'_>) -> Result<Option<RuleRef>, RuleRef> {
    let port = request.destination_port;
    for (group, ports) in entry.groups(port) {
        if let Some(rule) = group.deny.iter().find_map(|p| p.matching(request, ports)) {
            return Err(rule);
        }
    }
    let mut groups = entry.groups(port);
    let own = groups.next().and_then(|own| allowed(own, request));
    if let Some(Ok(rule)) = own {
        return Ok(Some(rule));
    }
    let mut by_service = None;
    for verdict in groups.filter_map(|service| allowed(service, request)) {
        let rule = verdict?;
        by_service.get_or_insert(rule);
    }
    match (by_service, own) {
        (None, Some(refused)) => refused.map(Some),
        (by_service, _) => Ok(by_service),
    }
}

/// The rule that allows, or the policy that had none; nothing without an ALLOW.
fn allowed(
    (group, ports): (&Group, Ports<'_>),
    request: &Request<'_>,
) -> Option<Result<RuleRef, RuleRef>> {
    let first = group.allow.first()?;
    let matching = group.allow.iter().find_map(|p| p.matching(request, ports));
    Some(matching.ok_or_else(|| first.reference(None)))
}

/// Each dry-run policy by itself; an ALLOW that does not match would deny.
fn rehearse(entry: &Entry, request: &Request<'_>) -> DryRuns {
    let mut said = DryRuns::new();
    for (group, ports) in entry.groups(request.destination_port) {
        for policy in &group.dry_run {
            let (rule, allowed) = match (policy.action, policy.matching(request, ports)) {
                (Action::Deny, None) => continue,
                (Action::Deny, Some(rule)) => (rule, false),
                (Action::Allow, Some(rule)) => (rule, true),
                (Action::Allow, None) => (policy.reference(None), false),
            };
            said.push(DryRun { rule, allowed });
        }
    }
    said
}

type Policy<'p> = (&'p AuthorizationPolicy, &'p Compiled);

fn status(((policy, compiled), workloads): (Policy<'_>, usize)) -> PolicyStatus {
    let count = |is: fn(&Rule) -> bool| policy.rules.iter().filter(|rule| is(rule)).count();
    PolicyStatus {
        policy: compiled.name.clone(),
        action: policy.action,
        dry_run: policy.dry_run,
        broken: compiled.broken.clone(),
        http_rules: count(compile::has_http),
        sni_rules: count(compile::has_sni),
        workloads,
    }
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
    /// A sentence for people, where it does not do all that it says.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
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
        let parts = [
            (self.http_rules, "HTTP, which is not decided yet"),
            (self.sni_rules, "connection.sni, which is not known yet"),
        ];
        let parts = parts.iter().filter(|(rules, _)| *rules > 0);
        let parts: Vec<String> = parts
            .map(|(rules, what)| format!("{rules} rules ask for {what}"))
            .collect();
        let parts = parts.join(", ");
        (!parts.is_empty()).then(|| format!("AuthorizationPolicy {name}: {parts}; {effect}"))
    }
}
