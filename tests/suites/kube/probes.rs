//! The kubelet's probes, and who else gets in where only mutual TLS does.

use std::time::Duration;

use mesh_tests::kube::{Namespace, mesh};

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: @NS@}
spec: {mtls: {mode: STRICT}}
";

/// Probed by HTTP, TCP and exec, each every second.
const PROBED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: @NS@, labels: {app: probed}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: cluster.local/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'echo here >/www/index.html; exec httpd -f -p \"[::]:8080\" -h /www']
    startupProbe: {exec: {command: [cat, /www/index.html]}, periodSeconds: 1}
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, timeoutSeconds: 2}
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3}
";

#[test]
fn probes_pass_where_only_mutual_tls_is_taken_and_nobody_else_of_the_node_does() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "probes", true).expect("a namespace");
    ns.apply(STRICT).expect("a policy");
    ns.apply(PROBED).expect("a pod");
    let pod = ns.app("probed").expect("it is ready");
    // Ten of each: what is let through once may be a race that was won.
    let failures = "-n probes get events --field-selector reason=Unhealthy -o name";
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(mesh.cluster.kubectl(failures).expect("events"), "");
    let state = ns.get("pod probed").expect("the pod");
    let container = &state["status"]["containerStatuses"][0];
    assert_eq!(container["restartCount"], 0, "{container}");
    assert_eq!(container["ready"], true, "{container}");
    // From the same node, to the very port that probes reach, beside the kubelet's cgroup.
    let url = format!("http://{}:8080/", pod.v4());
    let curl = ["curl", "-sS", "-m", "5", &url];
    let refused = mesh.cluster.in_network(1, &curl).expect_err("refused");
    assert!(format!("{refused:#}").contains("reset"), "{refused:#}");
    // From a pod outside the mesh.
    let outside = Namespace::new(mesh.cluster, "outside", false).expect("a namespace");
    outside.add_app("stranger", 1).expect("a pod");
    outside.app("stranger").expect("a pod");
    let report = outside.storm("stranger", &[format!("{}:8080", pod.v4())], 5);
    let report = report.expect("a report");
    assert_eq!(report["ok"], 0, "{report}");
    assert_eq!(report["lost"], 5, "{report}");
}
