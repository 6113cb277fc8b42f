//! Policies that kubectl applies.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_tests::Steady;
use mesh_tests::kube::{Namespace, mesh};

const ROUNDS: usize = 10;
const AIM: Duration = Duration::from_secs(1);

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: @NS@}
spec:
  action: DENY
  rules: [{from: [{source: {principals: ['*']}}]}]
";

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("a clock").as_micros()).expect("some centuries")
}

/// How long after `since` that moment was; nothing if it was before.
fn after(since: u64, moment: &serde_json::Value) -> Duration {
    let moment = moment.as_u64().expect("a moment");
    Duration::from_micros(moment.saturating_sub(since))
}

fn begin(clients: &mut [Steady; 2]) {
    for client in clients {
        client.begin_next().expect("an answer");
    }
}

#[test]
fn a_policy_holds_on_every_node_within_a_second_of_its_kubectl() {
    let Some(mesh) = mesh() else { return };
    let ns = Namespace::new(mesh.cluster, "rules", true).expect("a namespace");
    // The client of each server is on the other node: the server's decides.
    for (name, node) in [("one", 1), ("two", 2), ("to-one", 2), ("to-two", 1)] {
        ns.add_app(name, node).expect("a pod");
    }
    let [one, two] = ["one", "two"].map(|name| ns.app(name).expect("a pod"));
    let client = |name: &str, to: std::net::IpAddr| {
        ns.app(name).expect("a pod");
        ns.steady(name, &[format!("{to}:8080")]).expect("a client")
    };
    let mut clients = [client("to-one", one.v4()), client("to-two", two.v4())];
    for client in &mut clients {
        client.wait_for("carried", 10).expect("carried");
    }
    let (mut closed, mut opened) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        begin(&mut clients);
        ns.apply(DENY).expect("applied");
        let since = now_us();
        for client in &mut clients {
            // Refused, and since then nothing else.
            client.wait_for_any_but("carried", 5).expect("refused");
            let tally = client.tally(client.time).expect("a tally");
            closed.push(match tally.get("last_carried_us") {
                Some(last) => after(since, last),
                None => Duration::ZERO,
            });
        }
        begin(&mut clients);
        ns.cluster
            .kubectl("-n rules delete authorizationpolicy nobody --wait=false")
            .expect("deleted");
        let since = now_us();
        for client in &mut clients {
            client.wait_for("carried", 1).expect("carried");
            let tally = client.tally(client.time).expect("a tally");
            opened.push(after(since, &tally["first_carried_us"]));
        }
    }
    for (what, times) in [("applied", &mut closed), ("deleted", &mut opened)] {
        times.sort();
        let (middle, last) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "a policy is {what}: in force after {middle:.0?} (median), {last:.0?} (longest), of {}, counted from kubectl's end",
            times.len()
        );
        assert!(last < AIM, "{what}: {times:?}");
    }
}
