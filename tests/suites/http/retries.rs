//! Requests that are sent again because their route asks for it.

use super::mirrors::NO_A;
use super::*;

/// Of that Service: to itself.
fn retried(service: &str, retry: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {service}-again, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {service}, port: 80}}]\n  rules:\n  \
         - backendRefs: [{{name: {service}, port: 80}}]\n    retry: {retry}\n"
    )
}

/// Of the server's pod, a port where nobody listens. It is said to be one of HTTP: else a client
/// that is late is a connection, for its server might speak first, and is reset.
fn nobody(server: &Pod) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: nobody, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.9.7\n  selector: {{app: {}}}\n  \
         ports: [{{port: 80, targetPort: 9, appProtocol: http}}]\n",
        server.name
    )
}

impl Mesh {
    fn retries(&self) -> u64 {
        let metric = self.agents[0].metric("mesh_agent_retries_total", "");
        metric.expect("a metric") as u64
    }

    /// How often the server has had a request with that first line.
    fn had(&self, server: &Pod, first: &str) -> usize {
        let url = format!("http://{}:{APP_PORT}/seen", server.v4());
        let told: Value = serde_json::from_str(&self.curl(&[&url])).expect("a list");
        let seen = told.as_array().expect("a list").iter();
        seen.filter(|one| one["first"] == first).count()
    }
}

/// On the client's node and on another one, whose agent says so.
#[test]
fn where_the_only_endpoint_refuses_connections_a_route_has_all_its_attempts() {
    let mesh = Mesh::new();
    let url = "http://10.96.9.7/x";
    for server in &mesh.servers {
        mesh.policy("nobody", &nobody(server));
        for how in ["--http1.1", "--http2-prior-knowledge"] {
            let ask = || {
                mesh.curl(&[
                    how,
                    "-d",
                    "a=b",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    url,
                ])
            };
            let before = mesh.retries();
            assert_eq!(ask(), "503");
            assert_eq!(mesh.retries(), before, "{how}: there is no other one");
            for (retry, count) in [
                ("{attempts: 3, backoff: 1ms}", 3),
                ("{codes: [503], attempts: 4, backoff: 1ms}", 4),
                ("{codes: [503], attempts: 0}", 0),
            ] {
                mesh.policy("route", &retried("nobody", retry));
                let before = mesh.retries();
                assert_eq!(ask(), "503", "{how}: {retry}");
                assert_eq!(
                    mesh.retries() - before,
                    count,
                    "{how} to {}: {retry}",
                    server.name
                );
            }
            mesh.policy("route", "");
        }
    }
}

/// Where nobody listens, and where the server's answer asks for it.
#[test]
fn without_budget_nobody_waits_for_a_retry_and_what_is_tried_again_is_in_flight_once() {
    let mesh = Mesh::new();
    let none = "retryBudget: {percent: 0, minRetryRate: {count: 0}}";
    for server in &mesh.servers {
        mesh.policy("nobody", &nobody(server));
        let busy = format!("http://{}/busy/0", server.vips()[0]);
        for (name, url) in [("nobody", "http://10.96.9.7/x"), (&server.name, &busy)] {
            for how in ["--http1.1", "--http2-prior-knowledge"] {
                if how != "--http1.1" && name != "nobody" {
                    continue; // the server has no HTTP/2
                }
                let ask = || {
                    let body = mesh.curl(&[how, "-w", " %{http_code} %{time_total}", url]);
                    let mut told = body.rsplit(' ');
                    let took: f64 = told.next().and_then(|s| s.parse().ok()).expect("a time");
                    (
                        told.next().expect("a status").to_owned(),
                        took,
                        mesh.retries(),
                    )
                };
                mesh.policy("traffic", &traffic_policy("t", &[name], none));
                mesh.policy(
                    "route",
                    &retried(name, "{codes: [503], attempts: 3, backoff: 20s}"),
                );
                let (status, took, before) = ask();
                assert_eq!(status, "503", "{how} {name} {}", server.name);
                assert!(took < 5.0, "{how} {name} {}: {took} s", server.name);
                let one = traffic_policy("t", &[name], "limits: {maxRequests: 1}");
                mesh.policy("traffic", &one);
                mesh.policy(
                    "route",
                    &retried(name, "{codes: [503], attempts: 3, backoff: 1ms}"),
                );
                let (status, _, after) = ask();
                assert_eq!(
                    (status.as_str(), after - before),
                    ("503", 3),
                    "{how} {name} {}",
                    server.name
                );
                mesh.policy("traffic", "");
                mesh.policy("route", "");
            }
        }
    }
}

