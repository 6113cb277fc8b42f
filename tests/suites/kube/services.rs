//! Services of all kinds, called from a pod of the mesh.

use mesh_tests::all_fine;
use mesh_tests::kube::{Namespace, mesh};

use crate::shelf;

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

/// The Service's own name, and the pod's within it.
const READ_BOTH: &str = "wget -qO- http://shelves:8080 && wget -qO- http://first.shelves:8080";

#[test]
fn a_headless_services_names_lead_to_its_pods() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "headless", true).expect("a namespace");
    ns.apply(&crate::probes::STRICT.replace("@NS@", &ns.name))
        .expect("a policy");
    shelf::serve(&ns);
    let read = shelf::read(&ns, "", READ_BOTH);
    assert_eq!(read("work"), "books\nbooks\n");
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
