//! What the authorizer says beside yes and no, and of workloads it has not seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{Authorizer, Considered, Request, Verdict};
use crate::model::policy::{
    Action, AuthorizationPolicy, Match, Operation, Pattern, PeerAuthentication, PeerMode, Rule,
    Scope, Source,
};
use crate::model::{
    Enrolment, OnAgentDown, PodIps, Service, ServiceKey, ServicePort, Snapshot, SpiffeId,
    TargetPort, Workload, WorkloadKey,
};

pub(super) fn workload(namespace: &str, name: &str, app: &str) -> Workload {
    Workload {
        key: WorkloadKey::new(namespace, name),
        uid: "".into(),
        ips: PodIps::default(),
        node: "n1".into(),
        service_account: "default".into(),
        app: app.into(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        enrolment: Enrolment::Yes(OnAgentDown::Closed),
        on_node: Arc::default(),
        ports: [].into(),
    }
}

fn labels(app: &str) -> Scope {
    Scope::Labels(BTreeMap::from([("app".to_owned(), app.to_owned())]))
}

/// Of namespace `shop`, with a rule for each of `namespaces`.
pub(super) fn policy(
    name: &str,
    action: Action,
    scope: Scope,
    namespaces: &[&str],
) -> AuthorizationPolicy {
    let rule = |namespace: &&str| Rule {
        from: vec![Source {
            namespaces: Match {
                values: vec![Pattern::parse(namespace).expect("a pattern")],
                not_values: vec![],
            },
            ..Source::default()
        }],
        ..Rule::default()
    };
    AuthorizationPolicy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action,
        dry_run: false,
        scope,
        rules: namespaces.iter().map(rule).collect(),
        broken: None,
    }
}

pub(super) fn snapshot(workloads: &[Workload], policies: Vec<AuthorizationPolicy>) -> Snapshot {
    Snapshot {
        generation: 7,
        workloads: workloads.iter().cloned().map(Arc::new).collect(),
        policies: policies.into(),
        ..Snapshot::default()
    }
}

pub(super) fn id(namespace: &str) -> SpiffeId {
    let uri = format!("spiffe://cluster.local/ns/{namespace}/sa/default");
    SpiffeId::parse(&uri).expect("an identity")
}

pub(super) fn request<'a>(
    source: Option<&'a SpiffeId>,
    destination: &'a Workload,
    port: u16,
) -> Request<'a> {
    Request {
        source,
        source_ip: "10.0.0.1".parse().expect("an address"),
        destination,
        destination_ip: "10.0.0.2".parse().expect("an address"),
        destination_port: port,
        sni: None,
        http: None,
    }
}

fn told(considered: &[Considered]) -> Vec<(&str, Action, bool, Option<Option<u16>>)> {
    let one = |c: &Considered| c.matched.as_ref().map(|rule| rule.rule);
    let line = |c| {
        let c: &Considered = c;
        (&*c.policy, c.action, c.dry_run, one(c))
    };
    considered.iter().map(line).collect()
}

#[test]
fn explain_names_every_policy_that_selects_and_the_rule_that_matches() {
    use Action::{Allow, Deny};
    let web = workload("shop", "web-0", "web");
    let mut broken = policy("broken", Deny, labels("web"), &["x"]);
    broken.broken = Some("for the test".to_owned());
    let mut rehearsed = policy("rehearsed", Deny, Scope::Namespace, &["dev"]);
    rehearsed.dry_run = true;
    let policies = vec![
        policy("allow", Allow, labels("web"), &["ops", "dev"]),
        broken,
        policy("deny", Deny, Scope::Namespace, &["bad"]),
        policy("elsewhere", Deny, labels("db"), &["dev"]),
        rehearsed,
    ];
    let snapshot = snapshot(std::slice::from_ref(&web), policies);
    let authorizer = Authorizer::compile(&snapshot);
    let dev = id("dev");
    let considered = authorizer.explain(&request(Some(&dev), &web, 80));
    assert_eq!(
        told(&considered),
        [
            // Denies all: no rule of its own.
            ("shop/broken", Deny, false, Some(None)),
            ("shop/deny", Deny, false, None),
            ("shop/allow", Allow, false, Some(Some(1))),
            ("shop/rehearsed", Deny, true, Some(Some(0))),
        ]
    );
    let generations = considered.iter().flat_map(|c| &c.matched);
    assert!(generations.map(|m| m.generation).all(|g| g == 7));
}

