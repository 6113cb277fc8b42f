mod examples;
mod routes;
mod variants;

use std::collections::BTreeMap;

use super::explaining::MAX_WAYS;
use super::*;
use crate::model::policy::{
    Action, AuthorizationPolicy, Match, Pattern, PeerAuthentication, PeerMode, Rule as Written,
    Scope, Source,
};
use crate::model::{
    AppProtocol, Endpoint, Enrolment, OnAgentDown, OnNode, Service, ServiceKey, ServicePort,
    Snapshot, TargetPort, TrustDomain, UpstreamAddr, Workload, WorkloadKey,
};
use crate::observe::explanation::DryRun;
use crate::policy::Authorizer;

fn pod(name: &str, node: &str, ip: &str, enrolled: bool) -> Arc<Workload> {
    Arc::new(Workload {
        key: WorkloadKey::new("shop", name),
        uid: name.into(),
        ips: ip.parse::<std::net::IpAddr>().expect("an address").into(),
        node: node.into(),
        service_account: name.into(),
        app: name.into(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        enrolment: match enrolled {
            true => Enrolment::Yes(OnAgentDown::Closed),
            false => Enrolment::No(crate::model::Outside::NotAsked),
        },
        on_node: Arc::default(),
        ports: [].into(),
    })
}

fn deny(name: &str, dry_run: bool, source: Source) -> AuthorizationPolicy {
    AuthorizationPolicy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action: Action::Deny,
        dry_run,
        scope: Scope::Labels(BTreeMap::from([("app".to_owned(), "c".to_owned())])),
        rules: vec![Written {
            from: vec![source],
            ..Written::default()
        }],
        broken: None,
    }
}

fn principal(account: &str) -> Source {
    let principal = format!("cluster.local/ns/shop/sa/{account}");
    Source {
        principals: Match {
            values: vec![Pattern::Exact(principal)],
            not_values: vec![],
        },
        ..Source::default()
    }
}

fn port_mode(mode: PeerMode) -> PeerAuthentication {
    PeerAuthentication {
        namespace: "shop".to_owned(),
        name: "c".to_owned(),
        created: None,
        scope: Scope::Labels(BTreeMap::from([("app".to_owned(), "c".to_owned())])),
        mode: None,
        ports: BTreeMap::from([(8080, Some(mode))]),
        broken: None,
    }
}

/// a, b on n1; c, d on n2; plain on n1, not in the mesh; Service all: b, c.
fn snapshot() -> Snapshot {
    let pods = [
        pod("a", "n1", "10.0.0.1", true),
        pod("b", "n1", "10.0.0.2", true),
        pod("c", "n2", "10.0.0.3", true),
        pod("plain", "n1", "10.0.0.4", false),
    ];
    let endpoints: Vec<Endpoint> = pods[1..3]
        .iter()
        .map(|pod| Endpoint {
            addr: UpstreamAddr::new((pod.ips.v4.expect("an address"), 8080).into()),
            workload: Some(pod.clone()),
            tier: Default::default(),
            place: None,
        })
        .collect();
    let service = Arc::new(Service {
        key: ServiceKey::new("shop", "all"),
        vips: vec!["10.96.0.1".parse().expect("an address")],
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            target: TargetPort::Number(8080),
            protocol: Default::default(),
            endpoints: endpoints.into(),
            node_port: None,
            hinted: Default::default(),
            slice_ports: Default::default(),
            traffic: None,
        }],
        selector: Default::default(),
        members: Default::default(),
        is_local: false,
        affinity: None,
        hides_ports: false,
        hides_members: false,
        traffic: Default::default(),
    });
    let mut snapshot = Snapshot {
        generation: 7,
        ..Snapshot::default()
    };
    for pod in pods {
        snapshot
            .by_ip
            .extend(pod.ips.iter().map(|ip| (ip, pod.clone())));
        snapshot.workloads.insert(pod);
    }
    snapshot.by_vip.insert(service.vips[0], service.clone());
    snapshot.services.insert(service);
    snapshot
}

fn ask(snapshot: Snapshot, from: &str, to: &str, port: u16) -> Result<Explanation, Unanswerable> {
    ask_with(snapshot, &|_| true, (from, to, port))
}

