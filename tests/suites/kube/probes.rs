//! The kubelet's probes, and who else gets in where only mutual TLS does.

use std::time::Duration;

use mesh_tests::kube::{Mesh, Namespace, mesh};

pub(crate) const STRICT: &str = "
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

/// Probed by gRPC, by a server of its health protocol.
const GRPC: &str = "
apiVersion: v1
kind: Pod
metadata: {name: grpc, namespace: @NS@, labels: {app: grpc}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: registry.k8s.io/gateway-api/echo-advanced:v1.5.1
    imagePullPolicy: Never
    args: [--grpc=7070, --port=8080]
    env: [{name: INSTANCE_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    readinessProbe: {grpc: {port: 7070}, periodSeconds: 1, timeoutSeconds: 2}
    livenessProbe: {grpc: {port: 7070}, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 3}
";

/// Of the probes of readiness and liveness, by the node's kernel: what is let through once
/// may be a race that was won.
fn ten_of_each(mesh: &Mesh) {
    let passed = || {
        let page = mesh.cluster.agent_metrics(1).expect("its metrics");
        let is_it = |line: &&str| line.contains("event=\"steer_passed_probe\"");
        let line = page.lines().find(is_it).expect("a counter");
        let (_, count) = line.rsplit_once(' ').expect("a number");
        count.parse::<f64>().expect("a number")
    };
    let before = passed();
    let is_so = || passed() >= before + 20.0;
    let waited = mesh
        .cluster
        .wait_until("probed", Duration::from_secs(60), is_so);
    waited.expect("the kubelet probes each second");
}

#[test]
fn grpc_probes_pass_where_only_mutual_tls_is_taken() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "grpc", true).expect("a namespace");
    ns.apply(STRICT).expect("a policy");
    ns.apply(GRPC).expect("a pod");
    let pod = ns.app("grpc").expect("it is ready");
    let ready = ns.get("pod grpc").expect("the pod");
    let changed = |pod: &serde_json::Value| {
        let all = pod["status"]["conditions"].as_array().expect("conditions");
        let ready = all.iter().find(|c| c["type"] == "Ready").expect("one");
        (ready["status"].clone(), ready["lastTransitionTime"].clone())
    };
    ten_of_each(&mesh);
    let state = ns.get("pod grpc").expect("the pod");
    assert_eq!(changed(&state), changed(&ready));
    let container = &state["status"]["containerStatuses"][0];
    assert_eq!(container["restartCount"], 0, "{container}");
    // And nobody else of the node gets to that port.
    let url = format!("http://{}:7070/", pod.v4());
    let curl = ["curl", "-sS", "-m", "5", &url];
    let refused = mesh.cluster.in_network(1, &curl).expect_err("refused");
    assert!(format!("{refused:#}").contains("reset"), "{refused:#}");
}

#[test]
fn probes_pass_where_only_mutual_tls_is_taken_and_nobody_else_of_the_node_does() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "probes", true).expect("a namespace");
    ns.apply(STRICT).expect("a policy");
    ns.apply(PROBED).expect("a pod");
    let pod = ns.app("probed").expect("it is ready");
    let failures = "-n probes get events --field-selector reason=Unhealthy -o name";
    ten_of_each(&mesh);
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

