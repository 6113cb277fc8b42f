//! What is in force as it is written, and may not be what was meant.
//!
//! Also the mistakes that only the whole configuration shows: a principal that
//! no peer can have. Here they are told; what follows from them is the authorizer's.

mod http_ports;
mod known;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use super::kinds::KindId;
use super::objects::{Kind, Object};
use super::store::{Store, Touched};
use super::{Code, Problem};
use crate::model::policy::{
    AuthorizationPolicy, Condition, Match, Pattern, PeerAuthentication, Scope, ServiceAccount,
};
use crate::model::route::Route;
use crate::model::traffic_policy::TrafficPolicy;
use crate::model::{Name, Service, Snapshot, TargetPort, Workload};
use crate::policy::{self, Authorizer, Level};
use crate::route::{Firsts, status_by};
use crate::traffic::Holders;
use known::Known;

/// Problems of objects that parse, by what the configuration has beside them:
/// of each namespace, as far as they follow from it and from who there is.
#[derive(Debug, Default)]
pub(super) struct Lint {
    problems: BTreeMap<Name, Vec<Problem>>,
    known: Known,
}

impl Lint {
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// Looks again at what the change is about; are there other problems now?
    pub(super) fn update(
        &mut self,
        store: &Store,
        (snapshot, authorizer): (&Snapshot, &Authorizer),
        touched: &Touched,
    ) -> bool {
        let mut again: BTreeSet<Name> = touched.namespaces.clone();
        again.extend(touched.told.iter().cloned());
        let named = again.iter().flat_map(|namespace| store.naming(namespace));
        let named: Vec<Name> = named.cloned().collect();
        again.extend(named);
        if touched.all {
            again.extend(store.namespaces());
            again.extend(self.problems.keys().cloned());
        }
        if again.is_empty() {
            return false;
        }
        let mut others = false;
        for namespace in &again {
            others |= self.known.look(namespace, snapshot);
        }
        if others {
            again.extend(snapshot.policies.namespaces().cloned());
        }
        // These are about pods of all namespaces.
        again.insert(snapshot.settings.root_namespace.as_str().into());
        let policies = snapshot.policies.iter();
        let of_mesh = policies.filter(|policy| policy.scope == Scope::Mesh);
        again.extend(of_mesh.map(|policy| Name::from(&policy.namespace)));
        let status = authorizer.status().iter();
        let mut linter = Linter {
            snapshot,
            known: &self.known,
            selected: status.map(|s| (&*s.policy, s.workloads)).collect(),
            holders: Holders::default(),
            firsts: Firsts::default(),
            problems: Vec::new(),
        };
        let mut is_changed = false;
        for namespace in again {
            linter.namespace(store, &namespace);
            let problems = std::mem::take(&mut linter.problems);
            let before = match problems.is_empty() {
                true => self.problems.remove(&namespace),
                false => self.problems.insert(namespace.clone(), problems),
            };
            is_changed |= before.as_ref() != self.problems.get(&namespace);
        }
        is_changed
    }
}

struct Linter<'s> {
    snapshot: &'s Snapshot,
    known: &'s Known,
    /// How many workloads each policy selects.
    selected: HashMap<&'s str, usize>,
    /// Of the namespace that is looked at.
    holders: Holders,
    firsts: Firsts,
    problems: Vec<Problem>,
}

