//! A policy's rules as predicates to run.
//!
//! A rule is a conjunction of clauses, a clause a disjunction of alternatives,
//! an alternative a conjunction of predicates.

use std::sync::Arc;

use super::predicate::{Answer, Needs, Predicate, What};
use super::principal::{localize, nobody};
use super::reach::Ports;
use super::request::Request;
use crate::model::policy::{
    Action, AuthorizationPolicy, Condition, Match, MeshSettings, Operation, Pattern, Rule, Source,
};
use crate::model::{RuleRef, ServiceKey};

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

/// Whether one of a policy's rules matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    No,
    /// One may: the head of a request says it.
    Later,
    /// Its index, where it is one rule.
    Rule(Option<u16>),
}

type Clause = Box<[Alternative]>;
type Alternative = Box<[Predicate]>;

pub(super) fn name(policy: &AuthorizationPolicy) -> Arc<str> {
    format!("{}/{}", policy.namespace, policy.name).into()
}

/// It is decided for each request.
pub(crate) fn has_http(rule: &Rule) -> bool {
    let by_head = |condition: &Condition| match condition {
        Condition::Host(_) | Condition::Method(_) | Condition::Header { .. } => true,
        Condition::Principal(_)
        | Condition::Namespace(_)
        | Condition::ServiceAccount(_)
        | Condition::SourceIp(_)
        | Condition::DestinationIp(_)
        | Condition::DestinationPort(_)
        | Condition::Sni(_)
        | Condition::Unserved { .. } => false,
    };
    rule.to.iter().any(Operation::has_http) || rule.when.iter().any(by_head)
}

/// Parts of it are never known here.
pub(crate) fn is_unserved(rule: &Rule) -> bool {
    let is = |condition: &Condition| matches!(condition, Condition::Unserved { .. });
    rule.from.iter().any(Source::is_unserved) || rule.when.iter().any(is)
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
            if !is_whole {
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
        let mut predicates = clauses.flatten().flatten();
        predicates.any(|predicate| matches!(predicate.what, What::SourceIp(_)))
    }

    /// The rule that matches, which a DENY of everything has none of. `ports`:
    /// what the rules' ports are held to.
    pub(super) fn matching(&self, request: &Request<'_>, ports: Ports<'_>) -> Matched {
        if self.denies_all {
            return Matched::Rule(None);
        }
        let mut matched = Matched::No;
        for (index, clauses) in &self.rules {
            match self.answer(clauses, request, ports) {
                Answer::Yes => return Matched::Rule(Some(*index)),
                Answer::Later => matched = Matched::Later,
                Answer::No => {}
            }
        }
        matched
    }

    fn answer(&self, clauses: &[Clause], request: &Request<'_>, ports: Ports<'_>) -> Answer {
        let deny = self.action == Action::Deny;
        let ports = if self.unbound { Ports::Unknown } else { ports };
        let all = |predicates: &Alternative| {
            let answers = predicates.iter().map(|p| p.holds(request, ports, deny));
            least(answers)
        };
        least(
            clauses
                .iter()
                .map(|clause| greatest(clause.iter().map(all))),
        )
    }

    /// What of a head the rules look at whose answer it decides.
    pub(super) fn add_needs(&self, request: &Request<'_>, ports: Ports<'_>, needs: &mut Needs) {
        for (_, clauses) in &self.rules {
            if self.answer(clauses, request, ports) == Answer::Later {
                let predicates = clauses.iter().flatten().flatten();
                predicates.for_each(|predicate| needs.add(&predicate.what));
            }
        }
    }
}

/// Of none it is yes.
fn least(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut least = Answer::Yes;
    for answer in answers {
        least = least.min(answer);
        if least == Answer::No {
            break;
        }
    }
    least
}

/// Of none it is no.
fn greatest(answers: impl Iterator<Item = Answer>) -> Answer {
    let mut greatest = Answer::No;
    for answer in answers {
        greatest = greatest.max(answer);
        if greatest == Answer::Yes {
            break;
        }
    }
    greatest
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
    let mut predicates = Vec::new();
    add(&mut predicates, &operation.ports, What::Port);
    add(&mut predicates, &operation.methods, What::Method);
    add(&mut predicates, &operation.hosts, What::Host);
    add(&mut predicates, &operation.paths, What::Path);
    predicates.into()
}

fn source(source: &Source, settings: &MeshSettings) -> Alternative {
    let mut predicates = Vec::new();
    add(&mut predicates, &source.namespaces, What::Namespace);
    add(
        &mut predicates,
        &source.service_accounts,
        What::ServiceAccount,
    );
    let principals = localized(&source.principals, settings);
    add(&mut predicates, &principals, What::Principal);
    add(&mut predicates, &source.ip_blocks, What::SourceIp);
    if source.is_unserved() {
        predicates.push(unserved());
    }
    predicates.into()
}

fn condition(condition: &Condition, settings: &MeshSettings) -> Alternative {
    let mut predicates = Vec::new();
    match condition {
        Condition::Principal(m) => add(&mut predicates, &localized(m, settings), What::Principal),
        Condition::Namespace(m) => add(&mut predicates, m, What::Namespace),
        Condition::ServiceAccount(m) => add(&mut predicates, m, What::ServiceAccount),
        Condition::SourceIp(m) => add(&mut predicates, m, What::SourceIp),
        Condition::DestinationIp(m) => add(&mut predicates, m, What::DestinationIp),
        Condition::DestinationPort(m) => add(&mut predicates, m, What::Port),
        Condition::Sni(m) => add(&mut predicates, m, What::Sni),
        Condition::Host(m) => add(&mut predicates, m, What::Host),
        Condition::Method(m) => add(&mut predicates, m, What::Method),
        Condition::Header { name, values } => add(&mut predicates, values, |values| What::Header {
            name: name.as_str().into(),
            values,
        }),
        Condition::Unserved { .. } => predicates.push(unserved()),
    }
    predicates.into()
}

fn localized(written: &Match<Pattern>, settings: &MeshSettings) -> Match<Pattern> {
    let all = |list: &[Pattern]| list.iter().flat_map(|p| localize(p, settings)).collect();
    Match {
        values: all(&written.values),
        not_values: all(&written.not_values),
    }
}

fn unserved() -> Predicate {
    Predicate {
        what: What::Unserved,
        negated: false,
    }
}

fn add<T: Clone>(
    predicates: &mut Vec<Predicate>,
    values: &Match<T>,
    what: impl Fn(Box<[T]>) -> What,
) {
    for (list, negated) in [(&values.values, false), (&values.not_values, true)] {
        if !list.is_empty() {
            predicates.push(Predicate {
                what: what(list.clone().into()),
                negated,
            });
        }
    }
}
