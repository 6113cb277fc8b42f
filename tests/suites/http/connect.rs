//! CONNECT, behind which there are bytes that no rule sees: where a pod allows it.

use super::*;

const ALLOWS: &str = "mesh-agent.io/allow-connect";

fn mesh(allows: Option<&str>) -> Mesh {
    Mesh::annotated(allows.map(|value| (ALLOWS, value)))
}

#[test]
fn a_connect_is_refused_by_itself_unless_the_pod_allows_it() {
    for allows in [None, Some("false")] {
        let mesh = mesh(allows);
        for pod in &mesh.servers {
            let told = mesh.client(&["tunnel", &pod.vips()[0]]);
            assert_eq!(told, json!([405, 200]), "{}", pod.name);
        }
        for agent in &*mesh.agents {
            let labels = ["reason=\"connect_method\""];
            let refused = agent.counter_comes_to("mesh_agent_requests_refused_total", &labels, 1);
            assert_eq!(refused, 1, "each by the agent of its pod");
        }
    }
    let mesh = mesh(Some("true"));
    for pod in &mesh.servers {
        let told = mesh.client(&["tunnel", &pod.vips()[0]]);
        assert_eq!(told, json!([200, "\0any bytesbye"]), "{}", pod.name);
    }
}

#[test]
fn what_a_pod_allows_no_more_it_refuses_on_connections_that_are_there() {
    let mesh = mesh(Some("true"));
    for pod in &mesh.servers {
        let vip = &pod.vips()[0];
        let kept = mesh.waiting(&["tunnel", vip, "later"]);
        let spec = PodSpec::new(&pod.node, &pod.name).enrolled(OnAgentDown::Closed);
        mesh.world.configure(&spec, pod).expect("written");
        let in_force = eventually(Duration::from_secs(10), || {
            mesh.client(&["tunnel", vip]) == json!([405, 200])
        });
        assert!(in_force, "{}", pod.name);
        assert_eq!(kept.goes_on(), "[405, 200]", "{}", pod.name);
    }
}
