//! A second try beside a first one that takes long (TrafficPolicy `hedging`).

use super::*;

/// Both servers as one Service, of which the policy says so.
pub(super) fn hedged(mesh: &Mesh, says: &str) -> String {
    let [b, c] = &mesh.servers;
    let (b, c) = (b.v4(), c.v4());
    mesh.policy(
        "some",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: some, namespace: shop}}\n\
             spec: {{clusterIP: 10.96.9.8, ports: [{{port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: some-1, namespace: shop, labels: {{kubernetes.io/service-name: some}}}}\n\
             addressType: IPv4\nports: [{{port: {APP_PORT}}}]\nendpoints:\n\
             - {{addresses: [{b}], conditions: {{ready: true}}}}\n\
             - {{addresses: [{c}], conditions: {{ready: true}}}}\n---\n{}",
            traffic_policy("some", &["some"], says)
        ),
    );
    "10.96.9.8:80".to_owned()
}

fn hedges(mesh: &Mesh, end: &str) -> u64 {
    let metric = mesh.agents[0].metric("mesh_agent_hedges_total", &format!("end=\"{end}\""));
    metric.expect("a metric") as u64
}

/// Until a server has been told that nobody waits any more, so often.
fn cancelled(mesh: &Mesh, to: &str, expected: u64) -> bool {
    eventually(Duration::from_secs(20), || {
        let told = mesh.client(&["get", to, "/cancelled"]);
        told[0]["body"] == format!("{expected}\n")
    })
}

#[test]
fn where_one_server_is_silent_another_one_is_asked_and_the_first_is_told() {
    let mesh = Mesh::of_http();
    let by = "loadBalancer: {type: RoundRobin}\n  limits: {maxRequests: 2, maxPendingRequests: 0}";
    let to = hedged(&mesh, &format!("hedging: {{delay: 50ms}}\n  {by}"));
    for (server, own) in mesh.services() {
        let path = format!("/silent/{}", server.name);
        let (won, lost) = (hedges(&mesh, "won"), hedges(&mesh, "lost"));
        let begun = Instant::now();
        let mut asked = vec!["get", &to];
        asked.extend([path.as_str(); 40]);
        let answers = mesh.client(&asked);
        let took = begun.elapsed();
        for answer in answers.as_array().expect("answers") {
            assert_eq!(answer["status"], 200, "{answer}");
            assert_ne!(answer["told"]["name"], server.name, "{answer}");
        }
        let won = hedges(&mesh, "won") - won;
        println!("{}: {won} of 40 hedged, {took:?}", server.name);
        // Who is not asked beside the silent one waits for it without end.
        assert!(won >= 10 && took < Duration::from_millis(40 * 500), "{won}");
        // Where the other one took long, the silent one was asked behind it.
        let lost = hedges(&mesh, "lost") - lost;
        assert!(cancelled(&mesh, &own, won + lost), "{}", server.name);
    }
    assert_eq!(hedges(&mesh, "failed") + hedges(&mesh, "over_budget"), 0);
}

/// A call of gRPC is a POST with a body: only where its method is named.
#[test]
fn a_call_of_grpc_is_hedged_where_its_method_is_named() {
    let mesh = Mesh::serving("serve-grpc", &[]);
    let by = "loadBalancer: {type: RoundRobin}";
    let named = "hedging: {delay: 50ms, grpcMethods: [test.Echo/Silent_b]}";
    let to = hedged(&mesh, &format!("{named}\n  {by}"));
    for _ in 0..8 {
        let told = mesh.client(&["call", &to, "/test.Echo/Silent_b"]);
        assert_eq!(told, json!(["OK", ""]));
    }
    let won = hedges(&mesh, "won");
    assert!((1..=8).contains(&won), "{won}");
    let own = &mesh.services()[0].1;
    let is_told = || {
        let all = won + hedges(&mesh, "lost") + 1;
        let told = mesh.client(&["deadline", own, &all.to_string()]);
        told[2] == "seen"
    };
    assert!(is_told(), "the silent one is told of {won}");
    // Another method is asked once: one of two waits for its own deadline.
    let ends: Vec<Value> = (0..2)
        .map(|_| mesh.client(&["deadline", &to, "0"])[0].clone())
        .collect();
    assert_eq!(ends, ["DeadlineExceeded", "DeadlineExceeded"]);
    assert_eq!(hedges(&mesh, "won"), won);
}

