//! What is told of requests.

use super::*;

/// The value of the first sample with this begin and these labels.
fn sample(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut lines = page.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        rest.starts_with('{') && labels.iter().all(|label| rest.contains(label))
    });
    lines.next()?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn requests_are_counted_with_istios_names_and_buckets() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    let flow = outcome(CloseReason::Finished).flow;
    let route = RouteRef {
        route: "HTTPRoute/shop/cart".into(),
        rule: "0".into(),
    };
    let mut record = request(&flow);
    record.route = Some(&route);
    worker.request(&record);
    worker.request(&record);
    (record.protocol, record.route) = (RequestProtocol::Http, None);
    (record.status, record.ended) = (0, RequestEnd::Client);
    worker.request(&record);
    let page = observe.page(NodeState::default(), &[]);
    check_page(&page, true);
    let of_route = &[
        "reporter=\"source\"",
        "request_protocol=\"grpc\"",
        "response_code=\"200\"",
        "grpc_response_status=\"0\"",
        "response_flags=\"-\"",
        "route=\"HTTPRoute/shop/cart\"",
        "connection_security_policy=\"none\"",
    ];
    let value = |name: &str| sample(&page, name, of_route);
    assert_eq!(value("istio_requests_total"), Some(2.0));
    assert_eq!(value("istio_request_messages_total"), Some(2.0));
    assert_eq!(value("istio_response_messages_total"), Some(6.0));
    assert_eq!(value("istio_request_duration_milliseconds_sum"), Some(11.0));
    assert_eq!(value("istio_request_bytes_sum"), Some(200.0));
    assert_eq!(value("istio_response_bytes_count"), Some(2.0));
    let bucket = |name: &str, le: &str| {
        let le = format!("le=\"{le}\"");
        let labels: Vec<&str> = of_route.iter().copied().chain([&*le]).collect();
        sample(&page, name, &labels)
    };
    let duration = "istio_request_duration_milliseconds_bucket";
    assert_eq!(bucket(duration, "5.0"), Some(0.0));
    assert_eq!(bucket(duration, "10.0"), Some(2.0));
    assert_eq!(bucket(duration, "3600000.0"), Some(2.0));
    assert_eq!(bucket("istio_request_bytes_bucket", "100.0"), Some(2.0));
    let left = &[
        "request_protocol=\"http\"",
        "response_code=\"0\"",
        "grpc_response_status=\"\"",
        "response_flags=\"DC\"",
        "route=\"none\"",
    ];
    assert_eq!(sample(&page, "istio_requests_total", left), Some(1.0));
    assert_eq!(sample(&page, "istio_request_messages_total", left), None);
}

#[test]
fn the_route_is_no_label_where_it_is_switched_off() {
    let observe = Observe::start(crate::observe::Config {
        node: "n1".to_owned(),
        cluster: "c1".to_owned(),
        log: AccessLogTarget::Off,
        events: crate::observe::AccessLogEvents::default(),
        route_label: false,
    });
    let worker = observe.worker();
    let flow = outcome(CloseReason::Finished).flow;
    let routes = ["a", "b"].map(|name| RouteRef {
        route: name.into(),
        rule: "0".into(),
    });
    for route in &routes {
        let mut record = request(&flow);
        record.route = Some(route);
        worker.request(&record);
    }
    let page = observe.page(NodeState::default(), &[]);
    let labels = &["route=\"\""];
    assert_eq!(sample(&page, "istio_requests_total", labels), Some(2.0));
}

#[test]
fn requests_of_many_connections_and_codes_stay_bounded() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let worker = observe.worker();
    for round in 0..3 {
        for status in 0..crate::observe::requests::MAX_SETS as u16 {
            // Each on a connection of its own.
            let flow = outcome(CloseReason::Finished).flow;
            let route = RouteRef {
                route: format!("r{}", status / 900).into(),
                rule: "0".into(),
            };
            let mut record = request(&flow);
            (record.route, record.status) = (Some(&route), 100 + status % 900);
            record.grpc_status = Some(round);
            worker.request(&record);
        }
    }
    let page = observe.page(NodeState::default(), &[]);
    let sets = page
        .lines()
        .filter(|l| l.starts_with("istio_requests_total{"));
    // Classes of codes are kept in the sets that count for all others.
    assert!(sets.count() <= crate::observe::requests::MAX_SETS + 20);
    let total: f64 = page
        .lines()
        .filter(|l| l.starts_with("istio_requests_total{"))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(total, 3.0 * crate::observe::requests::MAX_SETS as f64);
}

