use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{AccessLogTarget, Observe};
use crate::model::*;

fn outcome(reason: CloseReason) -> Outcome {
    let workload = Workload {
        key: WorkloadKey {
            namespace: "shop".into(),
            name: "we\"b\n0".into(),
        },
        uid: "u".into(),
        ips: PodIps::default(),
        node: "n1".into(),
        service_account: "web".into(),
        app: "web".into(),
        labels: Default::default(),
        enrolment: Enrolment::No,
        netns: None,
        cgroup: None,
        ports: vec![],
    };
    Outcome {
        opening: Opening {
            id: 1,
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
            rule: None,
            started: SystemTime::UNIX_EPOCH,
            generation: 3,
        },
        bytes: ByteCounts {
            sent: 8,
            received: 6,
        },
        connect_time: Some(Duration::from_millis(1)),
        duration: Duration::from_millis(5),
        reason,
    }
}

#[test]
fn a_carried_and_a_refused_connection_show_on_the_page() {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let carried = outcome(CloseReason::Finished);
    observe.opened(&carried.opening);
    observe.closed(&carried);
    observe.closed(&outcome(CloseReason::Refused(RefuseReason::NoEndpoint)));
    let page = observe.page(&[("connect_captured", 2)]);
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
        "mesh_agent_kernel_events{event=\"connect_captured\"",
        "} 2.0",
    );
}

#[test]
fn every_log_line_is_one_json_object_whatever_the_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    let observe = Observe::new("n1", AccessLogTarget::File(path.clone()));
    let carried = outcome(CloseReason::Finished);
    observe.opened(&carried.opening);
    observe.closed(&carried);
    // The writer ends, with all lines written, once the queue's sender is gone.
    drop(observe);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    let mut text = String::new();
    while text.lines().count() < 2 && std::time::Instant::now() < deadline {
        text = std::fs::read_to_string(&path).unwrap_or_default();
        std::thread::yield_now();
    }
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["event"], "open");
    assert_eq!(lines[1]["source_workload"], "shop/we\"b\n0");
    assert_eq!(lines[1]["bytes_sent"], 8);
}