/// On the client's node and on another one: the limit is for what the application sees.
#[test]
fn a_request_that_is_tried_again_counts_again_by_its_servers_limit() {
    let mesh = Mesh::new();
    let few = "rateLimits: [{name: few, requests: 1, interval: 1h, burst: 4}]";
    let limit = traffic_policy("servers", &["b", "c"], few);
    for server in &mesh.servers {
        let again = retried(&server.name, "{codes: [503], attempts: 1, backoff: 1ms}");
        mesh.policy("route", &again);
        mesh.policy("limit", &limit);
        let url = format!("http://{}/busy/0", server.vips()[0]);
        let code = ["-o", "/dev/null", "-w", "%{http_code}", &url];
        let told: Vec<String> = std::iter::repeat_with(|| mesh.curl(&code))
            .take(3)
            .collect();
        assert_eq!(told, ["503", "503", "429"], "{}", server.name);
        // What asks for that is limited as well.
        mesh.policy("limit", "");
        assert_eq!(mesh.had(server, "GET /busy/0 HTTP/1.1"), 4);
    }
}

/// On one port nobody listens, and from the other one a policy keeps the client. It is said
/// that they speak HTTP: else a client that is late is a connection, which is tried twice.
#[test]
fn what_may_go_nowhere_else_is_no_retry() {
    let mesh = Mesh::new();
    let b = &mesh.servers[0];
    let slice = |port: u16| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: some-{port}, namespace: shop, labels: {{kubernetes.io/service-name: some}}}}\n\
             addressType: IPv4\nports: [{{port: {port}}}]\n\
             endpoints: [{{addresses: [{}], conditions: {{ready: true}}}}]\n",
            b.v4()
        )
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: some, namespace: shop}\n\
                   spec: {clusterIP: 10.96.9.8, ports: [{port: 80, appProtocol: http}]}\n";
    mesh.policy("some", &[service, &slice(APP_PORT), &slice(9)].concat());
    let denied = format!("to: [{{operation: {{ports: [\"{APP_PORT}\"]}}}}], from:");
    mesh.policy("no-a", &NO_A.replace('@', "b").replace("from:", &denied));
    for how in ["--http1.1", "--http2-prior-knowledge"] {
        let code = ["-o", "/dev/null", "-w", "%{http_code}"];
        let ask = || mesh.curl(&[&code[..], &[how, "-d", "a=b", "http://10.96.9.8/x"]].concat());
        for told in std::iter::repeat_with(ask).take(10) {
            assert!(matches!(&*told, "403" | "503"), "{how}: {told}");
        }
        assert_eq!(mesh.retries(), 0, "{how}");
    }
}

#[test]
fn nothing_is_sent_again_for_a_client_that_leaves_before_that() {
    let mesh = Mesh::new();
    let first = "POST /busy/9 HTTP/1.1";
    for server in &mesh.servers {
        mesh.policy(
            "route",
            &retried(&server.name, "{codes: [503], attempts: 3}"),
        );
        let client = mesh.waiting(&["leaving", &server.vips()[0], "/busy/9"]);
        let refused = eventually(Duration::from_secs(8), || mesh.had(server, first) == 1);
        assert!(refused, "{}", mesh.had(server, first));
        // Meanwhile the agent waits for as long as the server wants it to.
        assert_eq!(client.goes_on(), "left");
        let of = format!("destination_workload=\"{}\"", server.name);
        let told = || {
            let with = ["reporter=\"source\"", "response_code=\"503\"", &of];
            requests::counted(&mesh.agents[0], &with)
        };
        let in_time = eventually(Duration::from_secs(10), || told() == 1);
        assert!(in_time, "{}", told());
        assert_eq!(mesh.had(server, first), 1, "{}", server.name);
    }
}

