mod requests;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use super::{AccessLogTarget, ConnectionFilter, NodeState, Observe};
use crate::model::*;

const NONE: ResponseFlags = ResponseFlags::None;

fn all() -> ConnectionFilter {
    ConnectionFilter {
        limit: 10,
        ..ConnectionFilter::default()
    }
}

pub(super) fn outcome(reason: CloseReason) -> Outcome {
    let workload = Workload {
        key: WorkloadKey::new("shop", "we\"b\n0"),
        uid: "u".into(),
        ips: PodIps::default(),
        node: "n1".into(),
        service_account: "web".into(),
        app: "web".into(),
        labels: Default::default(),
        enrolment: Enrolment::No(crate::model::Outside::NotAsked),
        on_node: Arc::default(),
        ports: [].into(),
    };
    Outcome {
        flow: Arc::new(Flow {
            id: ConnectionId::new(0, 1),
            direction: Direction::Outbound,
            client: ClientAddr::new("10.0.0.5:4000".parse().expect("address")),
            orig_dst: OrigDst::new("10.96.0.1:80".parse().expect("address")),
            upstream: None,
            source: Ok(Arc::new(workload)),
            destination: Err(UnknownPeer),
            service: None,
            source_principal: None,
            destination_principal: None,
            security: Security::None,
            tls: None,
            peer_certificate: None,
            rule: None,
            denied_by: None,
            errno: None,
            started: SystemTime::UNIX_EPOCH,
            generation: 3,
        }),
        bytes: ByteCounts {
            sent: 8,
            received: 6,
        },
        connect_time: Some(Duration::from_millis(1)),
        duration: Duration::from_millis(5),
        reason,
    }
}

static TEXT: LazyLock<Arc<RequestText>> = LazyLock::new(|| {
    let host = [HeaderLine {
        name: "host",
        value: b"shop:80",
    }];
    let head = RequestHead::for_test("GET", "/cart?token=secret", &host);
    Arc::new(RequestText::of(&head))
});

pub(super) fn request(flow: &Arc<Flow>) -> RequestRecord<'_> {
    RequestRecord {
        flow,
        protocol: RequestProtocol::Grpc,
        version: HttpVersion::Http11,
        text: Some(&TEXT),
        route: None,
        rule: None,
        status: 200,
        grpc_status: Some(0),
        ended: RequestEnd::Finished,
        attempts: 1,
        hedged: None,
        fault_delay: None,
        queued: None,
        bytes: ByteCounts {
            sent: 100,
            received: 2_000,
        },
        messages: ByteCounts {
            sent: 1,
            received: 3,
        },
        timing: RequestTiming {
            request: Some(Duration::from_millis(1)),
            connected: Some(Duration::from_millis(2)),
            answered: Some(Duration::from_millis(4)),
            duration: Duration::from_micros(5_500),
        },
        trace: Some(TraceId([0xab; 16])),
    }
}

#[test]
fn a_carried_and_a_refused_connection_show_on_the_page() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let carried = outcome(CloseReason::Finished);
    let worker = observe.worker();
    worker.opened(carried.flow.clone()).closed(&carried);
    worker.refused(&outcome(CloseReason::Refused(RefuseReason::NoEndpoint)));
    let page = observe.page(NodeState::default(), &[("connect_captured", 2)]);
    let line = |start: &str, end: &str| {
        assert!(
            page.lines()
                .any(|l| l.starts_with(start) && l.ends_with(end)),
            "{start} … {end}\n{page}"
        );
    };
    line(
        "istio_tcp_connections_opened_total{reporter=\"source\"",
        "} 1",
    );
    line("istio_tcp_received_bytes_total{", "} 8");
    line(
        "mesh_agent_connections_ended_total{direction=\"outbound\",reason=\"no_endpoint\"",
        "} 1",
    );
    line("mesh_agent_connections_active", " 0");
    line(
        "mesh_agent_kernel_events_total{event=\"connect_captured\"",
        "} 2",
    );
}

#[test]
fn every_log_line_is_one_json_object_whatever_the_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    let observe = Observe::new("n1", AccessLogTarget::File(path.clone()));
    let carried = outcome(CloseReason::Finished);
    observe
        .worker()
        .opened(carried.flow.clone())
        .closed(&carried);
    // The writer ends, with all lines written, once the queue's sender is gone.
    drop(observe);
    let text = std::fs::read_to_string(&path).expect("the log");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["event"], "open");
    assert_eq!(lines[1]["source_workload"], "shop/we\"b\n0");
    assert_eq!(lines[1]["request_bytes"], 8);
    assert_eq!(lines[1]["response_bytes"], 6);
}