#[test]
fn explain_and_check_never_disagree() {
    use Action::{Allow, Deny};
    let web = workload("shop", "web-0", "web");
    let pool = [
        policy("a", Allow, labels("web"), &["ops"]),
        policy("b", Allow, Scope::Namespace, &["dev"]),
        policy("c", Deny, Scope::Namespace, &["bad", "dev"]),
        policy("d", Deny, labels("web"), &["*"]),
        policy("e", Deny, labels("db"), &["*"]),
    ];
    let ids = ["ops", "dev", "bad"].map(id);
    for set in 0..1_u32 << pool.len() {
        let chosen = pool.iter().enumerate();
        let chosen = chosen.filter(|(i, _)| set & (1 << i) != 0);
        let chosen: Vec<_> = chosen.map(|(_, policy)| policy.clone()).collect();
        let authorizer = Authorizer::compile(&snapshot(std::slice::from_ref(&web), chosen));
        for source in ids.iter().map(Some).chain([None]) {
            let request = request(source, &web, 80);
            let said = authorizer.explain(&request);
            let matches = |action| {
                let mut all = said.iter().filter(move |c| c.action == action);
                all.find_map(|c| c.matched.clone())
            };
            let restricted = said.iter().any(|c| c.action == Allow);
            match authorizer.check(&request) {
                Verdict::Permit(permit) => {
                    assert_eq!(matches(Deny), None, "set {set}");
                    assert_eq!(permit.rule().cloned(), matches(Allow), "set {set}");
                    assert!(!restricted || permit.rule().is_some(), "set {set}");
                }
                Verdict::NeedsRequest => panic!("of a connection"),
                Verdict::Deny(deny) => match matches(Deny) {
                    Some(rule) => assert_eq!(*deny.rule(), rule, "set {set}"),
                    None => assert!(restricted && matches(Allow).is_none(), "set {set}"),
                },
            }
        }
    }
}

/// A pod that is gone from the configuration, or not there yet, while its
/// connection is decided: nothing opens by that.
#[test]
fn a_workload_that_is_not_in_the_snapshot_is_judged_by_its_labels() {
    use Action::{Allow, Deny};
    let web = workload("shop", "web-0", "web");
    let policies = || {
        vec![
            policy("allow", Allow, labels("web"), &["ops"]),
            policy("deny", Deny, Scope::Namespace, &["bad"]),
        ]
    };
    let known = Authorizer::compile(&snapshot(std::slice::from_ref(&web), policies()));
    let unknown = Authorizer::compile(&snapshot(&[], policies()));
    let ids = ["ops", "dev", "bad"].map(id);
    for source in ids.iter().map(Some).chain([None]) {
        let request = request(source, &web, 80);
        let (a, b) = (known.check(&request), unknown.check(&request));
        assert_eq!(a.is_permit(), b.is_permit(), "{source:?}");
        assert_eq!(known.explain(&request), unknown.explain(&request));
    }
    assert!(unknown.check(&request(Some(&ids[0]), &web, 80)).is_permit());
    assert!(!unknown.check(&request(None, &web, 80)).is_permit());
    let db = workload("shop", "db-0", "db");
    assert!(unknown.check(&request(Some(&ids[1]), &db, 80)).is_permit());
    assert!(!unknown.check(&request(Some(&ids[2]), &db, 80)).is_permit());
}

