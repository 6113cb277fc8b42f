//! One connection, asked about.

use std::net::SocketAddr;
use std::sync::Arc;

use super::authorizer::Authorizer;
use super::compile::{Compiled, Matched};
use super::index::{Entry, Group};
use super::reach::Ports;
use super::{Considered, Deny, DryRun, DryRuns, Permit, Request, Verdict};
use crate::model::RuleRef;
use crate::model::policy::Action;

/// One kind of a group's policies.
type Kind = fn(&Group) -> &[Arc<Compiled>];

impl Authorizer {
    /// May this connection be?
    pub fn check(&self, request: &Request<'_>) -> Verdict {
        let asked = Asked {
            request,
            generation: self.generation,
        };
        let destination = SocketAddr::new(request.destination_ip, request.destination_port);
        self.with_entry(request.destination, |entry| {
            let dry_run = asked.rehearse(entry);
            match asked.enforce(entry) {
                Ok(rule) => Verdict::Permit(Permit {
                    destination,
                    rule,
                    dry_run,
                }),
                Err(rule) => Verdict::Deny(Deny { rule, dry_run }),
            }
        })
    }

    /// Every policy that selects the destination, and whether it matches.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Vec<Considered> {
        self.with_entry(request.destination, |entry| self.considered(entry, request))
    }

    fn considered(&self, entry: &Entry, request: &Request<'_>) -> Vec<Considered> {
        let asked = Asked {
            request,
            generation: self.generation,
        };
        let kinds: [Kind; 3] = [|g| &g.deny, |g| &g.allow, |g| &g.dry_run];
        let mut considered = Vec::new();
        for kind in kinds {
            for (group, ports) in entry.groups(request.destination_port) {
                let policies = kind(group).iter();
                considered.extend(policies.map(|policy| Considered {
                    policy: policy.name.clone(),
                    action: policy.action,
                    dry_run: policy.dry_run,
                    matched: asked.matching(policy, ports),
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
}

/// A request, and the configuration that answers it.
struct Asked<'r> {
    request: &'r Request<'r>,
    generation: u64,
}

impl Asked<'_> {
    fn matching(&self, policy: &Compiled, ports: Ports<'_>) -> Option<RuleRef> {
        let Matched(rule) = policy.matching(self.request, ports)?;
        Some(policy.reference(rule, self.generation))
    }

    /// A DENY that matches, else the rule that allows; `None` where no ALLOW
    /// policy is of concern. What the workload's own policies let in, or else
    /// those of every Service that leads to the port.
    fn enforce(&self, entry: &Entry) -> Result<Option<RuleRef>, RuleRef> {
        let port = self.request.destination_port;
        for (group, ports) in entry.groups(port) {
            if let Some(rule) = group.deny.iter().find_map(|p| self.matching(p, ports)) {
                return Err(rule);
            }
        }
        let mut groups = entry.groups(port);
        let own = groups.next().and_then(|own| self.allowed(own));
        if let Some(Ok(rule)) = own {
            return Ok(Some(rule));
        }
        let mut by_service = None;
        for verdict in groups.filter_map(|service| self.allowed(service)) {
            let rule = verdict?;
            by_service.get_or_insert(rule);
        }
        match (by_service, own) {
            (None, Some(refused)) => refused.map(Some),
            (by_service, _) => Ok(by_service),
        }
    }

    /// The rule that allows, or the policy that had none; nothing without an ALLOW.
    fn allowed(&self, (group, ports): (&Group, Ports<'_>)) -> Option<Result<RuleRef, RuleRef>> {
        let first = group.allow.first()?;
        let matching = group.allow.iter().find_map(|p| self.matching(p, ports));
        Some(matching.ok_or_else(|| first.reference(None, self.generation)))
    }

    /// Each dry-run policy by itself; an ALLOW that does not match would deny.
    fn rehearse(&self, entry: &Entry) -> DryRuns {
        let mut said = DryRuns::new();
        for (group, ports) in entry.groups(self.request.destination_port) {
            for policy in &group.dry_run {
                let (rule, allowed) = match (policy.action, self.matching(policy, ports)) {
                    (Action::Deny, None) => continue,
                    (Action::Deny, Some(rule)) => (rule, false),
                    (Action::Allow, Some(rule)) => (rule, true),
                    (Action::Allow, None) => (policy.reference(None, self.generation), false),
                };
                said.push(DryRun { rule, allowed });
            }
        }
        said
    }
}
