//! gRPC of grpcio, at each end of that of grpc-go and of itself.

use super::*;

const SCRIPT: &str = include_str!("grpcio.py");
const PYTHON: &str = "/usr/bin/python3";

/// Its servers; `how`: more arguments of theirs.
fn mesh(how: &[&str]) -> Mesh {
    let (mut world, [a, b, c]) = World::of_three().expect("a world");
    for pod in [&b, &c] {
        let mut server = world.in_pod(pod, PYTHON);
        server.args(["-c", SCRIPT, "serve", &pod.name, &APP_PORT.to_string()]);
        server.args(how);
        world.start_server(pod, APP_PORT, server).expect("a server");
    }
    Mesh::over(world, a, [b, c])
}

impl Mesh {
    /// A verb of the script in the client's pod.
    fn python(&self, args: &[&str]) -> Value {
        let mut client = self.world.in_pod(&self.a, PYTHON);
        client.args(["-c", SCRIPT]).args(args).stdin(Stdio::null());
        let output = client.output().expect("python runs");
        parse(&output).unwrap_or_else(|problem| panic!("{args:?}: {problem:#}"))
    }
}

const NOT_NOW: &str = "not now: \u{e9}%";

/// Against servers of either kind.
fn calls(mesh: &Mesh) {
    for (pod, to) in mesh.services() {
        let told = mesh.python(&["unary", &to, "100000"]);
        assert_eq!(told, json!(["OK", "", 100_000, [pod.name]]));
        assert_eq!(mesh.python(&["stream", &to, "500"]), true, "{}", pod.name);
        let failed = json!([["FAILED_PRECONDITION", NOT_NOW], "UNIMPLEMENTED"]);
        assert_eq!(mesh.python(&["fails", &to]), failed, "{}", pod.name);
        let ended = json!(["DEADLINE_EXCEEDED", true, "CANCELLED", true]);
        assert_eq!(mesh.python(&["ends", &to]), ended, "{}", pod.name);
    }
}

#[test]
fn its_calls_streams_and_ends_pass_to_servers_of_its_own_and_of_go() {
    let own = mesh(&[]);
    calls(&own);
    for (pod, to) in own.services() {
        let told = own.python(&["ways", &to, "300"]);
        assert_eq!(told, json!([true, 300_000]), "{}", pod.name);
    }
    calls(&Mesh::serving("serve-grpc", &[]));
}

#[test]
fn its_servers_serve_clients_of_go() {
    let mesh = mesh(&[]);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["unary", &to, "100000"]);
        assert_eq!(told, json!(["OK", "", 100_000, [pod.name]]));
        assert_eq!(mesh.client(&["stream", &to, "500"]), true, "{}", pod.name);
        let told = mesh.client(&["call", &to, "/test.Echo/Fail"]);
        assert_eq!(told, json!(["FailedPrecondition", NOT_NOW]));
        let told = mesh.client(&["deadline", &to, "1"]);
        assert_eq!(told[0], "DeadlineExceeded", "{told}");
        assert_eq!(told[2], "seen", "the server is told: {told}");
    }
}

/// Calls beside streams that outlive their connections' age.
#[test]
fn connections_that_it_lets_go_of_lose_no_call_and_no_stream() {
    let mesh = mesh(&["300"]);
    let all = json!({"OK": 300, "stream whole": 20});
    for (pod, to) in mesh.services() {
        let told = mesh.python(&["aged", &to, "100", "3", "20"]);
        assert_eq!(told, all, "{}", pod.name);
    }
}
