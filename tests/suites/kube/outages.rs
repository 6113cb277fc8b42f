//! Upgrades, and a node that is away for a while.

use std::time::Duration;

use mesh_tests::Steady;
use mesh_tests::kube::{Mesh, Namespace, SYSTEM, mesh};

use crate::traffic::shop;

/// A client without retries, in a new time.
fn client(shop: &Namespace<'_>, target: &str) -> Steady {
    let mut client = shop.steady("web", &[target.to_owned()]).expect("a client");
    client.wait_for("carried", 20).expect("carried");
    client.begin_next().expect("an answer");
    client
}

#[track_caller]
fn none_failed(client: &mut Steady, what: &str) {
    let tally = client.tally(client.time).expect("a tally");
    let failed = mesh_tests::failed(&tally);
    println!("{what}: {tally}");
    assert_eq!(failed, 0, "{what}: {tally}");
}

fn roll(mesh: &Mesh, how: &str) {
    mesh.cluster
        .kubectl(&format!("-n {SYSTEM} rollout {how} daemonset/mesh-agent"))
        .expect("it begins");
    mesh.wait_rolled_out().expect("it ends");
}

#[test]
fn an_upgrade_and_its_rollback_fail_no_new_connection() {
    let Some(mesh) = mesh() else { return };
    let (shop, [_, api]) = shop(mesh.cluster, "upgrade");
    let mut client = client(&shop, &format!("{}:8080", api.v4()));
    roll(&mesh, "restart");
    none_failed(&mut client, "upgrade");
    client.begin_next().expect("an answer");
    roll(&mesh, "undo");
    none_failed(&mut client, "rollback");
}

#[test]
fn after_a_reboot_nothing_of_an_enrolled_pod_passes_in_plaintext() {
    let Some(mesh) = mesh() else { return };
    let (shop, [web, api]) = shop(mesh.cluster, "reboot");
    let mut from_web = client(&shop, &format!("{}:8080", api.v4()));
    from_web.wait_for("carried", 20).expect("carried");
    drop(from_web);
    let filter = "tcp and (net 10.244.0.0/16 or net fd00:244::/32)";
    let capture = mesh.cluster.capture_packets(2, filter).expect("tcpdump");
    mesh.cluster.reboot(2).expect("rebooted");
    let carried = || {
        // Its address is another one.
        let now = shop.app("api").expect("the pod");
        let report = shop.storm("web", &[format!("{}:8080", now.v4())], 5);
        report.is_ok_and(|report| report["ok"] == 5)
    };
    let again = mesh
        .cluster
        .wait_until("web reaches api", Duration::from_secs(120), carried);
    again.expect("carried again");
    let seen = capture.stop().expect("packets");
    let answer = format!("{} ", web.v4());
    assert!(!seen.contains(answer.as_bytes()), "an answer was readable");
    println!("{} packets, none of them readable", seen.packets);
}