#[test]
fn what_there_is_no_room_to_keep_is_sent_once_and_not_copied() {
    let (mut world, [a, b, c]) = World::of_three().expect("a world");
    for pod in [&b, &c] {
        let mut server = world.in_pod(pod, PYTHON);
        server.args(["-c", SCRIPT, "serve", &pod.name, &APP_PORT.to_string()]);
        world.start_server(pod, APP_PORT, server).expect("a server");
    }
    // A part of it is for each.
    let mesh = Mesh::with(world, a, [b, c], &["--max-buffer-mib", "2"]);
    let mirror = "[{type: RequestMirror, requestMirror: {backendRef: {name: c, port: 80}}}]";
    let retry = format!("{{codes: [503], attempts: 1, backoff: 1ms}}\n    filters: {mirror}");
    mesh.policy("route", &retried("b", &retry));
    let url = |path: &str| format!("http://{}/{path}", mesh.servers[0].vips()[0]);
    let ends = |end: &str| {
        let with = format!("copy=\"{end}\"");
        mesh.agents[0].metric("mesh_agent_mirrored_requests_total", &with)
    };
    for (path, size, times, end) in [
        ("busy/0", 1_000, 2, "answered"),
        ("busy/0?long", 40_000, 1, "full"),
    ] {
        let told = mesh.curl(&["-d", &"x".repeat(size), &url(path)]);
        assert_eq!(told, "busy\n");
        let first = format!("POST /{path} HTTP/1.1");
        assert_eq!(mesh.had(&mesh.servers[0], &first), times, "{size} bytes");
        let ended = eventually(Duration::from_secs(10), || {
            ends(end).is_ok_and(|n| n == 1.0)
        });
        assert!(ended, "{end}");
    }
}

#[test]
fn nobody_waits_for_a_retry_of_what_cannot_be_sent_again() {
    let mesh = Mesh::new();
    for server in &mesh.servers {
        mesh.policy(
            "route",
            &retried(&server.name, "{codes: [503], attempts: 3}"),
        );
        let url = format!("http://{}/busy/9", server.vips()[0]);
        // More than is kept; the server wants nine seconds.
        let long = "x".repeat(100_000);
        let told = mesh.curl(&["--max-time", "7", "-d", &long, "-w", "%{http_code}", &url]);
        assert_eq!(told, "busy\n503", "{}", server.name);
    }
}

/// One backend gets another path than the other: each try begins with the client's own.
#[test]
fn each_try_is_made_of_what_the_client_sent() {
    let mesh = Mesh::new();
    let longer = "{type: ReplacePrefixMatch, replacePrefixMatch: /busy/0}";
    mesh.policy(
        "route",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: b, namespace: shop}}\n\
             spec:\n  parentRefs: [{{group: \"\", kind: Service, name: b, port: 80}}]\n  rules:\n  \
             - matches: [{{path: {{type: PathPrefix, value: /busy}}}}]\n    backendRefs:\n    \
             - {{name: b, port: 80}}\n    \
             - {{name: c, port: 80, filters: [{{type: URLRewrite, urlRewrite: {{path: {longer}}}}}]}}\n    \
             retry: {{codes: [503], attempts: 5, backoff: 1ms}}\n"
        ),
    );
    let [b, c] = &mesh.servers;
    let url = format!("http://{}/busy/0", b.vips()[0]);
    for _ in 0..30 {
        assert_eq!(mesh.curl(&[&url]), "busy\n");
    }
    let had = |server: &Pod, path: &str| mesh.had(server, &format!("GET {path} HTTP/1.1"));
    assert!(had(b, "/busy/0") > 20 && had(c, "/busy/0/0") > 20);
    for server in [b, c] {
        assert_eq!(had(server, "/busy/0/0/0"), 0, "{}", server.name);
    }
    assert_eq!(had(b, "/busy/0/0"), 0, "b has what the client sent");
}
