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
        assert_eq!(
            mesh.client(&["early", &to, "2000"]),
            json!({"whole": 2000}),
            "{}",
            pod.name
        );
        let told = mesh.client(&["deadline", &to, "1"]);
        assert_eq!(told[0], "DeadlineExceeded", "{told}");
        assert_eq!(told[2], "seen", "the server is told: {told}");
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

#[test]
fn connections_that_a_server_lets_go_of_lose_no_call_and_no_stream() {
    let mesh = Mesh::serving("serve-grpc", &["300"]);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["load", &to, "4000", "20"]);
        let ends = told.as_object().expect("counts");
        assert_eq!(
            ends.keys().collect::<Vec<_>>(),
            ["OK", "stream whole"],
            "{}: {told}",
            pod.name
        );
        assert_eq!(told["stream whole"], 20, "{}: {told}", pod.name);
        println!("{}: {told}", pod.name);
    }
}

#[test]
fn messages_are_counted_by_each_agent_that_they_pass() {
    let mesh = mesh();
    let [near, far] = &mesh.agents;
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
            .map(|name| counter(agent, name, &labels))
        };
        let told = eventually(Duration::from_secs(5), || counts() == [71, 70]);
        assert!(told, "{labels:?}: {:?}", counts());
    }
}
