//! An agent that ends, and what it has said by then.

use super::*;

/// The kernel still has most of it when the agent is done, and the capture ends with the agent.
#[test]
fn a_client_on_a_slow_line_gets_its_answer_from_an_agent_that_ends_or_is_told() {
    let cases = [
        ("30s", "64000", "whole"),
        ("2s", "32000", "ConnectionResetError"),
    ];
    for (drain, rate, expected) in cases {
        let mesh = Mesh::serving_with(&[], &["--drain-timeout", drain]);
        let to = mesh.servers[1].vips()[0].clone();
        let mut client = mesh.world.in_pod(&mesh.a, PYTHON);
        client.args(["-c", SCRIPT, "slow_line", &to, "400000", rate]);
        let mut client = client.stdout(Stdio::piped()).spawn().expect("python runs");
        let out = BufReader::new(client.stdout.take().expect("a pipe"));
        let mut lines = out.lines().map(|line| line.expect("a line"));
        assert_eq!(lines.next().as_deref(), Some("open"));
        mesh.agents[0].terminate().expect("a signal");
        assert_eq!(lines.next().as_deref(), Some(expected));
        let _ended = client.wait();
    }
}

/// Of a connection that was over before the agent was told to end, whatever its kernel had not
/// delivered by then.
#[test]
fn a_client_of_a_connection_that_is_over_gets_its_answer_from_an_agent_that_ends_or_is_told() {
    let cases = [
        ("30s", "32000", "whole"),
        ("2s", "8000", "ConnectionResetError"),
    ];
    for (drain, rate, expected) in cases {
        let mesh = Mesh::serving_with(&[], &["--drain-timeout", drain]);
        let to = mesh.servers[1].vips()[0].clone();
        let mut client = mesh.world.in_pod(&mesh.a, PYTHON);
        client.args(["-c", SCRIPT, "slow_line", &to, "80000", rate, "ends"]);
        let mut client = client.stdout(Stdio::piped()).spawn().expect("python runs");
        let out = BufReader::new(client.stdout.take().expect("a pipe"));
        let mut lines = out.lines().map(|line| line.expect("a line"));
        assert_eq!(lines.next().as_deref(), Some("open"));
        // Both sides have said that they are done as soon as its answer is there.
        let source = "reporter=\"source\"";
        let _all = mesh.agents[0].counter_comes_to("istio_requests_total", &[source], 1);
        mesh.agents[0].terminate().expect("a signal");
        assert_eq!(lines.next().as_deref(), Some(expected));
        let _ended = client.wait();
    }
}
