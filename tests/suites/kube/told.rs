//! What the mesh tells on the objects themselves.

use std::time::Duration;

use mesh_tests::kube::{Namespace, mesh};

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: somebody, namespace: @NS@}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: ['*']}}]}]
";

/// Another mesh claims it, as this annotation says.
const CLAIMED: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: claimed
  namespace: @NS@
  annotations: {sidecar.istio.io/status: '{}'}
spec:
  containers: [{name: c, image: cluster.local/busybox:1, imagePullPolicy: Never, command: [sleep, '60']}]
";

const LONG: Duration = Duration::from_secs(90);

#[test]
fn a_policy_says_on_how_many_nodes_it_is_in_force_and_a_pod_why_it_is_not_enrolled() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "told", true).expect("a namespace");
    ns.apply(POLICY).expect("applied");
    ns.apply(CLAIMED).expect("applied");
    let conditions = || {
        let policy = ns.get("authorizationpolicy somebody").unwrap_or_default();
        policy["status"]["conditions"].to_string()
    };
    let told = mesh.cluster.wait_until("in force", LONG, || {
        let said = conditions();
        said.contains("mesh-agent.io/Accepted") && said.contains("in force on 2 of 2 nodes")
    });
    told.unwrap_or_else(|error| panic!("{error:#}: {}", conditions()));
    let events = || {
        let words = format!("-n {} get events -o json", ns.name);
        mesh.cluster.kubectl(&words).unwrap_or_default()
    };
    let told = mesh.cluster.wait_until("an event", LONG, || {
        let all: serde_json::Value = serde_json::from_str(&events()).unwrap_or_default();
        let items = all["items"].as_array().cloned().unwrap_or_default();
        items.iter().any(|event| {
            event["reason"] == "AnotherMesh"
                && event["involvedObject"]["name"] == "claimed"
                && event["reportingComponent"] == "mesh-agent.io/mesh"
        })
    });
    told.unwrap_or_else(|error| panic!("{error:#}: {}", events()));
}
