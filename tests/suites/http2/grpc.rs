//! gRPC of grpc-go.

use super::*;

fn mesh() -> Mesh {
    Mesh::serving("serve-grpc", &[])
}

#[test]
fn calls_and_streams_pass_both_ways() {
    let mesh = mesh();
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["unary", &to, "100000"]);
        assert_eq!(told, json!(["OK", "", 100_000, [pod.name]]));
        assert_eq!(mesh.client(&["stream", &to, "500"]), true, "{}", pod.name);
        let told = mesh.client(&["call", &to, "/test.Echo/Fail"]);
        assert_eq!(told, json!(["FailedPrecondition", "not now: \u{e9}%"]));
        let told = mesh.client(&["deadline", &to, "1"]);
        assert_eq!(told[0], "DeadlineExceeded", "{told}");
        assert_eq!(told[2], "seen", "the server is told: {told}");
    }
}

/// All of the answer, and then RST_STREAM with NO_ERROR: 100,000 of them where there is time,
/// docs/http.md, and 2,000 otherwise.
#[test]
fn calls_that_are_answered_before_they_are_whole_have_their_answer() {
    let mesh = mesh();
    let calls = figure("100000", "2000");
    let all = json!({"whole": calls.parse::<u32>().expect("a number")});
    for (pod, to) in mesh.services() {
        assert_eq!(mesh.client(&["early", &to, calls]), all, "{}", pod.name);
    }
}

#[test]
fn a_denial_and_a_missing_route_have_their_status() {
    let mesh = mesh();
    mesh.policy("no-admin", DENY_ADMIN);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["call", &to, "/test.Echo/Fail"]);
        assert_eq!(told, json!(["PermissionDenied", "denied"]), "{}", pod.name);
        assert_eq!(mesh.client(&["unary", &to, "5"])[0], "OK", "{}", pod.name);
    }
    let method = "{method: {service: test.Echo, method: Unary}}";
    let only = format!("[{{matches: [{method}], backendRefs: [{{name: c, port: 80}}]}}]");
    mesh.policy("b-route", &route("GRPCRoute", &only));
    let to = &mesh.services()[0].1;
    assert_eq!(mesh.client(&["unary", to, "5"])[3], json!(["c"]));
    assert_eq!(
        mesh.client(&["call", to, "/test.Echo/Early"])[0],
        "Unimplemented"
    );
}

/// 500 unary calls a second beside 50 streams that outlive their connections' age.
#[test]
fn connections_that_a_server_lets_go_of_lose_no_call_and_no_stream() {
    let mesh = Mesh::serving("serve-grpc", &["300"]);
    for (pod, to) in mesh.services() {
        let mut told = mesh.client(&["load", &to, "500", "4", "50"]);
        let taken = told["connections"].take();
        // One every 300 ms, and a slow machine has the more time.
        assert!(taken.as_u64() >= Some(4), "{}: {taken}", pod.name);
        let all = json!({"OK": 2000, "stream whole": 50, "connections": null});
        assert_eq!(told, all, "{}", pod.name);
    }
}

#[test]
fn messages_are_counted_by_each_agent_that_they_pass() {
    let mesh = mesh();
    let [near, far] = &*mesh.agents;
    for (pod, to) in mesh.services() {
        assert_eq!(mesh.client(&["stream", &to, "70"]), true, "{}", pod.name);
        // One message, and a status without any.
        let told = mesh.client(&["call", &to, "/test.Echo/Fail"]);
        assert_eq!(told[0], "FailedPrecondition", "{told}");
    }
    for (agent, reporter, name) in [
        (near, "source", "b"),
        (near, "source", "c"),
        (far, "destination", "c"),
    ] {
        let labels = [
            &format!("reporter=\"{reporter}\"")[..],
            &format!("destination_workload=\"{name}\""),
            "request_protocol=\"grpc\"",
        ];
        let counts = || {
            [
                "istio_request_messages_total",
                "istio_response_messages_total",
            ]
            .map(|name| agent.counter(name, &labels).expect("a page"))
        };
        let told = eventually(Duration::from_secs(20), || counts() == [71, 70]);
        assert!(told, "{labels:?}: {:?}", counts());
    }
}