#[test]
fn a_denied_request_is_counted_under_its_policy() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let flow = outcome(CloseReason::Finished).flow;
    let rule = RuleRef {
        policy: "shop/no-admin".into(),
        rule: Some(1),
        generation: 3,
    };
    let mut record = request(&flow);
    record.rule = Some(&rule);
    record.status = 403;
    record.ended = RequestEnd::Refused(RefuseReason::Denied, None);
    observe.worker().request(&record);
    let page = observe.page(NodeState::default(), &[]);
    let line = "mesh_agent_authz_denied_total{policy=\"shop/no-admin\"} 1\n";
    assert!(page.contains(line), "{page}");
}

#[test]
fn a_refused_request_is_counted_by_its_reason_and_no_other_is() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let flow = outcome(CloseReason::Finished).flow;
    let worker = observe.worker();
    let mut record = request(&flow);
    for ended in [
        RequestEnd::Finished,
        RequestEnd::Client,
        RequestEnd::Upstream,
    ] {
        record.ended = ended;
        worker.request(&record);
    }
    let reasons = [
        (RefuseReason::AmbiguousHost, 2),
        (RefuseReason::NoRoute, 1),
        (RefuseReason::MaxPendingTime, 3),
        (RefuseReason::Tls(crate::model::TlsFailure::Revoked), 1),
    ];
    for (reason, count) in reasons {
        record.ended = RequestEnd::Refused(reason, None);
        (0..count).for_each(|_| worker.request(&record));
    }
    let page = observe.page(NodeState::default(), &[]);
    let name = "mesh_agent_requests_refused_total";
    for (reason, count) in reasons {
        let label = format!("reason=\"{reason}\"");
        let labels = ["direction=\"outbound\"", &label];
        assert_eq!(
            sample(&page, name, &labels),
            Some(f64::from(count)),
            "{reason}"
        );
    }
    let all = page.lines().filter(|line| line.starts_with(name));
    let all: f64 = all
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(all, 7.0, "{page}");
}

#[test]
fn a_request_has_one_line_without_its_query() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    let observe = Observe::new("n1", AccessLogTarget::File(path.clone()));
    let flow = outcome(CloseReason::Finished).flow;
    let worker = observe.worker();
    worker.request(&request(&flow));
    let mut refused = request(&flow);
    refused.status = 400;
    refused.ended = RequestEnd::Refused(RefuseReason::AmbiguousHost, Some("host_missing"));
    worker.request(&refused);
    drop((worker, observe));
    let text = std::fs::read_to_string(&path).expect("the log");
    assert!(!text.contains("secret"), "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    let line = &lines[0];
    assert_eq!(line["event"], "request");
    assert_eq!(line["path"], "/cart");
    assert_eq!(line["host"], "shop:80");
    assert_eq!(line["verdict"], "allowed");
    assert_eq!(line["duration_ms"], 5.5);
    assert_eq!(line["trace_id"], "ab".repeat(16));
    assert_eq!(line["ended_by"], serde_json::Value::Null);
    let line = &lines[1];
    assert_eq!(line["verdict"], "refused");
    assert_eq!(line["ended_by"], "agent");
    assert_eq!(line["reason"], "ambiguous_host");
    assert_eq!(line["detail"], "host_missing");
    assert_eq!(line["response_flags"], "DPE");
    // The reference names each field that a connection's line does not have.
    let known = |name: &str| {
        let mut fields = crate::observe::reference::FIELDS.iter();
        fields.any(|(field, _)| *field == name)
            || crate::observe::reference::REQUEST_FIELDS
                .iter()
                .any(|(field, _)| *field == name)
    };
    for name in line.as_object().expect("an object").keys() {
        assert!(known(name), "{name}");
    }
}
