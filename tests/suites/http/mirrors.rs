//! Copies of requests that a route wants elsewhere too.

use super::*;

/// Of that server's Service: to itself, and a copy to another one.
fn mirrored(server: &str, copy: &str, share: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {server}-copies, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {server}, port: 80}}]\n  rules:\n  - filters:\n    \
         - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-route, value: \"yes\"}}]}}}}\n    \
         - {{type: RequestMirror, requestMirror: {{backendRef: {{name: {copy}, port: 80}}{share}}}}}\n    \
         backendRefs: [{{name: {server}, port: 80}}]\n"
    )
}

impl Mesh {
    /// Requests that the server has had, by first line, body and headers.
    fn seen(&self, server: &Pod) -> Vec<Value> {
        let url = format!("http://{}:{APP_PORT}/seen", server.v4());
        let told = self.curl(&[&url]);
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"));
        told.as_array().expect("a list").clone()
    }

    /// How many copies came to that end.
    fn copies(&self, end: &str) -> u64 {
        let with = format!("copy=\"{end}\"");
        let metric = self.agents[0].metric("mesh_agent_mirrored_requests_total", &with);
        metric.expect("a metric") as u64
    }

    fn wait_for_copies(&self, end: &str, count: u64) {
        let all = eventually(Duration::from_secs(40), || self.copies(end) >= count);
        let metrics = self.agents[0].metrics().expect("metrics");
        let lines = metrics.lines().filter(|line| line.contains("mirrored"));
        assert!(all, "{end}: {:?}", lines.collect::<Vec<_>>());
    }
}

#[test]
fn a_copy_is_the_request_with_its_body_and_the_client_sees_the_servers_answer_alone() {
    let mesh = Mesh::new();
    // Within the node and to another one, by route and by copy.
    for (at, other) in [(0, 1), (1, 0)] {
        let (server, copy) = (&mesh.servers[at], &mesh.servers[other]);
        mesh.policy("route", &mirrored(&server.name, &copy.name, ""));
        let before = mesh.copies("answered");
        for vip in server.vips() {
            let url = format!("http://{vip}/x?{}", server.name);
            for body in ["", "some=body"] {
                let args = ["-X", "PUT", "-d", body, &url];
                let told: Value = serde_json::from_str(&mesh.curl(&args)).expect("an answer");
                assert_eq!(told["name"], server.name, "{told}");
            }
            let told = mesh.client(&["upload", &vip, "50000", "chunked"]);
            assert_eq!(told[0], told[1]);
        }
        mesh.wait_for_copies("answered", before + 6);
        let line = format!("PUT /x?{} HTTP/1.1", server.name);
        let (own, copied) = (mesh.seen(server), mesh.seen(copy));
        for asked in [line.as_str(), "POST /echo HTTP/1.1"] {
            let of = |seen: &[Value]| -> Vec<Value> {
                let mut all: Vec<Value> = seen
                    .iter()
                    .filter(|one| one["first"] == asked && one["route"] == "yes")
                    .cloned()
                    .collect();
                all.sort_by_key(ToString::to_string);
                all
            };
            let (own, copied) = (of(&own), of(&copied));
            assert!(!own.is_empty(), "{asked}");
            match asked == line {
                true => assert_eq!(own, copied, "{asked}"),
                // The other turn's, too.
                false => assert!(own.iter().all(|one| copied.contains(one))),
            }
        }
    }
}

/// Copies that have no end yet.
fn under_way(mesh: &Mesh) -> f64 {
    let all = mesh.agents[0].metric("mesh_agent_mirrored_requests_active", "");
    all.expect("a metric")
}

/// Nothing ends behind another protocol.
#[test]
fn what_goes_on_as_another_protocol_has_no_copy() {
    let mesh = Mesh::new();
    mesh.policy("route", &mirrored("b", "c", ""));
    let vip = &mesh.servers[0].vips()[0];
    for _ in 0..20 {
        let told = mesh.client(&["upgrade", vip, "fin"]);
        assert_eq!(told[1], "first frame", "{told}");
    }
    // What is begun has its place until it ends, and an end then.
    assert_eq!(under_way(&mesh), 0.0, "some are under way");
    let ends = mesh.agents[0].metric("mesh_agent_mirrored_requests_total{", "");
    assert_eq!(ends.expect("a metric"), 0.0, "some came to an end");
    // There would be one of anything else.
    mesh.client(&["keep_alive", vip, "1"]);
    mesh.wait_for_copies("answered", 1);
}

/// How mutual TLS is used at server c.
fn mode_of_c(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: c, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: c}}}}, mtls: {{mode: {mode}}}}}\n"
    )
}

/// In clear the server would refuse it.
#[test]
fn a_copy_goes_the_way_that_holds_when_it_is_sent() {
    let mesh = Mesh::new();
    mesh.policy("route", &mirrored("b", "c", ""));
    mesh.policy("mode", &mode_of_c("DISABLE"));
    let vip = &mesh.servers[0].vips()[0];
    let upload = mesh.waiting(&["begun", vip, "/late", "1", "100"]);
    mesh.policy("mode", &mode_of_c("STRICT"));
    assert_eq!(upload.goes_on(), "[200]");
    mesh.wait_for_copies("answered", 1);
    let [of_b, of_c] = mesh.servers.each_ref().map(|server| {
        let seen = mesh.seen(server).into_iter();
        seen.filter(|one| one["first"] == "POST /late HTTP/1.1")
            .collect::<Vec<_>>()
    });
    assert_eq!((of_b.len(), &of_b), (1, &of_c));
}

