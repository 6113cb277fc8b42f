//! How long a caller of gRPC waits: kept by its agent, and told its server.

use super::*;

impl Mesh {
    /// The answer's head and body, and how long it took, of a call that may take so long.
    fn within(&self, url: &str, timeout: &str) -> (String, Duration) {
        let mut curl = self.world.in_pod(&self.a, "curl");
        curl.args(["-sSi", "--http2-prior-knowledge", "--max-time", "10"]);
        curl.args(["-H", "content-type: application/grpc", "-d", "x", url, "-H"]);
        let began = Instant::now();
        let told = curl.arg(format!("grpc-timeout: {timeout}")).output();
        let told = told.expect("curl runs").stdout;
        (String::from_utf8_lossy(&told).into_owned(), began.elapsed())
    }

    /// What its server was told, in microseconds.
    fn told(&self, to: &str, timeout: &str) -> u64 {
        let (told, _) = self.within(&format!("http://{to}/x"), timeout);
        let body = told.lines().last().unwrap_or_default();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {told}"));
        let value = body["headers"]["Grpc-Timeout"][0].as_str().expect(&told);
        let (digits, unit) = value.split_at(value.len() - 1);
        let scale = match unit {
            "S" => 1_000_000,
            "u" => 1,
            other => panic!("{other} of {value}"),
        };
        digits.parse::<u64>().expect("digits") * scale
    }
}

fn counted(mesh: &Mesh, name: &str, label: &str) -> u64 {
    mesh.agents[0].counter(name, &[label]).expect("a page")
}

#[test]
fn a_callers_deadline_holds_and_its_server_is_told_what_is_left() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        // However long a busy machine has had it.
        assert!((3_000_000..=7_000_000).contains(&mesh.told(&to, "7S")));
        // More calls than make an endpoint that fails.
        for _ in 0..10 {
            let (told, took) = mesh.within(&format!("http://{to}/silent"), "200m");
            assert!(told.contains("grpc-status: 4"), "{}: {told}", pod.name);
            let reason = "x-mesh-reason: deadline_exceeded";
            assert!(told.contains(reason), "{told}");
            assert!(took >= Duration::from_millis(200), "{took:?}");
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        let is_told = || mesh.client(&["get", &to, "/cancelled"])[0]["body"] == "10\n";
        let told = eventually(Duration::from_secs(20), is_told);
        assert!(told, "its server works on none of them: {}", pod.name);
    }
    let reason = "reason=\"deadline_exceeded\"";
    let refused = "mesh_agent_requests_refused_total";
    let refused = mesh.agents[0].counter_comes_to(refused, &[reason], 20);
    assert_eq!(refused, 20);
    let ejections = "mesh_agent_outlier_ejections_total";
    assert_eq!(counted(&mesh, ejections, ""), 0, "no endpoint is at fault");
}

/// Once its answer has begun it is the agent that ends it.
#[test]
fn an_answer_that_is_not_over_in_time_is_no_failure_of_its_endpoint() {
    let mesh = Mesh::of_http();
    for rules in [
        "[{backendRefs: [{name: b, port: 80}]}]",
        "[{timeouts: {request: 100ms}, backendRefs: [{name: b, port: 80}]}]",
    ] {
        mesh.policy("route", &route("HTTPRoute", rules));
        for (pod, to) in mesh.services() {
            for _ in 0..10 {
                let (told, took) = mesh.within(&format!("http://{to}/open"), "200m");
                assert!(told.contains("open"), "{}: {told}", pod.name);
                assert!(told.contains("grpc-status: 4"), "{}: {told}", pod.name);
                assert!(took < Duration::from_secs(2), "{took:?}");
            }
        }
    }
    let ejections = "mesh_agent_outlier_ejections_total";
    assert_eq!(counted(&mesh, ejections, ""), 0, "no endpoint is at fault");
}

#[test]
fn a_server_that_keeps_its_callers_deadline_itself_has_not_failed() {
    let mesh = Mesh::of_http();
    let mut by_server = 0;
    for (pod, to) in mesh.services() {
        for _ in 0..12 {
            let (told, _) = mesh.within(&format!("http://{to}/late"), "1S");
            assert!(told.contains("grpc-status: 4"), "{}: {told}", pod.name);
            by_server += u32::from(!told.contains("x-mesh-reason"));
        }
    }
    assert!(by_server > 12, "{by_server} of 24 are the servers' own");
    let ejections = "mesh_agent_outlier_ejections_total";
    assert_eq!(counted(&mesh, ejections, ""), 0, "no endpoint is at fault");
}

#[test]
fn a_deadline_counts_through_delays_and_the_sooner_of_it_and_the_routes_holds() {
    let mesh = Mesh::of_http();
    let faults = "faults: [{name: test, from: {principals: [cluster.local/ns/shop/sa/a]}, until: \"2099-01-01T00:00:00Z\", delay: 5s}]";
    let policy = traffic_policy("slow", &["b", "c"], faults);
    mesh.policy("slow", &policy);
    for (pod, to) in mesh.services() {
        let left = mesh.told(&to, "20S");
        assert!(
            (10_000_000..=15_000_000).contains(&left),
            "{}: {left}",
            pod.name
        );
        let (told, took) = mesh.within(&format!("http://{to}/x"), "200m");
        assert!(told.contains("grpc-status: 4"), "{told}");
        assert!(took < Duration::from_secs(4), "within the delay: {took:?}");
    }
    mesh.policy("slow", &policy.replace("delay: 5s", "delay: 1ms"));
    let rules = "[{timeouts: {request: 4s}, backendRefs: [{name: b, port: 80}]}]";
    mesh.policy("route", &route("HTTPRoute", rules));
    let to = &mesh.services()[0].1;
    let left = mesh.told(to, "9S");
    assert!((100_000..=4_000_000).contains(&left), "{left}");
    let (told, _) = mesh.within(&format!("http://{to}/silent"), "9S");
    assert!(told.contains("grpc-status: 4"), "{told}");
    assert!(told.contains("x-mesh-reason: request_timeout"), "{told}");
}

/// It has its answer, and does not end its own side.
#[test]
fn who_waits_no_more_for_a_place_keeps_none_from_the_next() {
    let mesh = Mesh::of_http();
    let one = "limits: {maxRequests: 1, maxPendingRequests: 2, maxPendingTime: 700ms}";
    mesh.policy("one", &traffic_policy("one", &["b", "c"], one));
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["behind", &to]);
        let expected = json!({"late": "200", "next": "200"});
        assert_eq!(told, expected, "{}", pod.name);
    }
}
