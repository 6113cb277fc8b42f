//! A policy's rules as tests to run.
//!
//! A rule is a conjunction of clauses, a clause a disjunction of alternatives,
//! an alternative a conjunction of tests.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::principal::{localize, nobody};
use super::reach::Ports;
use super::request::Request;
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, MeshSettings, Operation, Pattern, Rule,
    ServiceAccount, Source,
};
use crate::model::{RuleRef, ServiceKey, SpiffeId};

#[derive(Debug)]
pub(super) struct Compiled {
    /// What it is compiled from.
    pub(super) policy: Arc<AuthorizationPolicy>,
    /// A Service that it is for, and of which not all is known.
    pub(super) missing: Option<ServiceKey>,
    pub(super) name: Arc<str>,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    /// Why it is not in force as it is written.
    pub(super) broken: Option<String>,
    /// Matches everything, for it is a DENY that is not understood.
    denies_all: bool,
    /// Its Service is not known, so what `ports` means is not.
    unbound: bool,
    rules: Vec<(u16, Box<[Clause]>)>,
}

/// The index of the rule, where it is one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matched(pub(super) Option<u16>);

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

/// Parts that need HTTP.
pub fn has_http(rule: &Rule) -> bool {
    rule.from.iter().any(Source::has_http)
        || rule.to.iter().any(Operation::has_http)
        || rule
            .when
            .iter()
            .any(|c| matches!(c, Condition::Http { .. }))
}

pub fn has_sni(rule: &Rule) -> bool {
    rule.when.iter().any(|c| matches!(c, Condition::Sni(_)))
}

/// Why the rules cannot be gone by. A DENY of a principal that no peer can have
/// would deny nobody, and an exception of one except nobody.
fn mistake(policy: &AuthorizationPolicy, settings: &MeshSettings) -> Option<String> {
    let mut principals = policy.rules.iter().flat_map(principals);
    let mut impossible = || principals.find(|written| localize(written, settings).is_empty());
    let nobody = |written: &Pattern| nobody(&written.to_string(), settings);
    let given = policy.broken.clone();
    given.or_else(|| impossible().map(nobody))
}

/// Of all parts of the rule.
fn principals(rule: &Rule) -> impl Iterator<Item = &Pattern> {
    let when = rule.when.iter().filter_map(|condition| match condition {
        Condition::Principal(list) => Some(list),
        _ => None,
    });
    let from = rule.from.iter().map(|source| &source.principals);
    from.chain(when)
        .flat_map(|list| list.values.iter().chain(&list.not_values))
}

impl Compiled {
    pub(super) fn new(
        policy: &Arc<AuthorizationPolicy>,
        missing: Option<&ServiceKey>,
        settings: &MeshSettings,
    ) -> Self {
        let deny = policy.action == Action::Deny;
        let mistake = mistake(policy, settings);
        // Without its Service a DENY still knows whom it denies, an ALLOW
        // whom it lets in, but not to what.
        let is_whole = mistake.is_none() && (deny || missing.is_none());
        let denies_all = mistake.is_some() && deny;
        let no_service = |service: &ServiceKey| {
            format!("there is no Service {service}, or not all of it can be read")
        };
        let broken = mistake.or_else(|| missing.filter(|_| !deny).map(no_service));
        let mut rules = Vec::new();
        let mut denies_all = denies_all;
        for (index, rule) in policy.rules.iter().enumerate() {
            // Parts that need HTTP: in ALLOW the rule grants nothing, in DENY
            // they count as matching.
            if !is_whole || (!deny && has_http(rule)) {
                continue;
            }
            match u16::try_from(index) {
                Ok(index) => rules.push((index, clauses(rule, settings))),
                Err(_) => denies_all |= deny,
            }
        }
        Self {
            policy: policy.clone(),
            missing: missing.cloned(),
            name: name(policy),
            action: policy.action,
            dry_run: policy.dry_run,
            broken,
            denies_all,
            unbound: missing.is_some(),
            rules,
        }
    }