fn ask_with(
    snapshot: Snapshot,
    certified: &dyn Fn(&SpiffeId) -> bool,
    question: (&str, &str, u16),
) -> Result<Explanation, Unanswerable> {
    let (from, to, port) = question;
    let words = Words {
        from,
        to,
        port,
        request: None,
        sni: None,
    };
    ask_words(snapshot, certified, words)
}

fn ask_words(
    snapshot: Snapshot,
    certified: &dyn Fn(&SpiffeId) -> bool,
    words: Words<'_>,
) -> Result<Explanation, Unanswerable> {
    let published = InForce {
        policy: Arc::new(Authorizer::compile(&snapshot)),
        snapshot: Arc::new(snapshot),
        ..InForce::default()
    };
    let decision_context = DecisionContext {
        published: &published,
        node: "n1",
        node_zone: None,
        trust_domain: &TrustDomain::new("cluster.local").expect("a trust domain"),
        same_node_tls: false,
    };
    explain(&decision_context, certified, words)
}

#[test]
fn a_denial_names_the_policy_the_rule_and_the_generation_and_what_was_rehearsed() {
    let mut snapshot = snapshot();
    snapshot.policies = vec![
        deny("dry", true, principal("a")),
        deny("no-a", false, principal("a")),
    ]
    .into();
    let answer = ask(snapshot, "shop/a", "shop/c", 8080).expect("an answer");
    assert_eq!(answer.verdict, Verdict::Refused);
    let way = &answer.ways[0];
    assert_eq!(way.refused.as_deref(), Some("denied"));
    assert_eq!(way.transport.as_deref(), Some("mutual_tls"));
    let rule = way.rule.as_ref().expect("a rule");
    assert_eq!(
        (&*rule.policy, rule.rule, rule.generation),
        ("shop/no-a", Some(0), 7)
    );
    let dry: Vec<_> = way
        .policies
        .iter()
        .map(|p| (&*p.policy, p.dry_run))
        .collect();
    assert_eq!(
        dry,
        [("shop/no-a", None), ("shop/dry", Some(DryRun::WouldDeny))]
    );
}

#[test]
fn plaintext_has_no_identity_and_a_strict_port_refuses_it_by_name() {
    let mut with_mode = snapshot();
    with_mode.peer_authentications = vec![port_mode(PeerMode::Strict)].into();
    let answer = ask(with_mode, "shop/plain", "shop/c", 8080).expect("an answer");
    let way = &answer.ways[0];
    assert_eq!(way.refused.as_deref(), Some("plaintext_refused"));
    assert_eq!(way.mode.as_deref(), Some("STRICT"));
    assert_eq!(way.mode_by.as_deref(), Some("shop/c"));
    assert_eq!(answer.from.identity, None);
    for from in ["shop/plain", "192.0.2.9"] {
        let answer = ask(snapshot(), from, "shop/c", 8080).expect("an answer");
        assert_eq!(answer.verdict, Verdict::Allowed, "{from}");
        assert_eq!(answer.ways[0].transport.as_deref(), Some("none"), "{from}");
    }
    // A port that is set to DISABLE gets plaintext from the mesh, too.
    let mut disabled = snapshot();
    disabled.peer_authentications = vec![port_mode(PeerMode::Disable)].into();
    disabled.policies = vec![deny("no-a", false, principal("a"))].into();
    let answer = ask(disabled, "shop/a", "shop/c", 8080).expect("an answer");
    assert_eq!(answer.ways[0].transport.as_deref(), Some("none"));
    assert_eq!(
        answer.verdict,
        Verdict::Allowed,
        "nothing proves that it is a"
    );
}

