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
