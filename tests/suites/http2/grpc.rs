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
            mesh.client(&["early", &to, "300"]),
            json!({"whole": 300}),
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
fn connections_that_a_server_lets_go_of_lose_no_call() {
    let mesh = Mesh::serving("serve-grpc", &["300"]);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["load", &to, "4000"]);
        let told = told.as_object().expect("counts");
        assert_eq!(
            told.keys().collect::<Vec<_>>(),
            ["OK"],
            "{}: {told:?}",
            pod.name
        );
    }
}