/// A value of a rule that says who.
#[derive(Clone, Copy)]
enum Who<'p> {
    Principal(&'p Pattern),
    Namespace(&'p Pattern),
    Account(&'p ServiceAccount),
}

impl Linter<'_> {
    fn namespace(&mut self, store: &Store, namespace: &Name) {
        for kind in [
            KindId::AuthorizationPolicy,
            KindId::PeerAuthentication,
            KindId::Service,
        ]
        .into_iter()
        .chain(KindId::TRAFFIC)
        .chain(KindId::ROUTES)
        {
            for object in store.in_namespace(kind, namespace) {
                match &object.kind {
                    Kind::AuthorizationPolicy(policy) if policy.broken.is_none() => {
                        self.policy(object, policy);
                    }
                    Kind::PeerAuthentication(peer) if peer.broken.is_none() => {
                        self.peer(object, peer);
                    }
                    Kind::Service(_) => self.service(object),
                    kind => {
                        if let Some(policy) = kind.traffic_policy() {
                            self.traffic_policy(object, policy);
                        }
                        if let Some(route) = kind.route() {
                            self.route(object, route);
                        }
                    }
                }
            }
        }
    }

    /// The same of a TrafficPolicy.
    fn traffic_policy(&mut self, object: &Object, policy: &TrafficPolicy) {
        if policy.fault.is_some() {
            return;
        }
        self.holders.follow(self.snapshot, &policy.namespace);
        let now = SystemTime::now();
        let all = self.holders.status(self.snapshot, policy, now);
        for target in all.into_iter().filter(|target| !target.is_accepted) {
            let code = match target.reason {
                "Conflicted" => Code::Shadowed,
                _ => Code::Ignored,
            };
            self.tell(object, code, "spec.targetRefs", target.message);
        }
    }

    /// With each of its Services; a mistake of its own is told by itself.
    fn route(&mut self, object: &Object, route: &Route) {
        if route.fault.is_some() {
            return;
        }
        let parents = status_by(&mut self.firsts, self.snapshot, route).into_iter();
        let conditions = parents.flat_map(|parent| parent.conditions);
        let mut told = BTreeSet::new();
        for condition in conditions.filter(|one| !one.holds) {
            // Of several parents it may be the same.
            if told.insert(condition.message.clone()) {
                let (code, field) = match condition.reason {
                    "Conflicted" => (Code::Shadowed, "spec.parentRefs"),
                    "NoMatchingParent" => (Code::Ignored, "spec.parentRefs"),
                    "UnsupportedValue" => continue,
                    _ => (Code::Ignored, "spec.rules"),
                };
                self.tell(object, code, field, condition.message);
            }
        }
    }

    fn tell(&mut self, object: &Object, code: Code, field: &str, message: String) {
        self.problems.push(object.problem_of(code, field, message));
    }

    fn policy(&mut self, object: &Object, policy: &AuthorizationPolicy) {
        let name = format!("{}/{}", policy.namespace, policy.name);
        if self.selected.get(&*name) == Some(&0) {
            let field = match &policy.scope {
                Scope::Services(_) => "spec.targetRefs",
                Scope::Labels(_) => "spec.selector",
                Scope::Mesh | Scope::Namespace => "metadata.namespace",
            };
            let message = "the policy selects no workload".to_owned();
            self.tell(object, Code::SelectsNothing, field, message);
        }
        self.missing_service(object, policy);
        for (field, who) in named(policy) {
            self.who(object, &field, who);
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            if policy::is_unserved(rule) {
                let effect = effect(policy);
                let message = format!("the rule asks for {}: {effect}", policy::UNSERVED);
                let field = format!("spec.rules[{i}]");
                self.tell(object, Code::NotDecided, &field, message);
            }
        }
        self.service_ports(object, policy);
        self.http_ports(object, policy);
    }

    /// One that is not there would leave its pods open.
    fn missing_service(&mut self, object: &Object, policy: &AuthorizationPolicy) {
        let Scope::Services(services) = &policy.scope else {
            return;
        };
        for (i, service) in services.iter().enumerate() {
            if !self.snapshot.services.contains_key(service) {
                let message = format!(
                    "there is no Service {service}: the policy is taken to be for its whole namespace"
                );
                let field = format!("spec.targetRefs[{i}]");
                self.tell(object, Code::NoSuchService, &field, message);
            }
        }
    }

    fn who(&mut self, object: &Object, field: &str, who: Who<'_>) {
        let settings = &self.snapshot.settings;
        let found = match who {
            Who::Principal(written) => {
                let own = policy::localize(written, settings);
                if own.is_empty() {
                    let message = policy::nobody(&written.to_string(), settings);
                    return self.tell(object, Code::ImpossiblePrincipal, field, message);
                }
                own.iter().any(|pattern| self.known.is_principal(pattern))
            }
            Who::Namespace(written) => self.known.is_namespace(written),
            Who::Account(account) => self.known.is_account(account),
        };
        if !found {
            let written = match who {
                Who::Principal(written) | Who::Namespace(written) => written.to_string(),
                Who::Account(account) => format!("{}/{}", account.namespace, account.name),
            };
            let message = format!("no pod of the configuration is {written:?}");
            self.tell(object, Code::NobodyIsThat, field, message);
        }
    }

    /// `ports` of a policy for a Service is the Service's.
    fn service_ports(&mut self, object: &Object, policy: &AuthorizationPolicy) {
        let Scope::Services(names) = &policy.scope else {
            return;
        };
        let services: Option<Vec<_>> = names
            .iter()
            .map(|name| self.snapshot.services.get(name))
            .collect();
        let Some(services) = services else {
            return;
        };
        for (i, rule) in policy.rules.iter().enumerate() {
            let to = rule.to.iter().enumerate();
            let to = to.map(|(j, to)| (format!("to[{j}].operation.ports"), &to.ports));
            let when = rule.when.iter().enumerate();
            let when = when.filter_map(|(j, when)| match when {
                Condition::DestinationPort(ports) => Some((format!("when[{j}].values"), ports)),
                _ => None,
            });
            for (field, ports) in to.chain(when) {
                let unknown = |port: &&u16| services.iter().all(|s| s.port(**port).is_none());
                if let Some(port) = ports.values.iter().find(unknown) {
                    let message = format!(
                        "the Service has no port {port}: for a Service its own ports count, not the pods'"
                    );
                    let field = format!("spec.rules[{i}].{field}");
                    self.tell(object, Code::NoSuchPort, &field, message);
                }
            }
        }
    }

    fn peer(&mut self, object: &Object, peer: &PeerAuthentication) {
        let root = &self.snapshot.settings.root_namespace;
        let Some(level) = policy::level(peer, root) else {
            let message = format!(
                "in the root namespace {root} a selector selects nothing: the object is ignored"
            );
            return self.tell(object, Code::Ignored, "spec.selector", message);
        };
        // One for the whole mesh selects all that there is.
        let workloads = self.snapshot.workloads.in_namespace(&peer.namespace);
        let selected: Vec<_> = workloads
            .filter(|w| policy::selects(peer, w, root))
            .collect();
        let is_about_nobody = match level {
            Level::Mesh => self.snapshot.workloads.is_empty(),
            Level::Namespace | Level::Workload => selected.is_empty(),
        };
        if is_about_nobody {
            let message = "it selects no workload".to_owned();
            let field = match level {
                Level::Workload => "spec.selector",
                Level::Namespace | Level::Mesh => "metadata.namespace",
            };
            self.tell(object, Code::SelectsNothing, field, message);
        }
        self.shadowed(object, peer, level, &selected);
        for port in peer.ports.keys() {
            self.port(object, peer, *port, &selected);
        }
    }

    /// Another one of the same level selects the same workload and holds.
    fn shadowed(
        &mut self,
        object: &Object,
        peer: &PeerAuthentication,
        level: Level,
        selected: &[&std::sync::Arc<Workload>],
    ) {
        let root = &self.snapshot.settings.root_namespace;
        let all = self.snapshot.peer_authentications.of(&peer.namespace);
        let all = all.iter().map(|p| &**p);
        let equals: Vec<_> = all
            .filter(|other| other.broken.is_none())
            .filter(|other| policy::level(other, root) == Some(level))
            .filter(|other| {
                let both = |w: &&std::sync::Arc<Workload>| policy::selects(other, w, root);
                level != Level::Workload || other.name == peer.name || selected.iter().any(both)
            })
            .collect();
        let message = match policy::oldest(&equals) {
            Some(one) if one.name == peer.name => return,
            Some(one) => format!(
                "{} selects the same, and is the older one: it holds",
                one.name
            ),
            None => match equals.iter().find(|other| other.name != peer.name) {
                None => return,
                Some(other) => format!(
                    "{} selects the same, and their age (creationTimestamp) is not known: the stricter one holds",
                    other.name
                ),
            },
        };
        self.tell(object, Code::Shadowed, "spec", message);
    }

    /// A Service's port that no pod has.
    fn port(
        &mut self,
        object: &Object,
        peer: &PeerAuthentication,
        port: u16,
        selected: &[&std::sync::Arc<Workload>],
    ) {
        let has = |w: &&std::sync::Arc<Workload>| w.ports.iter().any(|p| p.port == port);
        if selected.iter().any(has) {
            return;
        }
        let mut leading = None;
        for service in self.snapshot.services.in_namespace(&peer.namespace) {
            let is_behind = |w: &&std::sync::Arc<Workload>| is_behind(service, w);
            if !selected.iter().any(is_behind) {
                continue;
            }
            let targets = service.ports.iter().flat_map(|p| {
                let endpoints = p.endpoints.iter().map(|e| e.addr.port());
                let declared = match p.target {
                    TargetPort::Number(number) => Some(number),
                    TargetPort::Name(_) => None,
                };
                endpoints.chain(declared)
            });
            if targets.into_iter().any(|target| target == port) {
                return;
            }
            if service.port(port).is_some() {
                leading = Some(service);
            }
        }
        if let Some(service) = leading {
            let message = format!(
                "{port} is a port of Service {}: the pods' own port is meant here, and none has this one",
                service.key
            );
            let field = format!("spec.portLevelMtls.{port}");
            self.tell(object, Code::NoSuchPort, &field, message);
        }
    }

    fn service(&mut self, object: &Object) {
        let key = crate::model::ServiceKey::new(object.meta.namespace(), object.meta.name.clone());
        let Some(service) = self.snapshot.services.get(&key) else {
            return;
        };
        let has_endpoints = service.ports.iter().any(|p| !p.endpoints.is_empty());
        if has_endpoints || !service.members.is_empty() {
            return;
        }
        let mut workloads = self.snapshot.workloads.in_namespace(&key.namespace);
        if !workloads.any(|w| is_behind(service, w)) {
            let message = "no pod is behind the Service".to_owned();
            self.tell(object, Code::ServiceWithoutPods, "spec.selector", message);
        }
    }
}

fn effect(policy: &AuthorizationPolicy) -> &'static str {
    match policy.action {
        crate::model::policy::Action::Allow => "it grants nothing",
        crate::model::policy::Action::Deny => "it denies as if that matched",
    }
}

