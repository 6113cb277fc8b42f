//! Requests that a server of HTTP/2 did not take: by its word for one, as it leaves, or
//! because it is not there.

use super::mirrors::mirrored;
use super::*;

impl Mesh {
    /// How many went from there to a fresh connection, for nobody had taken them.
    fn untaken(&self, agent: usize) -> u64 {
        let metric = self.agents[agent].metric("mesh_agent_http2_replays_total", "");
        metric.expect("a metric") as u64
    }
}

/// Said of a stream alone it is a retry, once, within the budget; then the client is told
/// the same, and its connection goes on.
#[test]
fn a_stream_that_the_server_refuses_goes_once_more_and_no_other_notices() {
    let mesh = Mesh::serving("serve-unwilling", &[]);
    for (pod, to) in mesh.services() {
        let told = mesh.client(&["once", &to, "/x", "/once/a", "/x", "/refused", "/x"]);
        assert_eq!(
            told,
            json!(["0", "1", "1", "reset REFUSED_STREAM", "3"]),
            "{}",
            pod.name
        );
    }
}

#[test]
fn a_request_that_nobody_took_is_copied_once() {
    let mesh = Mesh::serving("serve-unwilling", &[]);
    let to = &mesh.services()[0].1;
    mesh.policy("route", &mirrored("HTTPRoute", "b", "c"));
    // On a connection that has carried others, and with more behind it.
    let told = mesh.client(&["once", to, "/x", "/away/b", "/x", "/x"]);
    assert_eq!(told, json!(["0", "0", "0", "0"]));
    assert_eq!(mesh.untaken(0), 1);
    mesh.wait_for_copies("answered", 4);
    assert_eq!(mesh.copies("answered"), 4);
}

/// By the agent of the client's node, or by that of the server's.
#[test]
fn a_request_that_nobody_took_counts_once_by_its_servers_limit() {
    let mesh = Mesh::serving("serve-unwilling", &[]);
    let few = "rateLimits: [{name: few, requests: 1, interval: 1h, burst: 4}]";
    mesh.policy("limit", &traffic_policy("servers", &["b", "c"], few));
    for (at, (server, to)) in mesh.services().into_iter().enumerate() {
        let away = format!("/away/{}", server.name);
        let told = mesh.client(&["once", &to, "/x", &away, "/x", "/x", "/x"]);
        let all = told.as_array().expect("bodies").iter();
        let answered: Vec<bool> = all.map(|body| body == "0").collect();
        assert_eq!(answered, [true, true, true, true, false], "{}", server.name);
        assert_eq!(mesh.untaken(at), 1, "{}", server.name);
    }
}

/// The one retry that there may be is for what the server refused; where it leaves behind
/// that, nobody has worked on the request.
#[test]
fn a_request_that_was_refused_and_then_not_taken_is_one_retry() {
    let mesh = Mesh::serving("serve-unwilling", &[]);
    let one = "retryBudget: {interval: 1h, percent: 0, minRetryRate: {count: 1, interval: 1h}}";
    mesh.policy("budget", &traffic_policy("servers", &["b"], one));
    let to = &mesh.services()[0].1;
    let told = mesh.client(&["once", to, "/x", "/both/b", "/once/a"]);
    assert_eq!(told, json!(["0", "1", "reset REFUSED_STREAM"]));
    assert_eq!(mesh.untaken(0), 1);
}

#[test]
fn a_server_that_is_killed_is_told_of_and_the_connection_goes_on() {
    let mesh = Mesh::of_http();
    for (pod, to) in mesh.services() {
        let held = mesh.held(&["hold", &to, "/open"]);
        let _its_last = mesh.client(&["get", &to, "/die"]);
        let told = held.end();
        assert_eq!(told["end"], "reset INTERNAL_ERROR", "{}: {told}", pod.name);
        assert_eq!(told["after"], 503, "{}: {told}", pod.name);
    }
}

#[test]
fn where_nobody_listens_each_request_is_told_so() {
    let (world, [a, b, c]) = World::of_three().expect("a world");
    let mesh = Mesh::over(world, a, [b, c]);
    // Else a client that is late is a connection: its server might speak first.
    mesh.policy(
        "http",
        &traffic_policy("http", &["b", "c"], "protocol: HTTP"),
    );
    for (pod, to) in mesh.services() {
        let answers = mesh.client(&["get", &to, "/x", "/y"]);
        for answer in answers.as_array().expect("answers") {
            let told = (&answer["status"], &answer["body"]);
            assert_eq!(
                told,
                (&json!(503), &json!("connect_refused\n")),
                "{}: {answers}",
                pod.name
            );
        }
    }
}
