//! One connection or request, asked about.

use std::net::SocketAddr;
use std::sync::Arc;

use super::authorizer::Authorizer;
use super::compile::{Compiled, Matched};
use super::index::{Group, WorkloadPolicies};
use super::reach::Ports;
use super::{Considered, Deny, DryRun, DryRuns, Needs, Permit, Request, Verdict};
use crate::model::RuleRef;
use crate::model::policy::Action;

/// One kind of a group's policies.
type Kind = fn(&Group) -> &[Arc<Compiled>];

impl Authorizer {
    /// May this connection be, or this request on it? What is allowed or denied without
    /// a request is so with every one.
    pub(crate) fn check(&self, request: &Request<'_>) -> Verdict {
        let asked = Asked {
            request,
            generation: self.generation,
        };
        let destination = SocketAddr::new(request.destination_ip, request.destination_port);
        self.with_entry(request.destination, |entry| {
            let dry_run = asked.rehearse(entry);
            match asked.enforce(entry) {
                Said::Yes(rule) => Verdict::Permit(Permit {
                    destination,
                    rule,
                    dry_run,
                }),
                Said::No { rule, by } => Verdict::Deny(Deny { rule, by, dry_run }),
                Said::Later => Verdict::NeedsRequest,
            }
        })
    }

    /// What of a request's head the verdict on one depends on: nothing where the
    /// connection alone decides it. The path and the host that a rule looks at go on
    /// to the application in the form that was looked at.
    #[must_use]
    pub(crate) fn needs(&self, request: &Request<'_>) -> Needs {
        let request = Request {
            http: None,
            ..*request
        };
        let asked = Asked {
            request: &request,
            generation: self.generation,
        };
        let mut needs = Needs::default();
        self.with_entry(request.destination, |entry| {
            if !matches!(asked.enforce(entry), Said::Later) {
                return;
            }
            for (group, ports) in entry.groups(request.destination_port) {
                for policy in group.deny.iter().chain(&group.allow) {
                    policy.add_needs(&request, ports, &mut needs);
                }
            }
        });
        needs
    }

    /// Every policy that selects the destination, and whether it matches.
    #[must_use]
    pub(crate) fn explain(&self, request: &Request<'_>) -> Vec<Considered> {
        self.with_entry(request.destination, |entry| self.considered(entry, request))
    }

    fn considered(&self, entry: &WorkloadPolicies, request: &Request<'_>) -> Vec<Considered> {
        let asked = Asked {
            request,
            generation: self.generation,
        };
        let kinds: [Kind; 3] = [|g| &g.deny, |g| &g.allow, |g| &g.dry_run];
        let mut considered = Vec::new();
        for kind in kinds {
            for (group, ports) in entry.groups(request.destination_port) {
                let policies = kind(group).iter();
                considered.extend(policies.map(|policy| {
                    let matched = policy.matching(request, ports);
                    let rule = match matched {
                        Matched::Rule(rule) => Some(asked.reference(policy, rule)),
                        Matched::Later | Matched::No => None,
                    };
                    Considered {
                        policy: policy.name.clone(),
                        action: policy.action,
                        dry_run: policy.dry_run,
                        matched: rule,
                        needs_request: matched == Matched::Later,
                        asks_address: policy.asks_address(),
                        problem: self.problem(&policy.name),
                    }
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

/// What all policies say together.
enum Said {
    /// `None` where no ALLOW policy is of concern.
    Yes(Option<RuleRef>),
    No {
        rule: RuleRef,
        by: Action,
    },
    Later,
}

/// What the ALLOW policies of one group say; where there are none, nothing.
enum Allowed {
    Yes(RuleRef),
    /// The first of them.
    No(RuleRef),
    Later,
}

impl Asked<'_> {
    fn reference(&self, policy: &Compiled, rule: Option<u16>) -> RuleRef {
        policy.reference(rule, self.generation)
    }

    /// A DENY that matches, else the rule that allows. One that may match leaves open
    /// what would be allowed, and not what is denied.
    fn enforce(&self, entry: &WorkloadPolicies) -> Said {
        let mut may_deny = false;
        for (group, ports) in entry.groups(self.request.destination_port) {
            for policy in &group.deny {
                match policy.matching(self.request, ports) {
                    Matched::Rule(rule) => {
                        let (rule, by) = (self.reference(policy, rule), Action::Deny);
                        return Said::No { rule, by };
                    }
                    Matched::Later => may_deny = true,
                    Matched::No => {}
                }
            }
        }
        match self.let_in(entry) {
            Said::Yes(_) if may_deny => Said::Later,
            said => said,
        }
    }

    /// What the workload's own policies let in, or else those of every Service that
    /// leads to the port.
    fn let_in(&self, entry: &WorkloadPolicies) -> Said {
        let by = Action::Allow;
        let mut groups = entry.groups(self.request.destination_port);
        let own = groups.next().and_then(|own| self.allowed(own));
        if let Some(Allowed::Yes(rule)) = own {
            return Said::Yes(Some(rule));
        }
        let services = self.by_services(groups);
        match (own, services) {
            (_, Some(Allowed::Yes(rule))) => Said::Yes(Some(rule)),
            (Some(Allowed::Later), _) => Said::Later,
            (_, Some(Allowed::Later)) => Said::Later,
            (_, Some(Allowed::No(rule))) => Said::No { rule, by },
            (Some(Allowed::No(rule)), None) => Said::No { rule, by },
            (Some(Allowed::Yes(_)) | None, None) => Said::Yes(None),
        }
    }

    /// Each that has ALLOW policies has to.
    fn by_services<'g>(
        &self,
        groups: impl Iterator<Item = (&'g Group, Ports<'g>)>,
    ) -> Option<Allowed> {
        let mut said = None;
        for allowed in groups.filter_map(|group| self.allowed(group)) {
            said = match (said, allowed) {
                (_, no @ Allowed::No(_)) => return Some(no),
                (Some(Allowed::Later), _) | (_, Allowed::Later) => Some(Allowed::Later),
                (Some(first), Allowed::Yes(_)) => Some(first),
                (None, yes @ Allowed::Yes(_)) => Some(yes),
            };
        }
        said
    }

    fn allowed(&self, (group, ports): (&Group, Ports<'_>)) -> Option<Allowed> {
        let first = group.allow.first()?;
        let mut said = Allowed::No(self.reference(first, None));
        for policy in &group.allow {
            match policy.matching(self.request, ports) {
                Matched::Rule(rule) => return Some(Allowed::Yes(self.reference(policy, rule))),
                Matched::Later => said = Allowed::Later,
                Matched::No => {}
            }
        }
        Some(said)
    }

    /// Each dry-run policy by itself; an ALLOW that does not match would deny. What the
    /// head of a request decides is told of the request.
    fn rehearse(&self, entry: &WorkloadPolicies) -> DryRuns {
        let mut said = DryRuns::new();
        for (group, ports) in entry.groups(self.request.destination_port) {
            for policy in &group.dry_run {
                let matched = policy.matching(self.request, ports);
                let (rule, allowed) = match (policy.action, matched) {
                    (_, Matched::Later) | (Action::Deny, Matched::No) => continue,
                    (Action::Deny, Matched::Rule(rule)) => (rule, false),
                    (Action::Allow, Matched::Rule(rule)) => (rule, true),
                    (Action::Allow, Matched::No) => (None, false),
                };
                let rule = self.reference(policy, rule);
                said.push(DryRun { rule, allowed });
            }
        }
        said
    }
}
