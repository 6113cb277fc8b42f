//! What the agents tell of each request: metrics and the access log.

use mesh_tests::Agent;

use super::*;

const NAMED_RULE: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: only, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: c, port: 80}]
  rules:
  - name: open
    matches: [{path: {type: PathPrefix, value: /open}}]
    backendRefs: [{name: c, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 301}}]
"#;

/// Requests with these labels.
pub(super) fn counted(agent: &Agent, labels: &[&str]) -> u64 {
    agent.requests(labels).expect("a page")
}

/// So many requests it refused for this reason.
#[track_caller]
fn are_refused(agent: &Agent, reason: &str, count: u64) {
    let label = format!("reason=\"{reason}\"");
    let refused = agent.counter_comes_to("mesh_agent_requests_refused_total", &[&label], count);
    assert_eq!(refused, count, "{reason}");
}

/// The last request is counted a moment after its client has the answer.
fn is_counted(agent: &Agent, labels: &[&str], count: u64) {
    let told = eventually(Duration::from_secs(20), || counted(agent, labels) >= count);
    let page = || {
        let page = agent.metrics().expect("a page");
        let lines = page
            .lines()
            .filter(|l| l.starts_with("istio_requests_total"));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert!(told, "{labels:?}: not {count} of\n{}", page());
    assert_eq!(counted(agent, labels), count, "{labels:?}:\n{}", page());
}

impl Mesh {
    /// Lines of requests for this path.
    fn told_of(&self, node: &str, path: &str) -> Vec<Value> {
        let lines = || -> Vec<Value> {
            let lines = self.world.logged(node).into_iter();
            lines
                .filter(|l| l["event"] == "request" && l["path"] == path)
                .collect()
        };
        let told = eventually(Duration::from_secs(20), || !lines().is_empty());
        assert!(told, "no line for {path} at {node}");
        lines()
    }

    fn get(&self, url: &str) -> String {
        self.curl(&["-o", "/dev/null", "-w", "%{http_code}", url])
    }
}

#[test]
fn each_request_is_counted_once_by_each_agent_that_it_passes() {
    const COUNT: u64 = 20;
    let mesh = Mesh::new();
    let [near, far] = &*mesh.agents;
    let of_a = "source_workload=\"a\"";
    for pod in &mesh.servers {
        let told = mesh.client(&["keep_alive", &pod.vips()[0], &COUNT.to_string()]);
        assert_eq!(told.as_array().map(Vec::len), Some(20), "{told}");
    }
    let [to_b, to_c] = ["b", "c"].map(|name| format!("destination_workload=\"{name}\""));
    let answered = "response_code=\"200\",";
    let flags = "response_flags=\"-\"";
    let security = "connection_security_policy=\"mutual_tls\"";
    let source = "reporter=\"source\"";
    let destination = "reporter=\"destination\"";
    let service = "destination_service_name=\"c\"";
    let to_c = [of_a, &to_c, answered, flags, security, service];
    is_counted(near, &[&[source], &to_c[..]].concat(), COUNT);
    is_counted(far, &[&[destination], &to_c[..]].concat(), COUNT);
    // Within a node the caller's side tells of both.
    is_counted(near, &[of_a, &to_b, source, answered, flags], COUNT);
    assert_eq!(counted(near, &[]), 2 * COUNT);
    assert_eq!(counted(far, &[]), COUNT);
    for (agent, count) in [(near, 2 * COUNT), (far, COUNT)] {
        for family in [
            "istio_request_duration_milliseconds_count",
            "istio_request_bytes_count",
            "istio_response_bytes_count",
        ] {
            let told = agent.counter_comes_to(family, &[], count);
            assert_eq!(told, count, "{family}");
        }
        let heads = agent
            .counter("istio_request_bytes_sum", &[])
            .expect("a page");
        let least = "GET /1 HTTP/1.1\r\nHost: server\r\n\r\n".len() as u64 * count;
        assert!((least..least + 2 * count).contains(&heads), "{heads}");
    }
}

#[test]
fn what_the_agents_answer_themselves_is_counted_with_its_reason() {
    let mesh = Mesh::new();
    let [near, far] = &*mesh.agents;
    mesh.policy("no-admin", DENY_ADMIN);
    let urls = mesh
        .servers
        .each_ref()
        .map(|pod| format!("http://{}", pod.vips()[0]));
    for url in &urls {
        assert_eq!(mesh.get(&format!("{url}/admin/x")), "403");
    }
    let denied = [
        "response_code=\"403\"",
        "response_flags=\"-\"",
        "source_workload=\"a\"",
    ];
    for (agent, name) in [(near, "b"), (near, "c"), (far, "c")] {
        let to = format!("destination_workload=\"{name}\"");
        is_counted(agent, &[&denied[..], &[&to]].concat(), 1);
    }
    let by = "policy=\"shop/no-admin\"";
    for agent in [near, far] {
        let denied = agent.counter_comes_to("mesh_agent_authz_denied_total", &[by], 1);
        assert_eq!(denied, 1);
    }
    for node in ["n1", "n2"] {
        let of_policy = mesh.told_of(node, "/admin/x").into_iter();
        let of_policy = of_policy.filter(|line| line["reason"] == "denied");
        for line in of_policy.inspect(|line| println!("{line}")) {
            assert_eq!(line["rule"]["policy"], "shop/no-admin", "{line}");
            assert_eq!(line["rule"]["index"], 0, "{line}");
            assert_eq!(line["verdict"], "denied", "{line}");
            assert_eq!(line["ended_by"], "agent", "{line}");
            assert_eq!(line["source_workload"], "shop/a", "{line}");
        }
    }
    let told = mesh.client(&[
        "raw",
        &mesh.servers[1].vips()[0],
        "GET / HTTP/1.1\\r\\nHost: a\\r\\nHost: b\\r\\n\\r\\n",
    ]);
    assert_eq!(status(&told), 400, "{told}");
    let bad = [
        "response_code=\"400\"",
        "response_flags=\"DPE\"",
        "reporter=\"source\"",
    ];
    is_counted(near, &bad, 1);
    // Nothing was sent to the other agent.
    assert_eq!(counted(far, &["response_code=\"400\""]), 0);
    // Each by each agent that said no: what the other one answered is an answer.
    for (agent, reason, count) in [
        (near, "ambiguous_host", 1),
        (far, "ambiguous_host", 0),
        (near, "denied", 1),
        (far, "denied", 1),
    ] {
        are_refused(agent, reason, count);
    }
}

#[test]
fn a_requests_line_has_both_identities_its_route_and_its_rule() {
    let mesh = Mesh::new();
    let [near, far] = &*mesh.agents;
    mesh.policy("route", NAMED_RULE);
    let url = format!("http://{}", mesh.servers[1].vips()[0]);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = format!("Traceparent: {parent}");
    let told = mesh.curl(&["-H", &trace, &format!("{url}/open/x?token=secret")]);
    assert!(told.contains("\"name\": \"c\""), "{told}");
    assert_eq!(mesh.get(&format!("{url}/moved")), "301");
    assert_eq!(mesh.get(&format!("{url}/nowhere")), "404");
    for (node, direction) in [("n1", "outbound"), ("n2", "inbound")] {
        let lines = mesh.told_of(node, "/open/x");
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = &lines[0];
        println!("{line}");
        let [a, c] = ["a", "c"].map(|name| format!("shop/{name}"));
        assert_eq!(line["direction"], direction, "{line}");
        assert_eq!(line["source_workload"], a, "{line}");
        assert_eq!(line["destination_workload"], c, "{line}");
        for (field, end) in [
            ("source_principal", "/sa/a"),
            ("destination_principal", "/sa/c"),
        ] {
            let principal = line[field].as_str().unwrap_or_default();
            assert!(principal.ends_with(end), "{line}");
        }
        assert_eq!(line["method"], "GET", "{line}");
        assert_eq!(line["status"], 200, "{line}");
        assert_eq!(line["attempts"], 1, "{line}");
        assert_eq!(line["ended_by"], Value::Null, "{line}");
        assert_eq!(line["security"], "mutual_tls", "{line}");
        assert_eq!(
            line["trace_id"], "0af7651916cd43dd8448eb211c80319c",
            "{line}"
        );
        let upstream = format!("{}:{APP_PORT}", mesh.servers[1].v4());
        assert_eq!(line["upstream"], upstream, "{line}");
        for part in ["request_ms", "connect_ms", "answer_ms", "duration_ms"] {
            assert!(line[part].is_f64(), "{part}: {line}");
        }
    }
    let route = "HTTPRoute/shop/only";
    let line = &mesh.told_of("n1", "/open/x")[0];
    assert_eq!(
        line["route"],
        json!({"name": route, "rule": "open"}),
        "{line}"
    );
    let line = &mesh.told_of("n1", "/moved")[0];
    assert_eq!(line["route"], json!({"name": route, "rule": "1"}), "{line}");
    assert_eq!(line["ended_by"], Value::Null, "{line}");
    let line = &mesh.told_of("n1", "/nowhere")[0];
    assert_eq!(line["reason"], "no_route", "{line}");
    assert_eq!(line["response_flags"], "NR", "{line}");
    let label = format!("route=\"{route}\"");
    is_counted(near, &[&label, "response_code=\"200\","], 1);
    is_counted(near, &[&label, "response_code=\"301\""], 1);
    is_counted(
        near,
        &[
            "route=\"none\"",
            "response_code=\"404\"",
            "response_flags=\"NR\"",
        ],
        1,
    );
    are_refused(near, "no_route", 1);
    is_counted(far, &[], 1);
}