fn is_behind(service: &Service, workload: &Workload) -> bool {
    let labels = &workload.labels;
    let selected = !service.selector.is_empty()
        && workload.key.namespace == service.key.namespace
        && service
            .selector
            .iter()
            .all(|(k, v)| labels.get(k) == Some(v));
    selected || workload.ips.iter().any(|ip| service.members.contains(&ip))
}

/// Everybody that the rules name, with the path of the field.
fn named(policy: &AuthorizationPolicy) -> Vec<(String, Who<'_>)> {
    let mut named = Vec::new();
    for (i, rule) in policy.rules.iter().enumerate() {
        for (j, source) in rule.from.iter().enumerate() {
            let at = format!("spec.rules[{i}].from[{j}].source");
            let field = |name: &str| format!("{at}.{name}");
            list(
                &mut named,
                &source.principals,
                &field("principals"),
                &field("notPrincipals"),
                Who::Principal,
            );
            list(
                &mut named,
                &source.namespaces,
                &field("namespaces"),
                &field("notNamespaces"),
                Who::Namespace,
            );
            list(
                &mut named,
                &source.service_accounts,
                &field("serviceAccounts"),
                &field("notServiceAccounts"),
                Who::Account,
            );
        }
        for (j, when) in rule.when.iter().enumerate() {
            let at = format!("spec.rules[{i}].when[{j}]");
            let (values, not) = (format!("{at}.values"), format!("{at}.notValues"));
            match when {
                Condition::Principal(l) => list(&mut named, l, &values, &not, Who::Principal),
                Condition::Namespace(l) => list(&mut named, l, &values, &not, Who::Namespace),
                Condition::ServiceAccount(l) => list(&mut named, l, &values, &not, Who::Account),
                // They name nobody.
                Condition::SourceIp(_)
                | Condition::DestinationIp(_)
                | Condition::DestinationPort(_)
                | Condition::Sni(_)
                | Condition::Host(_)
                | Condition::Method(_)
                | Condition::Header { .. }
                | Condition::Unserved { .. } => {}
            }
        }
    }
    named
}

fn list<'p, T>(
    named: &mut Vec<(String, Who<'p>)>,
    list: &'p Match<T>,
    values: &str,
    not: &str,
    who: fn(&'p T) -> Who<'p>,
) {
    for (field, list) in [(values, &list.values), (not, &list.not_values)] {
        let each = list.iter().enumerate();
        named.extend(each.map(|(k, value)| (format!("{field}[{k}]"), who(value))));
    }
}