#[test]
fn a_copy_that_waits_for_its_request_takes_nobodys_place() {
    let mesh = Mesh::new();
    mesh.policy("route", &mirrored("b", "c", ""));
    let few = traffic_policy("few", &["c"], "limits: {maxRequests: 2}");
    mesh.policy("few", &few);
    let [to_b, to_c] = mesh
        .servers
        .each_ref()
        .map(|server| server.vips()[0].clone());
    let uploads = mesh.waiting(&["begun", &to_b, "/late", "5", "100"]);
    let told = mesh.client(&["keep_alive", &to_c, "5"]);
    assert_eq!(told[4][1]["name"], "c", "{told}");
    assert_eq!(uploads.goes_on(), "[200, 200, 200, 200, 200]");
    mesh.wait_for_copies("answered", 2);
}

#[test]
fn copies_are_made_in_their_share() {
    let mesh = Mesh::new();
    let tenth = ", fraction: {numerator: 1, denominator: 10}";
    mesh.policy("route", &mirrored("b", "c", tenth));
    let vip = &mesh.servers[0].vips()[0];
    let told = mesh.client(&["keep_alive", vip, "4500"]);
    let told = told.as_array().expect("answers");
    assert!(told.iter().all(|one| one[1]["name"] == "b"));
    // One that is begun has its place until it has an end.
    let is_over = || under_way(&mesh) == 0.0;
    assert!(
        eventually(Duration::from_secs(20), is_over),
        "{}",
        under_way(&mesh)
    );
    let ends = ["answered", "full", "failed", "abandoned"];
    let all = ends.iter().map(|end| mesh.copies(end)).sum::<u64>();
    // Six times the standard deviation.
    assert!((329..=571).contains(&all), "{all}");
}

#[test]
fn whatever_becomes_of_a_copy_its_request_goes_on() {
    let mesh = Mesh::new();
    mesh.policy("route", &mirrored("b", "c", ""));
    let vip = &mesh.servers[0].vips()[0];
    // The other server never answers.
    const ASKED: u64 = 150;
    for _ in 0..ASKED {
        let url = format!("http://{vip}/silent/c");
        let told: Value = serde_json::from_str(&mesh.curl(&[&url])).expect("an answer");
        assert_eq!(told["name"], "b");
    }
    mesh.wait_for_copies("timed_out", 1);
    // Each worker has its part of the places for copies: where the first is free again the other
    // one's need not be.
    let are_over = eventually(PATIENCE, || under_way(&mesh) == 0.0);
    assert!(are_over, "{} are under way", under_way(&mesh));
    // Too long to be held.
    let told = mesh.client(&["upload", vip, "3000000", "length"]);
    assert_eq!(told[0], told[1]);
    mesh.wait_for_copies("too_long", 1);
    // Each has one end.
    let all = || {
        let all = mesh.agents[0].metric("mesh_agent_mirrored_requests_total{", "");
        all.expect("a metric") as u64
    };
    let ended = eventually(Duration::from_secs(20), || all() == ASKED + 1);
    assert!(ended, "{} of {ASKED} and one", all());
    // A Service without an endpoint, and one that is not there.
    let empty = "apiVersion: v1\nkind: Service\nmetadata: {name: empty, namespace: shop}\nspec: {clusterIP: 10.96.9.9, ports: [{port: 80}]}\n";
    mesh.policy("empty", empty);
    for nobody in ["empty", "nobody"] {
        mesh.policy("route", &mirrored("b", nobody, ""));
        let before = mesh.copies("refused");
        let told = mesh.client(&["keep_alive", vip, "5"]);
        assert_eq!(told[4][1]["name"], "b", "{told}");
        mesh.wait_for_copies("refused", before + 5);
    }
}

pub(super) const NO_A: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-a, namespace: shop}\n\
     spec: {selector: {matchLabels: {app: @}}, action: DENY, rules: [{from: [{source: {principals: [\"*/sa/a\"]}}]}]}\n";

#[test]
fn a_copy_goes_to_nobody_whose_policy_denies_it() {
    let mesh = Mesh::new();
    for (server, copy) in [("b", "c"), ("c", "b")] {
        let at = usize::from(server == "c");
        let routed = || {
            let seen = mesh.seen(&mesh.servers[1 - at]).into_iter();
            seen.filter(|one| one["route"] == "yes").count()
        };
        let had = routed();
        mesh.policy("route", &mirrored(server, copy, ""));
        mesh.policy("no-a", &NO_A.replace('@', copy));
        let before = mesh.copies("refused");
        let told = mesh.client(&["keep_alive", &mesh.servers[at].vips()[0], "5"]);
        assert_eq!(told[4][1]["name"], server, "{told}");
        mesh.wait_for_copies("refused", before + 5);
        mesh.policy("no-a", "");
        assert_eq!(routed(), had, "{server}");
    }
}
