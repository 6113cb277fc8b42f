//! An API server that the mesh does not reach for a while.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh_tests::Steady;
use mesh_tests::kube::{Namespace, mesh};

/// The aim for what changed meanwhile.
const AIM: Duration = Duration::from_secs(2);
/// Of one agent, for all that it follows.
const TRIES_PER_SECOND: f64 = 4.0;

/// Nobody reaches that server.
fn deny(server: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {server}, namespace: @NS@}}
spec:
  selector: {{matchLabels: {{app: {server}}}}}
  action: DENY
  rules: [{{from: [{{source: {{principals: ['*']}}}}]}}]
"
    )
}

/// How long it lasts: MESH_KUBE_ABSENCE in seconds, for a longer one by hand.
fn absence() -> Duration {
    let seconds = std::env::var("MESH_KUBE_ABSENCE").ok();
    let seconds = seconds.and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("a clock").as_micros()).expect("some centuries")
}

fn client(ns: &Namespace<'_>, name: &str, server: &str) -> Steady {
    let to = ns.app(server).expect("a server").v4();
    ns.app(name).expect("a client");
    let targets = [format!("{to}:8080")];
    ns.steady_at("50", name, &targets).expect("a client")
}

#[test]
fn without_the_api_server_traffic_goes_on_and_what_changed_is_in_force_at_once_after_it() {
    let Some(mesh) = mesh() else { return };
    let (cluster, whole) = (mesh.cluster, absence());
    let ns = Namespace::new(cluster, "absence", true).expect("a namespace");
    for server in ["stays", "closes", "opens"] {
        ns.add_app(server, 2).expect("a pod");
        ns.add_app(&format!("to-{server}"), 1).expect("a pod");
    }
    ns.apply(&deny("opens")).expect("a policy");
    let mut stays = client(&ns, "to-stays", "stays");
    let mut closes = client(&ns, "to-closes", "closes");
    let mut opens = client(&ns, "to-opens", "opens");
    for client in [&mut stays, &mut closes] {
        client.wait_for("carried", 10).expect("carried");
    }
    opens.wait_for_any_but("carried", 10).expect("refused");
    for client in [&mut stays, &mut closes, &mut opens] {
        client.begin_next().expect("an answer");
    }

    let cut = cluster.cut_off_api().expect("cut off");
    let begun = Instant::now();
    ns.apply(&deny("closes")).expect("applied");
    let gone = "-n absence delete authorizationpolicy opens --wait=false";
    cluster.kubectl(gone).expect("deleted");
    std::thread::sleep(whole / 2);
    // Until here with the agents that were there.
    let before = stays.tally(stays.time).expect("a tally");
    assert_eq!(mesh_tests::failed(&before), 0, "{before}");
    let tries = [1, 2].map(|node| cut.tries(node).expect("a count"));
    let seconds = begun.elapsed().as_secs_f64();
    println!("tries to connect in {seconds:.0} s, of each node's agent: {tries:?}");
    for tries in tries {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let rate = tries as f64 / seconds;
        assert!(tries > 0 && rate < TRIES_PER_SECOND, "{rate} a second");
    }

    // The servers' agent is started again, and has only what is on disk.
    let restarts = cluster.agent_restarts(2).expect("a count");
    cluster.kill_agent(2).expect("killed");
    let is_back = || {
        cluster.agent_restarts(2).is_ok_and(|n| n > restarts)
            && cluster
                .ask_agent(2, "probe ready")
                .is_ok_and(|(code, _)| code == 0)
    };
    let back = cluster.wait_until("the agent is back", Duration::from_secs(40), is_back);
    back.expect("ready without the API server");
    for client in [&mut stays, &mut closes, &mut opens] {
        client.begin_next().expect("an answer");
    }
    std::thread::sleep(whole.saturating_sub(begun.elapsed()));
    let held = opens.tally(opens.time).expect("a tally");
    assert_eq!(held.get("carried"), None, "the old policy holds: {held}");
    for (what, client) in [("stays", &mut stays), ("closes", &mut closes)] {
        let tally = client.tally(client.time).expect("a tally");
        println!("{what}, with an agent that works from disk: {tally}");
        assert_eq!(mesh_tests::failed(&tally), 0, "{what}: {tally}");
        client.begin_next().expect("an answer");
    }
    opens.begin_next().expect("an answer");

    let lasted = begun.elapsed();
    drop(cut);
    let since = now_us();
    closes.wait_for_any_but("carried", 5).expect("refused");
    opens.wait_for("carried", 5).expect("carried");
    let closed = closes.tally(closes.time).expect("a tally");
    let opened = opens.tally(opens.time).expect("a tally");
    let after = |moment: &serde_json::Value| {
        let moment = moment.as_u64().unwrap_or(since);
        Duration::from_micros(moment.saturating_sub(since))
    };
    let (closed, opened) = (
        after(&closed["last_carried_us"]),
        after(&opened["first_carried_us"]),
    );
    println!(
        "after {lasted:.0?} without the API server: a new policy holds after {closed:.2?}, a deleted one is gone after {opened:.2?}"
    );
    assert!(closed < AIM && opened < AIM, "{closed:?} {opened:?}");
    let all = stays.tally(stays.time).expect("a tally");
    assert_eq!(mesh_tests::failed(&all), 0, "{all}");
}
