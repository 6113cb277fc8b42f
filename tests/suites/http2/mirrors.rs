//! Copies of requests of HTTP/2 and gRPC that a route wants elsewhere too.

use super::*;

/// Of b's Service: to that server, and a copy to the other one.
pub(super) fn mirrored(kind: &str, server: &str, copy: &str) -> String {
    let header = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: \"yes\"}]}}";
    let mirror = format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {copy}, port: 80}}}}}}"
    );
    let rule =
        format!("[{{filters: [{header}, {mirror}], backendRefs: [{{name: {server}, port: 80}}]}}]");
    route(kind, &rule)
}

impl Mesh {
    /// Requests with the route's header that the server has had, but for whom it told
    /// them to and over which connection they came.
    fn routed(&self, server: &Pod) -> Vec<Value> {
        let to = format!("{}:{APP_PORT}", server.v4());
        let told = self.client(&["get", &to, "/seen"]);
        let told = told[0]["body"].as_str().expect("a body");
        let told: Value = serde_json::from_str(told).expect("a list");
        let all = told.as_array().cloned().unwrap_or_default().into_iter();
        let routed = all.filter(|one| one["headers"]["X-Route"] == json!(["yes"]));
        let bare = routed.map(|mut one| {
            let fields = one.as_object_mut().expect("an object");
            fields.remove("name");
            fields.remove("connection");
            one
        });
        bare.collect()
    }

    /// How many copies came to that end.
    pub(super) fn copies(&self, end: &str) -> u64 {
        let with = format!("copy=\"{end}\"");
        let metric = self.agents[0].metric("mesh_agent_mirrored_requests_total", &with);
        metric.expect("a metric") as u64
    }

    pub(super) fn wait_for_copies(&self, end: &str, count: u64) {
        let all = eventually(Duration::from_secs(30), || self.copies(end) >= count);
        let metrics = self.agents[0].metrics().expect("metrics");
        let lines = metrics.lines().filter(|line| line.contains("mirrored"));
        assert!(all, "{end}: {:?}", lines.collect::<Vec<_>>());
    }
}

#[test]
fn a_copy_is_the_request_with_its_body_and_trailers_and_the_server_alone_answers() {
    let mesh = Mesh::of_http();
    let to = &mesh.services()[0].1;
    // To another node and within the node, by route and by copy.
    for (at, other) in [(0, 1), (1, 0)] {
        let (server, copy) = (&mesh.servers[at], &mesh.servers[other]);
        let before = [mesh.routed(server).len(), mesh.routed(copy).len()];
        mesh.policy("route", &mirrored("HTTPRoute", &server.name, &copy.name));
        let answered = mesh.copies("answered");
        let names = mesh.client(&["names", to, "20"]);
        assert_eq!(names, json!({server.name.as_str(): 20}));
        let told = mesh.client(&["upload", to, "/up", "50000"]);
        assert_eq!(told["told"]["name"], server.name, "{told}");
        assert_eq!(told["told"]["body"], 50_000, "{told}");
        mesh.wait_for_copies("answered", answered + 21);
        let own = &mesh.routed(server)[before[0]..];
        let mut copied = mesh.routed(copy).split_off(before[1]);
        // Each went by itself.
        copied.sort_by_key(|one| one["method"] == "POST");
        assert_eq!(own, copied);
        let last = copied.last().expect("a request");
        assert_eq!(last["trailer"]["X-Sum"], json!(["7"]), "{last}");
    }
}

#[test]
fn whatever_becomes_of_a_copy_its_request_goes_on() {
    let mesh = Mesh::of_http();
    let to = &mesh.services()[0].1;
    mesh.policy("route", &mirrored("HTTPRoute", "b", "c"));
    // The other server never answers.
    let mut asked = vec!["get", to.as_str()];
    asked.extend(["/silent/c"; 70]);
    for answer in mesh.client(&asked).as_array().expect("answers") {
        assert_eq!(answer["told"]["name"], "b", "{answer}");
    }
    assert_eq!(mesh.copies("full"), 6, "64 of a pod are under way");
    mesh.wait_for_copies("timed_out", 64);
    // Too long to be held.
    let told = mesh.client(&["upload", to, "/up", "3000000"]);
    assert_eq!(told["told"]["body"], 3_000_000, "{told}");
    mesh.wait_for_copies("too_long", 1);
    // More of an answer than anybody wants to know is let go of.
    let answered = mesh.copies("answered");
    let told = mesh.client(&["get", to, "/bytes/20000000"]);
    assert_eq!(told[0]["status"], 200);
    mesh.wait_for_copies("answered", answered + 1);
    // A server that resets it, and a Service that is not there.
    let failed = mesh.copies("failed");
    let told = mesh.client(&["get", to, "/reset", "/x"]);
    assert_eq!(told[1]["told"]["name"], "b", "{told}");
    mesh.wait_for_copies("failed", failed + 1);
    mesh.policy("route", &mirrored("HTTPRoute", "b", "nobody"));
    let names = mesh.client(&["names", to, "5"]);
    assert_eq!(names, json!({"b": 5}));
    mesh.wait_for_copies("refused", 5);
}

const NO_A: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-a, namespace: shop}
spec: {selector: {matchLabels: {app: @}}, action: DENY, rules: [{from: [{source: {principals: ["*/sa/a"]}}]}]}
"#;

#[test]
fn a_copy_goes_to_nobody_whose_policy_denies_it() {
    let mesh = Mesh::of_http();
    let to = &mesh.services()[0].1;
    for (server, copy) in [("b", "c"), ("c", "b")] {
        let at = usize::from(copy == "c");
        let had = mesh.routed(&mesh.servers[at]).len();
        mesh.policy("route", &mirrored("HTTPRoute", server, copy));
        mesh.policy("no-a", &NO_A.replace('@', copy));
        let refused = mesh.copies("refused");
        let names = mesh.client(&["names", to, "5"]);
        assert_eq!(names, json!({server: 5}));
        mesh.wait_for_copies("refused", refused + 5);
        mesh.policy("no-a", "");
        assert_eq!(mesh.routed(&mesh.servers[at]).len(), had, "{copy}");
    }
}

#[test]
fn calls_of_grpc_have_copies_and_a_stream_once_it_ends() {
    let mesh = Mesh::serving("serve-grpc", &[]);
    let to = &mesh.services()[0].1;
    mesh.policy("route", &mirrored("GRPCRoute", "b", "c"));
    let told = mesh.client(&["unary", to, "10000"]);
    assert_eq!(told, json!(["OK", "", 10_000, ["b"]]));
    assert_eq!(mesh.client(&["stream", to, "100"]), true);
    mesh.wait_for_copies("answered", 2);
    let of_c = ["reporter=\"destination\"", "destination_workload=\"c\""];
    let served = |status: &str| {
        let status = format!("grpc_response_status=\"{status}\"");
        counted(&mesh.agents[1], &[of_c[0], of_c[1], &status])
    };
    let told = eventually(Duration::from_secs(20), || served("0") == 2);
    assert!(told, "{}", served("0"));
    let told = mesh.client(&["call", to, "/test.Echo/Fail"]);
    assert_eq!(told[0], "FailedPrecondition", "{told}");
    let told = eventually(Duration::from_secs(20), || served("9") == 1);
    assert!(told, "{}", served("9"));
}