impl Mesh {
    /// Of servers that answer when the path says so, each asked in its turn and never left out;
    /// with their Service.
    fn of_timed(delay: &str) -> (Self, String) {
        let mesh = Self::serving("serve-timed", &[]);
        let by = "loadBalancer: {type: RoundRobin}\n  outlierDetection: {enabled: false}";
        let to = hedged(&mesh, &format!("hedging: {{delay: {delay}}}\n  {by}"));
        (mesh, to)
    }

    /// Each of these in turn: what came of it.
    fn timed(&self, to: &str, paths: &[&str]) -> Vec<Value> {
        let told = self.client(&[&["timed", to], paths].concat());
        told.as_array().expect("answers").clone()
    }
}

/// It has begun for the client: what the other server has is of another one.
#[test]
fn an_answer_that_breaks_off_as_it_begins_is_not_mended_by_another_servers() {
    let (mesh, to) = Mesh::of_timed("50ms");
    let lines = || {
        let mut lines = mesh.world.logged("n1");
        lines.retain(|line| {
            let path = line["path"].as_str().unwrap_or_default();
            line["event"] == "request" && path.starts_with("/half/")
        });
        lines
    };
    for others in ["", "/250"] {
        for (server, _) in mesh.services() {
            let path = format!("/half/{}/150{others}", server.name);
            for answer in mesh.timed(&to, &[path.as_str(); 6]) {
                assert_eq!(answer["status"], 200, "{path}: {answer}");
                assert_eq!(answer["error"], "reset INTERNAL_ERROR", "{path}: {answer}");
            }
        }
    }
    let told = eventually(Duration::from_secs(20), || lines().len() == 24);
    assert!(told, "{:?}", lines());
    for line in lines() {
        assert_eq!(line["ended_by"], "upstream", "{line}");
    }
}

/// A failure that is there is not kept from the client for as long as another server is silent.
#[test]
fn a_failure_waits_for_a_silent_server_a_while_and_no_longer() {
    let (mesh, to) = Mesh::of_timed("50ms");
    let mut failed = 0;
    for (server, _) in mesh.services() {
        let path = format!("/fail/{}/150", server.name);
        for answer in mesh.timed(&to, &[path.as_str(); 3]) {
            // Else the silent one was asked first, and nobody else has anything.
            if answer["status"] == 503 {
                failed += 1;
                assert_eq!(answer["body"], "failed", "{answer}");
                assert!(answer["head"].as_u64() < Some(2_000), "{answer}");
            }
        }
    }
    assert!(failed > 0, "of 6");
}

/// Its time is over then, and what it has is its client's.
#[test]
fn who_has_answered_is_not_late_while_another_server_is_waited_for() {
    let (mesh, to) = Mesh::of_timed("100ms");
    mesh.policy(
        "route",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {name: some, namespace: shop}\n\
         spec:\n  parentRefs: [{group: \"\", kind: Service, name: some}]\n  \
         rules: [{backendRefs: [{name: some, port: 80}], timeouts: {backendRequest: 500ms}}]\n",
    );
    for kind in ["fail", "tardy"] {
        let mut failed = 0;
        for (server, _) in mesh.services() {
            let path = format!("/{kind}/{}/250", server.name);
            for answer in mesh.timed(&to, &[path.as_str(); 4]) {
                // Else the silent one was asked first.
                if answer["status"] != 504 {
                    assert_eq!(answer["status"], 503, "{answer}");
                    assert_eq!(answer["body"], "failed", "{answer}");
                    failed += 1;
                }
            }
        }
        assert!(failed > 0, "{kind}: of 8");
    }
}