#[test]
fn a_pod_that_would_have_the_kubelet_ask_somebody_else_is_refused_by_the_api_server() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "deputy", true).expect("a namespace");
    let asks = |name: &str, handler: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: @NS@}}\nspec:\n  \
             nodeSelector: {{nowhere: at-all}}\n  containers: [{{name: app, image: x}}, {{name: other, image: x, {handler}}}]\n"
        )
    };
    let tried = |handler: &str| ns.try_apply(&asks("asks", handler));
    let http =
        |field: &str, host: &str| format!("{field}: {{httpGet: {{port: 8080, host: \"{host}\"}}}}");
    let refused = |handler: &str| {
        let said = tried(handler).err().map(|error| format!("{error:#}"));
        said.is_some_and(|said| said.contains("names the host of somebody else"))
    };
    // An API server takes a policy up a moment after it has it.
    let begins = mesh
        .cluster
        .wait_until("refused", Duration::from_secs(30), || {
            refused(&http("readinessProbe", "10.244.1.9"))
        });
    begins.expect("a foreign host is refused");
    for handler in [
        http("livenessProbe", "api.shop.svc"),
        http("startupProbe", "fd00::1"),
        "livenessProbe: {tcpSocket: {port: 80, host: 10.244.1.9}}".to_owned(),
        format!("lifecycle: {{{}}}", http("postStart", "10.244.1.9")),
        format!("lifecycle: {{{}}}", http("preStop", "10.244.1.9")),
    ] {
        assert!(refused(&handler), "{handler}");
    }
    for handler in [
        http("readinessProbe", ""),
        http("readinessProbe", "127.0.0.1"),
        "livenessProbe: {tcpSocket: {port: 80}}".to_owned(),
        "livenessProbe: {exec: {command: [ls]}}".to_owned(),
        "lifecycle: {preStop: {exec: {command: [ls]}}}".to_owned(),
        "livenessProbe: {grpc: {port: 80}}".to_owned(),
    ] {
        tried(&handler).unwrap_or_else(|error| panic!("{handler}: {error:#}"));
    }
    mesh.cluster
        .kubectl("label namespace deputy mesh-agent.io/probe-hosts=any")
        .expect("labelled");
    let may = mesh
        .cluster
        .wait_until("taken", Duration::from_secs(30), || {
            tried(&http("readinessProbe", "10.244.1.9")).is_ok()
        });
    may.expect("where the namespace says so");
    // A pod that is there keeps its probes: what changes it is not held up, such as who
    // takes a finalizer off.
    ns.apply(&asks("asks", &http("readinessProbe", "10.244.1.9")))
        .expect("made");
    mesh.cluster
        .kubectl("label namespace deputy mesh-agent.io/probe-hosts-")
        .expect("labelled");
    let begins = mesh
        .cluster
        .wait_until("refused", Duration::from_secs(30), || {
            ns.try_apply(&asks("new", &http("readinessProbe", "10.244.1.9")))
                .is_err()
        });
    begins.expect("a new one is refused");
    mesh.cluster
        .kubectl(&format!("-n {} label pod asks a=b", ns.name))
        .expect("the old one can be changed");
}

#[test]
fn static_pods_have_their_mirrors_and_kube_system_its_pods_whatever_host_their_probes_name() {
    const REFUSED: &str = "names the host of somebody else";
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "static", false).expect("a namespace");
    let node = mesh.cluster.get("node node1").expect("the node");
    let uid = node["metadata"]["uid"].as_str().expect("its UID");
    let pod = |namespace: &str, mirror: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: static-node1\n  namespace: {namespace}\n  {mirror}\n  \
             ownerReferences: [{{apiVersion: v1, kind: Node, name: node1, uid: {uid}, controller: true}}]\nspec:\n  nodeName: node1\n  \
             containers: [{{name: app, image: x, livenessProbe: {{httpGet: {{port: 6443, host: 10.0.0.1}}}}}}]\n"
        )
    };
    let mirror =
        "annotations: {kubernetes.io/config.mirror: '1', kubernetes.io/config.source: file}";
    let refused = |yaml: &str| {
        let said = mesh.cluster.try_apply(yaml).err();
        said.is_some_and(|error| format!("{error:#}").contains(REFUSED))
    };
    // An API server takes a policy up a moment after it has it.
    let begins = mesh
        .cluster
        .wait_until("refused", Duration::from_secs(30), || {
            refused(&pod(&ns.name, ""))
        });
    begins.expect("a foreign host is refused");
    // The annotation alone anybody could write.
    assert!(refused(&pod(&ns.name, mirror)));
    let kubelet = ("system:node:node1", "system:nodes");
    let as_kubelet = |yaml: &str| mesh.cluster.try_create_as(kubelet, yaml);
    as_kubelet(&pod(&ns.name, mirror)).expect("a mirror of a static pod");
    as_kubelet(&pod(&ns.name, "")).expect_err("a node makes no other pods");
    let own = pod("kube-system", "");
    mesh.cluster.try_apply(&own).expect("the cluster's own");
}
