//! Rules for connections: of TCPRoutes, and of TLSRoutes by the name that the
//! client asks for.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::attached::Permits;
use super::share::Share;
use crate::model::route::{
    BackendRef, BackendTarget, ConnectionRule, Route, RouteKind, RouteRule, Rules,
};

/// What is decided of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionDecision<'r> {
    /// Nobody has a route for this caller: the Service's own endpoints.
    Implicit,
    Forward {
        rule: &'r Arc<RouteRule>,
        backend: &'r BackendRef,
    },
    /// It is reset.
    Refused(ConnectionRefusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ConnectionRefusal {
    /// No route has the name that the client asks for, or it asks for none.
    NoRouteMatched,
    InvalidBackend,
    NoBackend,
}

/// Of TLSRoutes or of TCPRoutes.
#[derive(Debug)]
pub(super) struct ConnectionGroup {
    pub(super) kind: RouteKind,
    rules: Box<[Rule]>,
    /// Lower case; the number of a rule.
    exact: HashMap<Box<str>, u32, RandomState>,
    /// What stands behind `*.`.
    wildcard: HashMap<Box<str>, u32, RandomState>,
    /// Of the oldest route that names no host.
    any: Option<u32>,
}

#[derive(Debug)]
struct Rule {
    name: Arc<RouteRule>,
    total: u64,
    /// With the number that they are below; `None` cannot be used.
    backends: Box<[(u64, Option<BackendRef>)]>,
}

impl ConnectionGroup {
    /// Of routes of one kind, from the oldest to the youngest: of two that say the
    /// same the older one holds.
    pub(super) fn new(kind: RouteKind, routes: &[Arc<Route>], permits: Permits<'_>) -> Self {
        let mut group = Self {
            kind,
            rules: Box::default(),
            exact: HashMap::default(),
            wildcard: HashMap::default(),
            any: None,
        };
        let mut rules = Vec::new();
        for route in routes {
            let Rules::Connections(of_route) = &route.rules else {
                continue;
            };
            // A route has one rule: of more the first one holds.
            let Some(first) = of_route.first() else {
                continue;
            };
            let number = u32::try_from(rules.len()).unwrap_or(u32::MAX);
            rules.push(rule(route, first, permits));
            let names: &[Box<str>] = match kind {
                RouteKind::Tls => &route.hostnames,
                _ => &[],
            };
            if names.is_empty() {
                group.any.get_or_insert(number);
            }
            for name in names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut group.wildcard, rest),
                    None => (&mut group.exact, &**name),
                };
                names.entry(name.into()).or_insert(number);
            }
        }
        group.rules = rules.into();
        group
    }

    /// `sni`: lower case. Without one only routes that name no host match.
    pub(super) fn decide(
        &self,
        sni: Option<&str>,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> ConnectionDecision<'_> {
        match self.found(sni) {
            Some(rule) => rule.choose(random),
            None => ConnectionDecision::Refused(ConnectionRefusal::NoRouteMatched),
        }
    }

    /// Each decision that there can be, with its share.
    pub(super) fn every(&self, sni: Option<&str>) -> Vec<(Share, ConnectionDecision<'_>)> {
        let refused = |why| vec![(Share::ALL, ConnectionDecision::Refused(why))];
        let Some(rule) = self.found(sni) else {
            return refused(ConnectionRefusal::NoRouteMatched);
        };
        if rule.backends.is_empty() {
            return refused(ConnectionRefusal::NoBackend);
        }
        let shares = Share::of(rule.backends.iter().map(|(below, _)| *below));
        let decisions = rule.backends.iter().map(|(_, to)| rule.leads(to.as_ref()));
        shares.into_iter().zip(decisions).collect()
    }

    fn found(&self, sni: Option<&str>) -> Option<&Rule> {
        let rule = sni.and_then(|name| self.named(name)).or(self.any)?;
        self.rules.get(rule as usize)
    }

    /// The longest name that fits, a whole one first.
    fn named(&self, name: &str) -> Option<u32> {
        if let Some(number) = self.exact.get(name) {
            return Some(*number);
        }
        let mut rest = name;
        while let Some((_, behind)) = rest.split_once('.') {
            if let Some(number) = self.wildcard.get(behind) {
                return Some(*number);
            }
            rest = behind;
        }
        None
    }
}

impl Rule {
    fn choose(&self, random: &mut dyn FnMut(u64) -> u64) -> ConnectionDecision<'_> {
        let number = match &*self.backends {
            [] => return ConnectionDecision::Refused(ConnectionRefusal::NoBackend),
            [_] => 0,
            _ => random(self.total),
        };
        let mut backends = self.backends.iter();
        let chosen = backends.find(|(below, _)| number < *below);
        self.leads(chosen.and_then(|(_, to)| to.as_ref()))
    }

    fn leads<'r>(&'r self, to: Option<&'r BackendRef>) -> ConnectionDecision<'r> {
        match to {
            Some(backend) => ConnectionDecision::Forward {
                rule: &self.name,
                backend,
            },
            None => ConnectionDecision::Refused(ConnectionRefusal::InvalidBackend),
        }
    }
}

fn rule(route: &Route, rule: &ConnectionRule, permits: Permits<'_>) -> Rule {
    let mut total = 0;
    let weighing = rule.backends.iter().filter(|backend| backend.weight > 0);
    let backends = weighing.map(|backend| {
        total += u64::from(backend.weight);
        let to = match &backend.to {
            BackendTarget::Service(to) if permits(route, to) => Some(to.clone()),
            _ => None,
        };
        (total, to)
    });
    let backends = backends.collect();
    let name = RouteRule::new(route.key.clone(), 0, rule.name.clone());
    Rule {
        name: Arc::new(name),
        total,
        backends,
    }
}