/// Which services it was behind is not known any more: it may have been each.
#[test]
fn a_workload_that_is_not_in_the_snapshot_counts_as_behind_every_service() {
    let key = ServiceKey::new("shop", "web");
    let service = Service {
        key: key.clone(),
        vips: vec![],
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            target: TargetPort::Number(80),
            protocol: Default::default(),
            endpoints: [].into(),
            node_port: None,
            hinted: Default::default(),
            slice_ports: Default::default(),
            traffic: None,
        }],
        is_local: false,
        affinity: None,
        selector: [("app".to_owned(), "web".to_owned())].into(),
        members: Default::default(),
        hides_ports: false,
        hides_members: false,
        traffic: Default::default(),
    };
    let scope = Scope::Services(vec![key.clone()]);
    let (web, db) = (
        workload("shop", "web-0", "web"),
        workload("shop", "db-0", "db"),
    );
    for (action, source) in [(Action::Deny, "bad"), (Action::Allow, "dev")] {
        let policies = vec![policy("p", action, scope.clone(), &["bad"])];
        let mut snapshot = snapshot(&[web.clone(), db.clone()], policies);
        snapshot.services.insert(Arc::new(service.clone()));
        let all = Authorizer::compile(&snapshot);
        snapshot.workloads = Default::default();
        let none = Authorizer::compile(&snapshot);
        let source = id(source);
        let refused = |authorizer: &Authorizer, w: &Workload| {
            !authorizer.check(&request(Some(&source), w, 80)).is_permit()
        };
        assert_eq!([&web, &db].map(|w| refused(&all, w)), [true, false]);
        assert_eq!([&web, &db].map(|w| refused(&none, w)), [true, true]);
    }
}

#[test]
fn the_mode_of_a_workload_that_is_not_in_the_snapshot_is_that_of_its_labels() {
    let peer = |name: &str, scope, mode| PeerAuthentication {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        created: None,
        scope,
        mode: Some(mode),
        ports: BTreeMap::new(),
        broken: None,
    };
    let mut snapshot = snapshot(&[], vec![]);
    snapshot.peer_authentications = vec![
        peer("all", Scope::Namespace, PeerMode::Strict),
        peer("db", labels("db"), PeerMode::Disable),
    ]
    .into();
    let authorizer = Authorizer::compile(&snapshot);
    for (app, mode) in [("web", PeerMode::Strict), ("db", PeerMode::Disable)] {
        let pod = workload("shop", "pod", app);
        assert_eq!(authorizer.peer_mode(&pod, 80), mode, "{app}");
    }
    let elsewhere = workload("other", "pod", "web");
    assert_eq!(authorizer.peer_mode(&elsewhere, 80), PeerMode::Permissive);
}

/// A check looks at the policies that select the workload, not at all.
#[test]
fn of_a_thousand_policies_only_those_that_select_are_looked_at() {
    let (authorizer, workloads) = thousand();
    assert_eq!(authorizer.status().len(), 1_000);
    let source = id("ns-1");
    for workload in &workloads {
        let considered = authorizer.explain(&request(Some(&source), workload, 80));
        assert_eq!(considered.len(), 10, "{}", workload.key);
    }
}

/// 1,000 policies of ten rules over 100 workloads, ten for each: three DENY
/// and seven ALLOW, of which the last rule of the last one matches `ns-1`.
pub(super) fn thousand() -> (Authorizer, Vec<Workload>) {
    let name = |app: usize| format!("app-{app}");
    let workloads: Vec<Workload> = (0..100)
        .map(|app| workload("shop", &format!("pod-{app}"), &name(app)))
        .collect();
    let others: Vec<String> = (10..20).map(|n| format!("ns-{n}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let policies = (0..1_000).map(|n| {
        let (app, place) = (n % 100, n / 100);
        let action = if place < 3 {
            Action::Deny
        } else {
            Action::Allow
        };
        let mut namespaces = others.clone();
        if place == 9 {
            namespaces[9] = "ns-1";
        }
        let scope = labels(&name(app));
        let mut policy = policy(&format!("p{n:04}"), action, scope, &namespaces);
        for rule in &mut policy.rules {
            let ports = Match {
                values: vec![80, 443],
                not_values: vec![],
            };
            rule.to = vec![Operation {
                ports,
                ..Operation::default()
            }];
        }
        policy
    });
    let snapshot = snapshot(&workloads, policies.collect());
    (Authorizer::compile(&snapshot), workloads)
}
