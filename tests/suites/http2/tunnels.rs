//! WebSocket over HTTP/2 (extended CONNECT, RFC 8441), with a server that offers it and one
//! that does not.

use super::*;

#[test]
fn a_tunnel_passes_both_ways_and_rules_see_the_upgrade_that_it_is() {
    let mesh = Mesh::serving("serve-tunnels", &[]);
    let denied = DENY_ADMIN.replace("{paths:", "{methods: [GET], paths:");
    mesh.policy("no-admin", &denied);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["tunnels", &to]);
        let expected = json!({
            "echo": "whole",
            "reset": "200 half reset INTERNAL_ERROR",
            "denied": "403 denied",
            "head": ["CONNECT", "/chat?a=b", ["websocket"], ["chat"]],
            "after": 200,
        });
        assert_eq!(told, expected, "{}", pod.name);
        // The server is told that the client of the last one has left.
        let seen = eventually(Duration::from_secs(20), || {
            mesh.client(&["get", &to, "/cancelled"])[0]["body"] != "0\n"
        });
        assert!(seen, "{}", pod.name);
    }
    for node in ["n1", "n2"] {
        let line = || {
            let mut lines = mesh.world.logged(node).into_iter();
            lines.find(|line| line["path"] == "/echo")
        };
        assert!(
            eventually(Duration::from_secs(20), || line().is_some()),
            "{node}"
        );
        let line = line().expect("a line");
        let told = [&line["method"], &line["version"], &line["status"]];
        assert_eq!(
            told,
            [&json!("CONNECT"), &json!("2"), &json!(200)],
            "{line}"
        );
    }
}

#[test]
fn a_server_that_does_not_offer_them_is_asked_for_none() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let none = "501 upgrade_not_offered";
        let told = mesh.client(&["tunnels", &to]);
        for kind in ["echo", "reset", "denied"] {
            assert_eq!(told[kind], none, "{}: {told}", pod.name);
        }
        assert_eq!(told["after"], 200, "{}: {told}", pod.name);
    }
}
