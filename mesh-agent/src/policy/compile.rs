//! A policy's rules as tests to run.
//!
//! A rule is a conjunction of clauses, a clause a disjunction of alternatives,
//! an alternative a conjunction of tests.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Request;
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, Operation, Pattern, Rule, ServiceAccount, Source,
};
use crate::model::{RuleRef, SpiffeId};

#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) name: Arc<str>,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    generation: u64,
    /// Matches everything, for it is a DENY that is not understood.
    denies_all: bool,
    rules: Vec<(u16, Box<[Clause]>)>,
}

type Clause = Box<[Alternative]>;
type Alternative = Box<[Test]>;

#[derive(Debug)]
struct Test {
    what: What,
    negated: bool,
}

#[derive(Debug)]
enum What {
    Principal(Box<[Pattern]>),
    Namespace(Box<[Pattern]>),
    ServiceAccount(Box<[ServiceAccount]>),
    SourceIp(Box<[IpNet]>),
    DestinationIp(Box<[IpNet]>),
    Port(Box<[u16]>),
    Sni(Box<[Pattern]>),
}

pub(super) fn name(policy: &AuthorizationPolicy) -> Arc<str> {
    format!("{}/{}", policy.namespace, policy.name).into()
}

pub(super) fn has_http(rule: &Rule) -> bool {
    rule.from.iter().any(Source::has_http)
        || rule.to.iter().any(Operation::has_http)
        || rule
            .when
            .iter()
            .any(|c| matches!(c, Condition::Http { .. }))
}

impl Compiled {
    pub(super) fn new(policy: &AuthorizationPolicy, generation: u64) -> Self {
        let broken = policy.broken.is_some();
        let deny = policy.action == Action::Deny;
        let mut rules = Vec::new();
        let mut denies_all = broken && deny;
        for (index, rule) in policy.rules.iter().enumerate() {
            // Parts that need HTTP: in ALLOW the rule grants nothing, in DENY
            // they count as matching.
            if broken || (!deny && has_http(rule)) {
                continue;
            }
            match u16::try_from(index) {
                Ok(index) => rules.push((index, clauses(rule))),
                Err(_) => denies_all |= deny,
            }
        }
        Self {
            name: name(policy),
            action: policy.action,
            dry_run: policy.dry_run,
            generation,
            denies_all,
            rules,
        }
    }

    pub(super) fn reference(&self, rule: Option<u16>) -> RuleRef {
        RuleRef {
            policy: self.name.clone(),
            rule,
            generation: self.generation,
        }
    }

    /// Whether the caller's address is looked at.
    pub(super) fn asks_address(&self) -> bool {
        let clauses = self.rules.iter().flat_map(|(_, clauses)| clauses);
        let mut tests = clauses.flatten().flatten();
        tests.any(|test| matches!(test.what, What::SourceIp(_)))
    }

    pub(super) fn matching(&self, request: &Request<'_>) -> Option<RuleRef> {
        if self.denies_all {
            return Some(self.reference(None));
        }
        let deny = self.action == Action::Deny;
        let holds = |clause: &Clause| {
            clause
                .iter()
                .any(|tests| tests.iter().all(|test| test.holds(request, deny)))
        };
        self.rules
            .iter()
            .find(|(_, clauses)| clauses.iter().all(holds))
            .map(|(index, _)| self.reference(Some(*index)))
    }
}

fn clauses(rule: &Rule) -> Box<[Clause]> {
    let mut clauses: Vec<Clause> = Vec::new();
    // Ports first: they are the cheapest to compare.
    if !rule.to.is_empty() {
        clauses.push(rule.to.iter().map(operation).collect());
    }
    if !rule.from.is_empty() {
        clauses.push(rule.from.iter().map(source).collect());
    }
    for when in &rule.when {
        clauses.push([condition(when)].into());
    }
    clauses.into()
}

fn operation(operation: &Operation) -> Alternative {
    let mut tests = Vec::new();
    add(&mut tests, &operation.ports, What::Port);
    tests.into()
}

fn source(source: &Source) -> Alternative {
    let mut tests = Vec::new();
    add(&mut tests, &source.namespaces, What::Namespace);
    add(&mut tests, &source.service_accounts, What::ServiceAccount);
    add(&mut tests, &source.principals, What::Principal);
    add(&mut tests, &source.ip_blocks, What::SourceIp);
    tests.into()
}

fn condition(condition: &Condition) -> Alternative {
    let mut tests = Vec::new();
    match condition {
        Condition::Principal(m) => add(&mut tests, m, What::Principal),
        Condition::Namespace(m) => add(&mut tests, m, What::Namespace),
        Condition::ServiceAccount(m) => add(&mut tests, m, What::ServiceAccount),
        Condition::SourceIp(m) => add(&mut tests, m, What::SourceIp),
        Condition::DestinationIp(m) => add(&mut tests, m, What::DestinationIp),
        Condition::DestinationPort(m) => add(&mut tests, m, What::Port),
        Condition::Sni(m) => add(&mut tests, m, What::Sni),
        // Only in a DENY, where it counts as matching.
        Condition::Http { .. } => {}
    }
    tests.into()
}

fn add<T: Clone>(tests: &mut Vec<Test>, values: &Match<T>, what: fn(Box<[T]>) -> What) {
    for (list, negated) in [(&values.values, false), (&values.not_values, true)] {
        if !list.is_empty() {
            tests.push(Test {
                what: what(list.clone().into()),
                negated,
            });
        }
    }
}

impl Test {
    fn holds(&self, request: &Request<'_>, deny: bool) -> bool {
        let found = match &self.what {
            What::Principal(list) => identity(request, |id| any(list, id.principal())),
            What::Namespace(list) => identity(request, |id| any(list, id.namespace())),
            What::ServiceAccount(list) => identity(request, |id| {
                list.iter()
                    .any(|a| a.name == id.service_account() && a.namespace == id.namespace())
            }),
            What::SourceIp(list) => Some(within(list, request.source_ip)),
            What::DestinationIp(list) => Some(within(list, request.destination_ip)),
            What::Port(list) => Some(list.contains(&request.destination_port)),
            // Not known is not "absent": a DENY must not be passed by it.
            What::Sni(list) => match request.sni {
                Some(sni) => Some(any(list, sni)),
                None => return deny,
            },
        };
        match found {
            Some(found) => found != self.negated,
            // Without identity no ALLOW holds, negated or not; a DENY of
            // "everyone but" does.
            None => deny && self.negated,
        }
    }
}

fn identity(request: &Request<'_>, test: impl FnOnce(&SpiffeId) -> bool) -> Option<bool> {
    request.source.map(test)
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| match pattern {
        Pattern::Exact(exact) => text == exact,
        Pattern::Prefix(prefix) => text.starts_with(prefix),
        Pattern::Suffix(suffix) => text.ends_with(suffix),
        Pattern::Present => !text.is_empty(),
    })
}

fn within(blocks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    blocks.iter().any(|block| block.contains(&ip))
}