#[test]
fn bytes_show_while_a_connection_lasts_and_are_counted_once() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let mut carried = outcome(CloseReason::Finished);
    let open = observe.worker().opened(carried.flow.clone());
    let bytes = |sent, received| ByteCounts { sent, received };
    open.progress(bytes(5, 1));
    assert!(
        observe
            .page(NodeState::default(), &[])
            .lines()
            .any(|l| l.starts_with("istio_tcp_received_bytes_total{") && l.ends_with("} 5"))
    );
    let list = observe.connections(&all());
    assert_eq!((list.total, list.connections.len()), (1, 1));
    assert_eq!(list.connections[0].request_bytes, 5);
    carried.bytes = bytes(8, 6);
    open.closed(&carried);
    assert!(
        observe
            .page(NodeState::default(), &[])
            .lines()
            .any(|l| l.starts_with("istio_tcp_received_bytes_total{") && l.ends_with("} 8"))
    );
    assert_eq!(
        observe.connections(&all()),
        super::ConnectionList::default()
    );
}

#[test]
fn a_connection_that_is_dropped_without_an_outcome_ends_as_internal() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    drop(observe.worker().opened(outcome(CloseReason::Finished).flow));
    let page = observe.page(NodeState::default(), &[]);
    assert!(page.contains(
        "mesh_agent_connections_ended_total{direction=\"outbound\",reason=\"internal\"} 1"
    ));
    assert!(page.contains("mesh_agent_connections_active 0"));
}

#[test]
fn handshakes_are_counted_by_what_they_agreed_on() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    for cipher in [CipherSuite::Aes128Gcm, CipherSuite::ChaCha20Poly1305] {
        let group = KeyExchange::X25519MlKem768;
        let parameters = TlsParameters { group, cipher };
        worker.handshake(TlsRole::Server, parameters);
        worker.handshake(TlsRole::Server, parameters);
    }
    let page = observe.page(NodeState::default(), &[]);
    let line = "mesh_agent_tls_handshakes_total{role=\"server\",version=\"1.3\",\
        group=\"X25519MLKEM768\",cipher=\"TLS_AES_128_GCM_SHA256\"} 2\n";
    assert!(page.contains(line), "{page}");
}

#[test]
fn denials_are_counted_by_policy_and_their_number_is_bounded() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    let mut denied = outcome(CloseReason::Refused(RefuseReason::Denied));
    for n in 0..super::inner::MAX_POLICIES + 5 {
        Arc::make_mut(&mut denied.flow).rule = Some(RuleRef {
            policy: format!("shop/p{n}").into(),
            rule: Some(0),
            generation: 3,
        });
        worker.refused(&denied);
    }
    let page = observe.page(NodeState::default(), &[]);
    assert!(page.contains("mesh_agent_authz_denied_total{policy=\"shop/p0\"} 1\n"));
    assert!(page.contains("mesh_agent_authz_denied_total{policy=\"other\"} 5\n"));
}

#[test]
fn too_many_label_sets_are_counted_as_other() {
    let set = super::series::SeriesSet::new(2);
    let labels = |account: &str| {
        let mut flow = outcome(CloseReason::Finished).flow;
        Arc::make_mut(&mut flow).source_principal =
            Some(SpiffeId::parse(&format!("spiffe://td/ns/a/sa/{account}")).expect("an identity"));
        super::tcp::Connection::of_tcp(&flow, NONE, "c1")
    };
    let now = std::time::Instant::now();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|account| set.get(labels(account), now));
    assert!(!Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&b, &c));
    assert!(Arc::ptr_eq(&c, &d), "both are other");
    drop((a, b));
    let later = now + Duration::from_secs(3600);
    assert!(
        !Arc::ptr_eq(&c, &set.get(labels("c"), later)),
        "room was made"
    );
}

#[test]
fn the_page_is_openmetrics_and_can_be_had_as_text() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    let carried = outcome(CloseReason::Finished);
    worker.opened(carried.flow.clone()).closed(&carried);
    let page = observe.page(NodeState::default(), &[("connect_captured", 2)]);
    check_page(&page, true);
    let text = super::page::to_text(&page);
    check_page(&text, false);
    assert!(text.contains("# TYPE istio_tcp_sent_bytes_total counter\n"));
    assert!(text.contains("# TYPE mesh_agent_build_info gauge\n"));
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(text.contains(&format!("\n{name} ")), "{name}");
    }
}

