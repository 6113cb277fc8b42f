//! Connections that go on for long, while the configuration changes.

use super::*;

/// A cluster's changes each second, and its clients' connections live for hours: who keeps
/// what each began by keeps them all.
#[test]
fn connections_that_last_keep_no_configuration_of_their_beginning() {
    const CHANGES: usize = 6;
    let mesh = Mesh::new();
    let upgrade =
        r"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let (mut asked, mut silent) = (vec![], vec![]);
    for change in 0..CHANGES {
        for server in &mesh.servers {
            let to = &server.vips()[0];
            asked.push(mesh.waiting(&["lasting", to]));
            asked.push(mesh.waiting(&["held", to, upgrade]));
            silent.push(mesh.world.hold(&mesh.a, to, 1).expect("held"));
        }
        mesh.policy(
            &format!("change-{change}"),
            &format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: change-{change}, namespace: nowhere}}\n\
                 spec: {{action: DENY, rules: [{{to: [{{operation: {{ports: [\"1\"]}}}}]}}]}}\n"
            ),
        );
    }
    let is_held = |agent: &Agent| agent.metric("mesh_agent_configurations_held ", "");
    let mut held = [0.0; 2];
    let few = eventually(PATIENCE, || {
        held = mesh.agents.each(is_held).unwrap_or([f64::MAX; 2]);
        held.iter().all(|held| *held <= 2.0)
    });
    for mut client in silent {
        let _ended = client.kill();
        let _status = client.wait();
    }
    assert!(few, "{held:?} of {CHANGES} changes");
    for client in asked {
        let said = client.goes_on();
        assert!(["answered", "fin"].contains(&&*said), "{said}");
    }
}
