//! Who calls, told to applications that ask for it.

use super::*;
use mesh_tests::{OnAgentDown, PodSpec};

const ASKS: &str = "mesh-agent.io/forward-client-cert-details";
const FORGED: &str = "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/king";

#[test]
fn an_application_that_asks_is_told_who_calls_and_nobody_can_forge_it() {
    let mut world = World::new(2).expect("a world");
    let spec = |node, name| PodSpec::new(node, name).enrolled(OnAgentDown::Closed);
    let a = world.add(&spec("n1", "a")).expect("a pod");
    let servers = [("n1", "b"), ("n2", "c")].map(|(node, name)| {
        let spec = spec(node, name).annotation(ASKS, "SANITIZE_SET");
        let pod = world.add(&spec).expect("a pod");
        let mut server = world.in_pod(&pod, peer());
        server.args(["serve-http", name, &APP_PORT.to_string()]);
        let started = world.start_server(&pod, APP_PORT, server);
        started.expect("a server");
        pod
    });
    let mesh = Mesh::over(world, a, servers);
    for (pod, to) in mesh.services() {
        let mut curl = mesh.world.in_pod(&mesh.a, "curl");
        curl.args(["-sS", "--max-time", "20", "--http2-prior-knowledge"]);
        let told = curl
            .args(["-H", FORGED, &format!("http://{to}/x")])
            .output();
        let told: Value = serde_json::from_slice(&told.expect("curl runs").stdout).expect("JSON");
        let seen = &told["headers"]["X-Forwarded-Client-Cert"];
        let [one] = &seen.as_array().expect("lines")[..] else {
            panic!("{}: {told}", pod.name);
        };
        let parts: Vec<&str> = one.as_str().expect("text").split(';').collect();
        let [by, hash, uri] = parts[..] else {
            panic!("{}: {one}", pod.name);
        };
        assert!(by.ends_with(&format!("/ns/shop/sa/{}", pod.name)), "{by}");
        assert_eq!(hash.len(), "Hash=".len() + 64, "{hash}");
        assert!(uri.ends_with("/ns/shop/sa/a"), "{uri}");
    }
}
