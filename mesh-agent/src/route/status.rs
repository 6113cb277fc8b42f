//! How a route fares with each Service that it names, in the API's words.

use std::collections::{BTreeMap, HashMap};

use super::attached::{self, ports};
use crate::model::http_route::{Filter, HttpRule};
use crate::model::route::{BackendTarget, ParentRef, Route, RouteKey, RouteKind, Rules};
use crate::model::{Name, Service, ServiceKey, Snapshot};

/// Of one of its parents; those that are no Services are somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentStatus {
    pub(crate) parent: ParentRef,
    pub(crate) conditions: Vec<RouteCondition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteCondition {
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    /// One of the API's words.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl RouteCondition {
    fn new(kind: &'static str, reason: &'static str, message: String) -> Self {
        // What holds has the condition's own name as its reason.
        let holds = reason == kind || kind == PARTIALLY_INVALID;
        Self {
            kind,
            holds,
            reason,
            message,
        }
    }
}

const ACCEPTED: &str = "Accepted";
const RESOLVED_REFS: &str = "ResolvedRefs";
const PARTIALLY_INVALID: &str = "PartiallyInvalid";
const UNSUPPORTED_VALUE: &str = "UnsupportedValue";

/// Which route is the first of each group on the ports of Services, of one snapshot: found once
/// for all routes of a port. To look at all of them for each takes minutes where there are tens of
/// thousands.
#[derive(Debug, Default)]
pub(crate) struct Firsts(HashMap<(ServiceKey, u16), BTreeMap<Name, First>>);

#[derive(Debug)]
struct First {
    kind: RouteKind,
    key: RouteKey,
}

impl Firsts {
    fn of(&mut self, snapshot: &Snapshot, service: &Service, port: u16) -> &BTreeMap<Name, First> {
        let found = self.0.entry((service.key.clone(), port));
        found.or_insert_with(|| {
            let groups = attached::groups(snapshot, service, port).into_iter();
            let first = |(namespace, group): (Name, attached::Group)| {
                let (kind, key) = (group.kind, group.routes.first()?.key.clone());
                Some((namespace, First { kind, key }))
            };
            groups.filter_map(first).collect()
        })
    }
}

/// Of one route alone.
#[cfg(test)]
pub(crate) fn status(snapshot: &Snapshot, route: &Route) -> Vec<ParentStatus> {
    status_by(&mut Firsts::default(), snapshot, route)
}

/// Of what a route says now, beside all that the snapshot has: the one of which `firsts` are.
#[must_use]
pub(crate) fn status_by(
    firsts: &mut Firsts,
    snapshot: &Snapshot,
    route: &Route,
) -> Vec<ParentStatus> {
    let own = &route.key.namespace;
    let parents = route.parents.iter();
    let parents = parents.filter_map(|parent| Some((parent, parent.service(own)?)));
    let of_parent = |(parent, service): (&ParentRef, ServiceKey)| {
        let accepted = accepted((snapshot, &mut *firsts), route, parent, &service);
        let is_accepted = accepted.holds;
        let mut conditions = vec![accepted, resolved(snapshot, route, &service)];
        let dropped = unserved(route);
        if is_accepted && !dropped.is_empty() {
            let message = format!(
                "Dropped Rule: {}; its requests are answered with an error",
                dropped.join("; ")
            );
            let partly = RouteCondition::new(PARTIALLY_INVALID, UNSUPPORTED_VALUE, message);
            conditions.push(partly);
        }
        ParentStatus {
            parent: parent.clone(),
            conditions,
        }
    };
    parents.map(of_parent).collect()
}

fn accepted(
    (snapshot, firsts): (&Snapshot, &mut Firsts),
    route: &Route,
    parent: &ParentRef,
    key: &ServiceKey,
) -> RouteCondition {
    let not = |reason, message| RouteCondition::new(ACCEPTED, reason, message);
    if let Some(fault) = &route.fault {
        let instead = match route.is_known {
            true => "its last good version holds",
            false => "it is as if there were no such route where no last good version is known",
        };
        return not(UNSUPPORTED_VALUE, format!("{fault}; {instead}"));
    }
    let Some(service) = snapshot.services.get(key) else {
        return not("NoMatchingParent", format!("there is no Service {key}"));
    };
    if service.is_headless() {
        let message = format!("Service {key} has no address of its own: it is called by its pods'");
        return not("NoMatchingParent", message);
    }
    let named: Vec<u16> = ports(parent, service).collect();
    if named.is_empty() {
        return not(
            "NoMatchingParent",
            format!("Service {key} has no such port"),
        );
    }
    let lost = lost((snapshot, firsts), route, service, &named);
    if let Some((_, to)) = lost.first()
        && lost.len() == named.len()
    {
        return not("Conflicted", format!("{to} holds on the same port"));
    }
    if !unserved(route).is_empty() && unserved(route).len() == rules(route) {
        let message = unserved(route).join("; ");
        return not(
            UNSUPPORTED_VALUE,
            format!("{message}; requests are answered with an error"),
        );
    }
    let kept = named
        .iter()
        .filter(|port| !lost.iter().any(|(lost, _)| lost == *port));
    let kept: Vec<String> = kept.map(u16::to_string).collect();
    let who = match *route.key.namespace == *key.namespace {
        true => "of all callers".to_owned(),
        false => format!("of callers in {}", route.key.namespace),
    };
    let mut message = format!(
        "it holds on {key} port {}, for requests {who}",
        kept.join(", ")
    );
    for (port, to) in lost {
        message.push_str(&format!("; on port {port} {to} holds"));
    }
    RouteCondition::new(ACCEPTED, ACCEPTED, message)
}

