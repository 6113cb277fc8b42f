//! What passes between nodes, and as whom.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use mesh_tests::kube::{AppPod, Cluster, Namespace, mesh};
use mesh_tests::{all_fine, eventually};

/// Client web on the first node, server api on the second.
pub(crate) fn shop<'c>(cluster: &'c Cluster, name: &str) -> (Namespace<'c>, [AppPod; 2]) {
    let shop = Namespace::new(cluster, name, true).expect("a namespace");
    shop.add_app("web", 1).expect("a pod");
    shop.add_app("api", 2).expect("a pod");
    let pods = ["web", "api"].map(|name| shop.app(name).expect("a pod"));
    (shop, pods)
}

/// By its address, and by its Service's, in both families.
fn targets(shop: &Namespace<'_>, api: &AppPod) -> Vec<String> {
    let service = shop.get("service api").expect("the service");
    let vips = service["spec"]["clusterIPs"].as_array().expect("addresses");
    let mut targets = vec![format!("{}:8080", api.v4()), format!("[{}]:8080", api.v6())];
    for vip in vips {
        let vip = vip.as_str().expect("an address");
        targets.push(match vip.contains(':') {
            true => format!("[{vip}]:80=[{}]:8080", api.v6()),
            false => format!("{vip}:80={}:8080", api.v4()),
        });
    }
    targets
}

#[test]
fn between_nodes_no_byte_of_an_application_is_readable_on_the_wire() {
    let Some(mesh) = mesh() else { return };
    let (shop, [web, api]) = shop(mesh.cluster, "wire");
    let filter = format!("host {} or host {}", api.v4(), api.v6());
    let capture = mesh.cluster.capture_packets(1, &filter).expect("tcpdump");
    let targets = targets(&shop, &api);
    assert_eq!(targets.len(), 4, "two families, pod and Service");
    let report = shop.storm("web", &targets, 200).expect("a report");
    all_fine(&report, 200);
    let seen = capture.stop().expect("packets");
    assert_eq!(seen.dropped, 0);
    assert!(seen.packets > 400, "{}", seen.packets);
    // What each of the server's answers begins with: the address that it saw.
    for address in [web.v4(), web.v6()] {
        assert!(
            !seen.contains(format!("{address} ").as_bytes()),
            "{address}"
        );
    }
    println!("{} packets, none of them readable", seen.packets);
}

#[test]
fn each_side_knows_the_other_by_its_account() {
    let Some(mesh) = mesh() else { return };
    let (shop, [_, api]) = shop(mesh.cluster, "who");
    let mut holder = shop
        .run_app("web", &["hold", &format!("{}:8080", api.v4()), "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a client");
    let mut said = String::new();
    let mut from = BufReader::new(holder.stdout.take().expect("its output"));
    from.read_line(&mut said).expect("a line");
    assert_eq!(said, "held 3\n");
    let principal = |account: &str| format!("spiffe://cluster.local/ns/who/sa/{account}");
    for node in [1, 2] {
        let mut list = serde_json::Value::Null;
        let known = eventually(Duration::from_secs(10), || {
            let ask = "connections --pod who/api --state open";
            list = mesh.cluster.ask_agent_json(node, ask).expect("a list");
            let all = list["connections"].as_array().expect("connections");
            all.len() == 3
                && all.iter().all(|c| {
                    c["security"] == "mutual_tls"
                        && c["source_principal"] == principal("web")
                        && c["destination_principal"] == principal("api")
                })
        });
        assert!(known, "node {node}: {list}");
    }
    drop(holder.stdin.take());
    holder.wait().expect("its end");
}

/// Connects as soon as it runs, before any other container of the pod.
const HASTY: &str = "
apiVersion: v1
kind: Pod
metadata: {name: hasty, namespace: @NS@, labels: {app: hasty}}
spec:
  nodeName: node1
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: first
    image: cluster.local/mesh-app:dev
    imagePullPolicy: Never
    args: [storm, --count, \"20\", @TARGET@]
  containers:
  - name: app
    image: cluster.local/mesh-app:dev
    imagePullPolicy: Never
    args: [serve, \"8080\"]
";

#[test]
fn from_its_first_packet_on_nothing_of_a_new_pod_is_readable_on_the_wire() {
    let Some(mesh) = mesh() else { return };
    let (shop, [_, api]) = shop(mesh.cluster, "haste");
    let filter = format!("tcp and host {}", api.v4());
    let capture = mesh.cluster.capture_packets(2, &filter).expect("tcpdump");
    let target = format!("{}:8080", api.v4());
    shop.apply(&HASTY.replace("@TARGET@", &target))
        .expect("a pod");
    let hasty = shop.app("hasty").expect("it is ready");
    let said = mesh
        .cluster
        .kubectl("-n haste logs hasty -c first")
        .expect("its log");
    let report: serde_json::Value = serde_json::from_str(&said).expect("a report");
    all_fine(&report, 20);
    let seen = capture.stop().expect("packets");
    assert!(seen.packets > 20, "{}", seen.packets);
    // What each of the server's answers begins with: the address that it saw.
    let answer = format!("{} ", hasty.v4());
    assert!(!seen.contains(answer.as_bytes()), "an answer was readable");
}