    /// In the configuration of this generation, whenever it was compiled.
    pub(super) fn reference(&self, rule: Option<u16>, generation: u64) -> RuleRef {
        RuleRef {
            policy: self.name.clone(),
            rule,
            generation,
        }
    }

    /// Whether the caller's address is looked at.
    pub(super) fn asks_address(&self) -> bool {
        let clauses = self.rules.iter().flat_map(|(_, clauses)| clauses);
        let mut tests = clauses.flatten().flatten();
        tests.any(|test| matches!(test.what, What::SourceIp(_)))
    }

    /// The rule that matches, which a DENY of everything has none of. `ports`:
    /// what the rules' ports are held to.
    pub(super) fn matching(&self, request: &Request<'_>, ports: Ports<'_>) -> Option<Matched> {
        if self.denies_all {
            return Some(Matched(None));
        }
        let deny = self.action == Action::Deny;
        let ports = if self.unbound { Ports::Unknown } else { ports };
        let holds = |clause: &Clause| {
            let all = |tests: &Alternative| tests.iter().all(|t| t.holds(request, ports, deny));
            clause.iter().any(all)
        };
        self.rules
            .iter()
            .find(|(_, clauses)| clauses.iter().all(holds))
            .map(|(index, _)| Matched(Some(*index)))
    }
}

fn clauses(rule: &Rule, settings: &MeshSettings) -> Box<[Clause]> {
    let mut clauses: Vec<Clause> = Vec::new();
    // Ports first: they are the cheapest to compare.
    if !rule.to.is_empty() {
        clauses.push(rule.to.iter().map(operation).collect());
    }
    if !rule.from.is_empty() {
        clauses.push(rule.from.iter().map(|s| source(s, settings)).collect());
    }
    for when in &rule.when {
        clauses.push([condition(when, settings)].into());
    }
    clauses.into()
}

fn operation(operation: &Operation) -> Alternative {
    let mut tests = Vec::new();
    add(&mut tests, &operation.ports, What::Port);
    tests.into()
}

fn source(source: &Source, settings: &MeshSettings) -> Alternative {
    let mut tests = Vec::new();
    add(&mut tests, &source.namespaces, What::Namespace);
    add(&mut tests, &source.service_accounts, What::ServiceAccount);
    let principals = localized(&source.principals, settings);
    add(&mut tests, &principals, What::Principal);
    add(&mut tests, &source.ip_blocks, What::SourceIp);
    tests.into()
}

fn condition(condition: &Condition, settings: &MeshSettings) -> Alternative {
    let mut tests = Vec::new();
    match condition {
        Condition::Principal(m) => add(&mut tests, &localized(m, settings), What::Principal),
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

fn localized(written: &Match<Pattern>, settings: &MeshSettings) -> Match<Pattern> {
    let all = |list: &[Pattern]| list.iter().flat_map(|p| localize(p, settings)).collect();
    Match {
        values: all(&written.values),
        not_values: all(&written.not_values),
    }
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
    fn holds(&self, request: &Request<'_>, ports: Ports<'_>, deny: bool) -> bool {
        let found = match &self.what {
            What::Principal(list) => identity(request, |id| any(list, id.principal())),
            What::Namespace(list) => identity(request, |id| any(list, id.namespace())),
            What::ServiceAccount(list) => identity(request, |id| {
                list.iter()
                    .any(|a| a.name == id.service_account() && a.namespace == id.namespace())
            }),
            What::SourceIp(list) => Some(within(list, request.source_ip)),
            What::DestinationIp(list) => Some(within(list, request.destination_ip)),
            // Of which port of the Service it is, cannot be told: as below.
            What::Port(list) => match ports.within(list) {
                Some(found) => Some(found),
                None => return deny,
            },
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
    patterns.iter().any(|pattern| pattern.matches(text))
}

fn within(blocks: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    blocks.iter().any(|block| block.contains(&ip))
}
