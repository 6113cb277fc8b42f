//! Services of all kinds, called from a pod of the mesh.

use mesh_tests::all_fine;
use mesh_tests::kube::{Namespace, mesh};

const SERVER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: many, namespace: @NS@, labels: {app: many}}
spec:
  nodeName: node2
  hostname: many
  subdomain: headless
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: cluster.local/mesh-app:dev
    imagePullPolicy: Never
    args: [serve, \"8080\", \"9090\"]
    ports: [{name: one, containerPort: 8080}, {name: two, containerPort: 9090}]
---
apiVersion: v1
kind: Service
metadata: {name: ports, namespace: @NS@}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: many}
  ports:
  - {name: one, port: 80, targetPort: one}
  - {name: two, port: 81, targetPort: two}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: @NS@}
spec:
  clusterIP: None
  selector: {app: many}
  ports: [{name: one, port: 8080}]
";

/// A server that has a name of its own in a headless Service.
const SHELF: &str = "
apiVersion: v1
kind: Pod
metadata: {name: shelf, namespace: @NS@, labels: {app: shelf}}
spec:
  nodeName: node2
  hostname: first
  subdomain: shelves
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: cluster.local/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, 'echo books >/www/index.html; exec httpd -f -p \"[::]:8080\" -h /www']
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: shelves, namespace: @NS@}
spec:
  clusterIP: None
  selector: {app: shelf}
  ports: [{name: web, port: 8080}]
";

const READER: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: reader, namespace: @NS@}
spec:
  backoffLimit: 0
  template:
    spec:
      nodeName: node1
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers:
      - name: work
        image: cluster.local/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, 'wget -qO- http://shelves:8080 && wget -qO- http://first.shelves:8080']
";

#[test]
fn a_headless_services_names_lead_to_its_pods() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "headless", true).expect("a namespace");
    ns.apply(&crate::probes::STRICT.replace("@NS@", &ns.name))
        .expect("a policy");
    ns.apply(SHELF).expect("a server");
    ns.wait_ready("shelf").expect("it is ready");
    ns.apply(READER).expect("a job");
    let done = "-n headless wait --for=condition=Complete job/reader --timeout=60s";
    if let Err(error) = mesh.cluster.kubectl(done) {
        panic!("{error:#}\n{}", mesh.cluster.state());
    }
    let read = mesh.cluster.kubectl("-n headless logs job/reader");
    assert_eq!(read.expect("its log"), "books\nbooks\n");
}

const NODE_PORT: &str = "
apiVersion: v1
kind: Service
metadata: {name: anywhere, namespace: @NS@}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: many}
  ports: [{name: one, port: 80, targetPort: one}]
";

#[test]
fn a_port_of_every_node_leads_to_the_services_pod() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "nodeport", true).expect("a namespace");
    ns.apply(SERVER).expect("a server");
    ns.apply(NODE_PORT).expect("a Service");
    ns.add_app("web", 1).expect("a pod");
    let many = ns.app("many").expect("it is ready");
    ns.app("web").expect("it is ready");
    let service = ns.get("service anywhere").expect("a Service");
    let port = service["spec"]["ports"][0]["nodePort"].as_u64();
    let port = port.expect("a port");
    let (v4, v6) = (many.v4(), many.v6());
    let mut targets = Vec::new();
    // The client's own node, and the server's.
    for node in [11, 12] {
        targets.push(format!("10.250.0.{node}:{port}={v4}:8080"));
        targets.push(format!("[fd00:250::{node}]:{port}=[{v6}]:8080"));
    }
    let report = ns.storm("web", &targets, 100).expect("a report");
    all_fine(&report, 100);
}

#[test]
fn several_ports_with_names_in_both_families_lead_to_the_right_one() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "services", true).expect("a namespace");
    ns.apply(SERVER).expect("a server");
    ns.add_app("web", 1).expect("a pod");
    let many = ns.app("many").expect("it is ready");
    ns.app("web").expect("it is ready");
    let service = ns.get("service ports").expect("a Service");
    let mut targets = Vec::new();
    for vip in service["spec"]["clusterIPs"].as_array().expect("addresses") {
        let vip = vip.as_str().expect("an address");
        for (port, to) in [(80, 8080), (81, 9090)] {
            targets.push(match vip.contains(':') {
                true => format!("[{vip}]:{port}=[{}]:{to}", many.v6()),
                false => format!("{vip}:{port}={}:{to}", many.v4()),
            });
        }
    }
    assert_eq!(targets.len(), 4, "two ports, two families");
    // A headless Service's name is its pods' addresses.
    targets.push(format!("{}:8080", many.v4()));
    let report = ns.storm("web", &targets, 100).expect("a report");
    all_fine(&report, 100);
}