/// The ports on which another route of its group holds instead, and which one.
fn lost(
    (snapshot, firsts): (&Snapshot, &mut Firsts),
    route: &Route,
    service: &Service,
    named: &[u16],
) -> Vec<(u16, String)> {
    let of_port = |port: &u16| {
        let groups = firsts.of(snapshot, service, *port);
        let first = groups.get(&route.key.namespace)?;
        let is_in = match route.key.kind {
            // Of these one alone holds.
            RouteKind::Tcp => first.key == route.key,
            _ => first.kind == route.key.kind,
        };
        (!is_in).then(|| (*port, first.key.to_string()))
    };
    named.iter().filter_map(of_port).collect()
}

fn rules(route: &Route) -> usize {
    match &route.rules {
        Rules::Http(rules) => rules.len(),
        Rules::Connections(rules) => rules.len(),
    }
}

/// What of which rule is not served, one text for each of these rules.
fn unserved(route: &Route) -> Vec<String> {
    let Rules::Http(rules) = &route.rules else {
        return Vec::new();
    };
    let of_rule = |(number, rule): (usize, &HttpRule)| {
        let of_backends = rule
            .backends
            .iter()
            .flat_map(|backend| backend.filters.iter());
        let mut filters = rule.filters.iter().chain(of_backends);
        filters.find_map(|filter| match filter {
            Filter::Unsupported(what) => {
                Some(format!("spec.rules[{number}]: {what} is not served"))
            }
            _ => None,
        })
    };
    rules.iter().enumerate().filter_map(of_rule).collect()
}

fn resolved(snapshot: &Snapshot, route: &Route, parent: &ServiceKey) -> RouteCondition {
    let unresolved = targets(route)
        .into_iter()
        .find_map(|to| unresolved(snapshot, route, parent, to));
    match unresolved {
        Some((reason, message)) => RouteCondition::new(RESOLVED_REFS, reason, message),
        None => {
            let message = "all that it leads to is there".to_owned();
            RouteCondition::new(RESOLVED_REFS, RESOLVED_REFS, message)
        }
    }
}

/// Backends, and those that get copies.
fn targets(route: &Route) -> Vec<&BackendTarget> {
    let mut all = Vec::new();
    match &route.rules {
        Rules::Connections(rules) => {
            let backends = rules.iter().flat_map(|rule| rule.backends.iter());
            all.extend(backends.map(|backend| &backend.to));
        }
        Rules::Http(rules) => {
            for rule in rules {
                all.extend(rule.backends.iter().map(|backend| &backend.to));
                let of_backends = rule.backends.iter().flat_map(|b| b.filters.iter());
                let filters = rule.filters.iter().chain(of_backends);
                all.extend(filters.filter_map(|filter| match filter {
                    Filter::Mirror(mirror) => Some(&mirror.to),
                    _ => None,
                }));
            }
        }
    }
    all
}

/// Leave is looked at first: who may not lead there is not told what is there.
fn unresolved(
    snapshot: &Snapshot,
    route: &Route,
    parent: &ServiceKey,
    to: &BackendTarget,
) -> Option<(&'static str, String)> {
    let to = match to {
        BackendTarget::Service(to) => to,
        BackendTarget::Invalid(what) => {
            return Some(("InvalidKind", format!("{what} is no Service")));
        }
    };
    if !attached::permits(snapshot, parent, route, to) {
        let namespace: &Name = &to.service.namespace;
        let message = format!("no ReferenceGrant of {namespace} lets the route lead to {to}");
        return Some(("RefNotPermitted", message));
    }
    let service = snapshot.services.get(&to.service);
    match service.map(|service| service.port(to.port)) {
        Some(Some(_)) => None,
        Some(None) => {
            let message = format!("Service {} has no port {}", to.service, to.port);
            Some(("BackendNotFound", message))
        }
        None => Some((
            "BackendNotFound",
            format!("there is no Service {}", to.service),
        )),
    }
}