/// Every sample belongs to the family announced last, once, with a number.
fn check_page(page: &str, openmetrics: bool) {
    let (mut family, mut kind) = (String::new(), String::new());
    let mut seen = std::collections::HashSet::new();
    assert!(page.ends_with('\n') && page.ends_with("# EOF\n") == openmetrics);
    for line in page.trim_end_matches("# EOF\n").lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, what) = rest.split_once(' ').expect("a type");
            (family, kind) = (name.to_owned(), what.to_owned());
            assert!(seen.insert(format!("# {family}")), "{family} twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a sample");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(sample.to_owned()), "{line} twice");
        let suffix = sample
            .split('{')
            .next()
            .and_then(|n| n.strip_prefix(&*family));
        let allowed: &[&str] = match (&*kind, openmetrics) {
            ("counter", true) => &["_total"],
            ("info", true) => &["_info"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(
            suffix.is_some_and(|s| allowed.contains(&s)),
            "{line} in {family}"
        );
    }
}

#[test]
fn the_format_is_what_the_asker_wants() {
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4";
    assert!(super::page::wants_openmetrics(prometheus));
    for other in ["", "*/*", "text/plain", "application/openmetrics-text;q=0"] {
        assert!(!super::page::wants_openmetrics(other), "{other}");
    }
}

#[test]
fn what_is_refused_is_counted_by_pair_and_never_as_opened() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    for (reason, flags) in [
        (RefuseReason::Denied, "DENY"),
        (RefuseReason::RefusedByPeer, "DENY"),
        (RefuseReason::ConnectRefused, "CONNECT"),
        (RefuseReason::Tls(TlsFailure::Revoked), "TLS_FAILURE"),
        (RefuseReason::NoCertificate, "IDENTITY_ERROR"),
        (RefuseReason::OverLimit, "OTHER"),
    ] {
        let before = count(&observe, flags);
        worker.refused(&outcome(CloseReason::Refused(reason)));
        assert_eq!(count(&observe, flags), before + 1, "{reason:?}");
    }
    let page = observe.page(NodeState::default(), &[]);
    let opened = |l: &str| l.starts_with("istio_tcp_connections_opened_total{");
    assert!(!page.lines().any(opened), "{page}");
}

/// Failed connections of the tests' pair with those flags.
fn count(observe: &Observe, flags: &str) -> u64 {
    let page = observe.page(NodeState::default(), &[]);
    let of = |l: &&str| {
        l.starts_with("istio_tcp_connections_failed_total{")
            && l.contains("source_workload=\"web\"")
            && l.contains(&format!("response_flags=\"{flags}\""))
    };
    let line = page.lines().find(of);
    line.and_then(|l| l.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn dashboards_find_their_labels() {
    let mut flow = outcome(CloseReason::Finished).flow;
    let mut workload = flow.source.as_deref().expect("a workload").clone();
    for (label, value) in [("app", "storefront"), ("version", "v2")] {
        workload.labels.change(|all| {
            all.insert(label.to_owned(), value.to_owned());
        });
    }
    Arc::make_mut(&mut flow).source = Ok(Arc::new(workload));
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let _open = observe.worker().opened(flow);
    let page = observe.page(NodeState::default(), &[]);
    for label in [
        "reporter=\"source\"",
        "source_canonical_service=\"web\"",
        "source_canonical_revision=\"v2\"",
        "source_version=\"v2\"",
        "source_app=\"storefront\"",
        "source_cluster=\"Kubernetes\"",
        "destination_canonical_service=\"unknown\"",
        "destination_canonical_revision=\"unknown\"",
        "destination_version=\"unknown\"",
        "destination_cluster=\"unknown\"",
        "request_protocol=\"tcp\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"none\"",
    ] {
        let has =
            |l: &str| l.starts_with("istio_tcp_connections_opened_total{") && l.contains(label);
        assert!(page.lines().any(has), "{label} in {page}");
    }
}

#[test]
fn connections_are_found_by_pod_principal_state_and_id() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    let mut flow = outcome(CloseReason::Finished).flow;
    let id = SpiffeId::parse("spiffe://td/ns/shop/sa/web").expect("an identity");
    Arc::make_mut(&mut flow).source_principal = Some(id);
    let _open = worker.opened(flow);
    let mut denied = outcome(CloseReason::Refused(RefuseReason::RefusedByPeer));
    Arc::make_mut(&mut denied.flow).id = ConnectionId::new(1, 0x2f);
    Arc::make_mut(&mut denied.flow).source = Err(UnknownPeer);
    Arc::make_mut(&mut denied.flow).denied_by = Some(Box::new(PeerRule {
        policy: "shop/no-web".into(),
        rule: Some(0),
    }));
    worker.refused(&denied);
    let found = |change: fn(&mut ConnectionFilter)| {
        let mut filter = all();
        change(&mut filter);
        let list = observe.connections(&filter).connections;
        list.into_iter().map(|c| c.id).collect::<Vec<_>>()
    };
    assert_eq!(found(|_| {}), ["0-1", "1-2f"]);
    assert_eq!(found(|f| f.state = Some("refused".into())), ["1-2f"]);
    assert_eq!(found(|f| f.state = Some("open".into())), ["0-1"]);
    assert_eq!(found(|f| f.id = Some("1-2f".into())), ["1-2f"]);
    assert_eq!(found(|f| f.pod = Some("shop/we\"b\n0".into())), ["0-1"]);
    assert_eq!(
        found(|f| f.principal = Some("td/ns/shop/sa/web".into())),
        ["0-1"]
    );
    assert_eq!(
        found(|f| f.principal = Some("td/ns/shop/sa/we".into())),
        [""; 0]
    );
    let refused = observe.connections(&ConnectionFilter {
        state: Some("refused".into()),
        ..all()
    });
    assert_eq!(refused.total, 1, "carried now");
    let refused = &refused.connections[0];
    assert_eq!(refused.reason.as_deref(), Some("refused_by_peer"));
    assert_eq!(refused.policy.as_deref(), Some("shop/no-web"));
}

#[test]
fn the_list_of_refused_connections_is_bounded_and_keeps_the_latest() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    let mut refused = outcome(CloseReason::Refused(RefuseReason::NoEndpoint));
    for n in 0..1_000 {
        Arc::make_mut(&mut refused.flow).id = ConnectionId::new(0, n);
        worker.refused(&refused);
    }
    let list = observe.connections(&ConnectionFilter {
        limit: usize::MAX,
        ..all()
    });
    assert_eq!(list.connections.len(), 256);
    let last = list.connections.last().map(|c| &*c.id);
    assert_eq!(last, Some("0-3e7"));
}

