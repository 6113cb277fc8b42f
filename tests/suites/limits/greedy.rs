//! A pod that asks for much, beside another one that asks little of the same Service.

use std::time::Duration;

use mesh_tests::eventually;

use super::{Mesh, PYTHON, SCRIPT};

/// The greedy pod's requests fill the places and the queue.
#[test]
fn a_quiet_pods_request_waits_its_turn_and_not_behind_all_of_a_greedy_ones() {
    let mesh = Mesh::new("serve");
    mesh.says("limits: {maxRequests: 1, maxPendingRequests: 20, maxPendingTime: 20s}");
    for server in &mesh.servers {
        let to = &server.vips()[0];
        let mut greedy = mesh.world.in_pod(&mesh.clients[0], PYTHON);
        let greedy = greedy.args(["-c", SCRIPT, "crowd", to, "30", "0.5"]);
        let mut greedy = greedy.spawn().expect("a client");
        assert!(eventually(Duration::from_secs(10), || mesh.waits() >= 10.0));
        let told = mesh.client(&mesh.clients[1], &["crowd", to, "1", "0"]);
        let status = told[0][0].as_u64();
        assert_eq!(status, Some(200), "{}: {told}", server.name);
        let at = told[0][2].as_f64().expect("a time");
        assert!(at < 3.0, "{}: two others take 1 s: {told}", server.name);
        let _ended = greedy.wait();
    }
}

/// Whose requests wait by themselves, if they do.
#[test]
fn a_client_of_http_does_not_wait_for_a_place_among_connections() {
    let mesh = Mesh::new("serve");
    mesh.says("limits: {maxConnections: 1, maxPendingTime: 30s}");
    for server in &mesh.servers {
        let to = &server.vips()[0];
        let holding = mesh.world.hold(&mesh.clients[1], to, 1);
        let mut holding = holding.expect("a client");
        let is_held = || {
            let list = mesh.agents[0].ask("/endpoints").expect("a page");
            let rows = list["endpoints"].as_array().expect("rows").clone();
            rows.iter().any(|row| row["in_flight"] == 1)
        };
        assert!(eventually(Duration::from_secs(20), is_held));
        // The client waits for no more than 5 s.
        assert_eq!(mesh.passed(0, server, "0.1"), 10, "{}", server.name);
        holding.kill().expect("it ends");
        let _ended = holding.wait();
        assert!(eventually(Duration::from_secs(15), || !is_held()));
    }
}