#[test]
fn every_endpoint_of_a_service_is_judged_by_itself() {
    let mut snapshot = snapshot();
    snapshot.policies = vec![deny("no-a", false, principal("a"))].into();
    let answer = ask(snapshot, "shop/a", "shop/all", 80).expect("an answer");
    assert_eq!(answer.verdict, Verdict::Mixed);
    let ways: Vec<_> = answer
        .ways
        .iter()
        .map(|w| {
            (
                w.workload.as_deref(),
                w.transport.as_deref(),
                w.refused.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        ways,
        [
            (Some("shop/b"), Some("same_node"), None),
            (Some("shop/c"), Some("mutual_tls"), Some("denied")),
        ]
    );
    let by_address = ask(super::tests::snapshot(), "10.0.0.1", "10.96.0.1", 81);
    let by_address = by_address.expect("an answer");
    let reason = by_address.ways[0].refused.as_deref();
    assert_eq!(reason, Some("unknown_service_port"));
}

#[test]
fn an_identity_without_a_pod_is_judged_but_not_where_a_rule_asks_for_its_address() {
    let nobody = "spiffe://cluster.local/ns/shop/sa/soon";
    let answer = ask(snapshot(), nobody, "shop/c", 8080).expect("an answer");
    assert_eq!(answer.verdict, Verdict::Allowed);
    assert_eq!(answer.from.identity.as_deref(), Some(nobody));
    let mut by_address = snapshot();
    let blocks = Match {
        values: vec!["192.0.2.0/24".parse().expect("a block")],
        not_values: vec![],
    };
    let source = Source {
        ip_blocks: blocks,
        ..Source::default()
    };
    by_address.policies = vec![deny("by-address", false, source)].into();
    let answer = ask(by_address, nobody, "shop/c", 8080);
    assert!(
        matches!(answer, Err(Unanswerable::NeedsAddress(_))),
        "{answer:?}"
    );
    let foreign = ask(snapshot(), "spiffe://other/ns/shop/sa/a", "shop/c", 80);
    assert!(matches!(foreign, Err(Unanswerable::ForeignTrustDomain(..))));
}

#[test]
fn without_a_certificate_nothing_is_said_to_pass_between_nodes() {
    let none = |_: &SpiffeId| false;
    let far = ask_with(snapshot(), &none, ("shop/a", "shop/c", 8080)).expect("an answer");
    assert_eq!(far.ways[0].refused.as_deref(), Some("no_certificate"));
    let near = ask_with(snapshot(), &none, ("shop/a", "shop/b", 8080)).expect("an answer");
    assert_eq!(near.verdict, Verdict::Allowed);
}

#[test]
fn what_cannot_be_answered_says_why() {
    let mut twice = snapshot();
    let all = pod("all", "n2", "10.0.0.9", true);
    twice.workloads.insert(all);
    let ambiguous = ask(twice, "shop/a", "shop/all", 80).expect_err("no answer");
    assert_eq!(
        ambiguous.to_string(),
        "shop/all is a pod and a Service: say pod/shop/all or service/shop/all"
    );
    for (from, to, message) in [
        (
            "a",
            "shop/c",
            "'a' is no address, no SPIFFE id, and not of the form NAMESPACE/NAME",
        ),
        ("shop/x", "shop/c", "the configuration has no pod shop/x"),
        (
            "shop/a",
            "shop/x",
            "the configuration has neither a pod nor a Service shop/x",
        ),
        (
            "shop/a",
            "service/shop/x",
            "the configuration has no Service shop/x",
        ),
        (
            "10.96.0.1",
            "shop/c",
            "10.96.0.1 is a virtual address of a Service: nobody connects from it",
        ),
        (
            "shop/a",
            "fd00::1",
            "shop/a and fd00::1 have no address of one family",
        ),
        (
            "spiffe://x",
            "shop/c",
            "'spiffe://x' is no identity of a workload: its path is not /ns/NAMESPACE/sa/SERVICE_ACCOUNT",
        ),
    ] {
        let error = ask(snapshot(), from, to, 80).expect_err("no answer");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn a_service_with_very_many_endpoints_has_a_short_answer() {
    let mut snapshot = snapshot();
    let mut service = (*snapshot.by_vip.values().next().expect("a service").clone()).clone();
    let endpoints = (1..=200_u8).map(|i| Endpoint {
        addr: UpstreamAddr::new(([10, 1, 0, i], 8080).into()),
        workload: None,
        tier: Default::default(),
        place: None,
    });
    service.ports[0].endpoints = endpoints.collect();
    snapshot.by_vip.insert(service.vips[0], Arc::new(service));
    let answer = ask(snapshot, "shop/a", "10.96.0.1", 80).expect("an answer");
    assert_eq!((answer.ways.len(), answer.ways_total), (MAX_WAYS, 200));
    assert_eq!(answer.notes.len(), 1, "{:?}", answer.notes);
}

#[test]
fn what_keeps_a_connection_to_some_of_the_endpoints_is_said() {
    let with = |change: &dyn Fn(&mut Service)| {
        let mut snapshot = snapshot();
        let mut service = (**snapshot.by_vip.values().next().expect("a service")).clone();
        change(&mut service);
        snapshot.by_vip.insert(service.vips[0], Arc::new(service));
        ask(snapshot, "shop/a", "10.96.0.1", 80).expect("an answer")
    };
    let local = with(&|service| service.is_local = true);
    assert_eq!(local.ways_total, 1, "b is on the node");
    assert!(
        local.notes[0].contains("internalTrafficPolicy"),
        "{local:?}"
    );
    let nowhere = with(&|service| {
        service.is_local = true;
        let elsewhere = service.ports[0].endpoints[1..].to_vec();
        service.ports[0].endpoints = elsewhere.into();
    });
    assert_eq!(nowhere.verdict, Verdict::Refused);
    let reason = nowhere.ways[0].refused.as_deref();
    assert_eq!(reason, Some("no_local_endpoint"));
    let sticky = with(&|service| service.affinity = Some(std::time::Duration::from_secs(60)));
    assert!(sticky.notes[0].contains("60 s"), "{sticky:?}");
}

fn by_name() -> AuthorizationPolicy {
    let name = crate::model::policy::Pattern::Exact("a.example".to_owned());
    let mut by_name = deny("no-a", false, principal("a"));
    by_name.rules[0].when = vec![crate::model::policy::Condition::Sni(Match {
        values: vec![name],
        not_values: vec![],
    })];
    by_name
}

#[test]
fn where_the_name_in_a_hello_decides_a_note_says_so() {
    let mut snapshot = snapshot();
    snapshot.policies = vec![by_name()].into();
    let answer = ask(snapshot, "shop/a", "shop/c", 8080).expect("an answer");
    assert_eq!(answer.verdict, Verdict::NeedsRequest);
    let notes = answer.notes.join(" ");
    assert!(
        notes.contains("connection.sni") && !notes.contains("undecided_protocol"),
        "{notes}"
    );
}

#[test]
fn a_connection_is_explained_by_the_name_that_its_hello_asks_for() {
    let words = |sni| Words {
        from: "shop/a",
        to: "shop/c",
        port: 8080,
        request: None,
        sni: Some(sni),
    };
    let of = |policy: AuthorizationPolicy, sni| {
        let mut snapshot = snapshot();
        snapshot.policies = vec![policy].into();
        ask_words(snapshot, &|_| true, words(sni))
    };
    let denied = of(by_name(), "A.example").expect("an answer");
    assert_eq!(denied.verdict, Verdict::Refused);
    assert_eq!(denied.ways[0].refused.as_deref(), Some("denied"));
    assert!(denied.ways[0].policies[0].matches, "{denied:?}");
    for name in ["b.example", ""] {
        let allowed = of(by_name(), name).expect("an answer");
        assert_eq!(allowed.verdict, Verdict::Allowed, "{name}");
        assert_eq!(allowed.notes, Vec::<String>::new(), "{name}");
    }
    // What only a request has cannot be told of it.
    let mut by_more = by_name();
    by_more.rules[0].to = vec![admin()];
    let refused = of(by_more, "a.example").expect("an answer");
    assert_eq!(refused.verdict, Verdict::Refused);
    let reason = refused.ways[0].refused.as_deref();
    assert_eq!(reason, Some("undecided_protocol"));
    for odd in ["a.example.", "*.example", "a b"] {
        let no_name = of(by_name(), odd);
        assert!(matches!(no_name, Err(Unanswerable::ServerName(_))), "{odd}");
    }
    let request = RequestWords {
        method: "GET",
        url: "/",
        headers: "",
    };
    let both = Words {
        request: Some(request),
        ..words("a.example")
    };
    let both = ask_words(snapshot(), &|_| true, both);
    assert!(matches!(both, Err(Unanswerable::NameOfRequest)));
}

#[test]
fn where_what_is_no_request_is_refused_whatever_its_name_a_note_says_so() {
    let of = |to: &str, port, snapshot| {
        let answer = ask(snapshot, "shop/a", to, port).expect("an answer");
        assert_eq!(answer.verdict, Verdict::NeedsRequest);
        let notes = answer.notes.join(" ");
        assert!(
            notes.contains("undecided_protocol") && !notes.contains("decided by the name"),
            "{notes}"
        );
    };
    let is_refused = |snapshot| {
        let words = Words {
            from: "shop/a",
            to: "shop/all",
            port: 80,
            request: None,
            sni: Some("b.example"),
        };
        let answer = ask_words(snapshot, &|_| true, words).expect("an answer");
        let reasons = answer.ways.iter().map(|way| way.refused.as_deref());
        let reasons: Vec<_> = reasons.collect();
        assert!(reasons.contains(&Some("undecided_protocol")), "{answer:?}");
    };
    let declared = || {
        let mut snapshot = snapshot();
        let service = snapshot.by_vip.values().next().expect("a service");
        let mut service = (**service).clone();
        service.ports[0].protocol = AppProtocol::Http1;
        service.members = ["10.0.0.3".parse().expect("an address")].into();
        let service = Arc::new(service);
        snapshot.by_vip.insert(service.vips[0], service.clone());
        snapshot.services.insert(service);
        snapshot.policies = vec![by_name()].into();
        snapshot
    };
    // By the Service, and at the pod that it leads to.
    of("shop/all", 80, declared());
    is_refused(declared());
    of("shop/c", 8080, declared());
    let mut told = snapshot();
    let mut c = (*pod("c", "n2", "10.0.0.3", true)).clone();
    c.on_node = Arc::new(OnNode {
        forwards_client_cert: true,
        ..OnNode::default()
    });
    let c = Arc::new(c);
    told.by_ip.extend(c.ips.iter().map(|ip| (ip, c.clone())));
    told.workloads.insert(c);
    told.policies = vec![by_name()].into();
    of("shop/c", 8080, told);
    let mut both = snapshot();
    let mut policy = by_name();
    policy.rules[0].to = vec![admin()];
    both.policies = vec![policy].into();
    of("shop/c", 8080, both);
}

fn admin() -> crate::model::policy::Operation {
    let path = crate::model::policy::PathPattern::parse("/admin*").expect("a path");
    crate::model::policy::Operation {
        paths: Match {
            values: vec![path],
            not_values: vec![],
        },
        ..Default::default()
    }
}

#[test]
fn a_request_is_explained_where_the_connection_leaves_it_open() {
    let by_path = || {
        let mut by_path = deny("no-admin", false, principal("a"));
        by_path.rules[0].to = vec![admin()];
        let mut snapshot = snapshot();
        snapshot.policies = vec![by_path].into();
        snapshot
    };
    let words = |url| Words {
        from: "shop/a",
        to: "shop/c",
        port: 8080,
        request: Some(RequestWords {
            method: "GET",
            url,
            headers: "",
        }),
        sni: None,
    };
    let connection = ask(by_path(), "shop/a", "shop/c", 8080).expect("an answer");
    assert_eq!(connection.verdict, Verdict::NeedsRequest);
    let (way, policy) = (&connection.ways[0], &connection.ways[0].policies[0]);
    assert!(way.needs_request && way.refused.is_none() && policy.needs_request);
    let of = |url| ask_words(by_path(), &|_| true, words(url)).expect("an answer");
    assert_eq!(of("/public").verdict, Verdict::Allowed);
    let denied = of("/x/../%61dmin");
    assert_eq!(denied.verdict, Verdict::Refused);
    let details = denied.ways[0].details.as_deref();
    let expected = "rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]";
    assert_eq!(details, Some(expected));
    assert_eq!(
        of("/a%2fb").verdict,
        Verdict::Refused,
        "servers differ on it"
    );
    let no_request = ask_words(by_path(), &|_| true, words("/%00"));
    assert!(matches!(no_request, Err(Unanswerable::Request(_))));
}