#[test]
fn the_node_shows_whether_it_is_ready_its_pods_and_its_problems() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let state = NodeState {
        ready: true,
        problems: 2,
        pods_enrolled: 3,
        pods_failed: 1,
        generation: 7,
    };
    let page = observe.page(state, &[("connect_captured", 5), (super::LIVE_TUPLES, 4)]);
    for line in [
        "mesh_agent_ready 1",
        "mesh_agent_problems 2",
        "mesh_agent_pods{state=\"enrolled\"} 3",
        "mesh_agent_pods{state=\"failed\"} 1",
        "mesh_agent_configuration_generation 7",
        "mesh_agent_kernel_events_total{event=\"connect_captured\"} 5",
        "mesh_agent_kernel_tuples 4",
        "# TYPE mesh_agent_kernel_events counter",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in {page}");
    }
    assert!(
        !page.contains("event=\"live_tuples\""),
        "a gauge is no event"
    );
}

#[test]
fn series_of_closed_sets_are_there_before_their_first_event() {
    let page = Observe::new("n1", AccessLogTarget::Off).page(NodeState::default(), &[]);
    for line in [
        "mesh_agent_connections_ended_total{direction=\"inbound\",reason=\"tls_revoked\"} 0",
        "mesh_agent_connections_ended_total{direction=\"outbound\",reason=\"finished\"} 0",
        "mesh_agent_authz_denied_total{policy=\"none\"} 0",
        "mesh_agent_requests_refused_total{direction=\"inbound\",reason=\"rate_limited\"} 0",
        "mesh_agent_requests_refused_total{direction=\"outbound\",reason=\"tls_revoked\"} 0",
        "mesh_agent_tls_handshakes_total{role=\"server\",version=\"1.3\",group=\"X25519\",cipher=\"TLS_AES_128_GCM_SHA256\"} 0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in {page}");
    }
    // One that can never move tells whoever watches it that all is well.
    let ended = page
        .lines()
        .filter(|l| l.starts_with("mesh_agent_connections_ended_total"));
    for line in ended {
        let of_requests = [
            "reason=\"malformed_",
            "reason=\"ambiguous_",
            "reason=\"max_requests\"",
            "reason=\"request_timeout\"",
        ];
        assert!(
            !of_requests.iter().any(|reason| line.contains(reason)),
            "{line}"
        );
    }
}
