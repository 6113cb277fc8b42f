//! Upgrades, and a node that is away for a while.

use std::time::{Duration, Instant};

use mesh_tests::kube::{Mesh, Namespace, SYSTEM, mesh};
use mesh_tests::{Span, Steady};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
    let failures = client.failures().expect("what failed");
    assert_eq!(failed, 0, "{what}: {tally} {failures:?}");
}

fn begin(mesh: &Mesh, how: &str) {
    mesh.cluster
        .kubectl(&format!("-n {SYSTEM} rollout {how} daemonset/mesh-agent"))
        .expect("it begins");
}

/// When the first of the agents was told to end, to the second below.
fn told_to_end(mesh: &Mesh) -> Duration {
    let mut told = None;
    let ends = || {
        let agents = format!("-n {SYSTEM} pods -l app.kubernetes.io/name=mesh-agent");
        let agents = mesh.cluster.get(&agents).expect("the agents");
        let all = agents["items"].as_array().expect("a list");
        let ends = all.iter().filter_map(|pod| {
            let meta = &pod["metadata"];
            // The end of its grace.
            let last = OffsetDateTime::parse(meta["deletionTimestamp"].as_str()?, &Rfc3339);
            let last = u64::try_from(last.ok()?.unix_timestamp()).ok()?;
            Some(last - meta["deletionGracePeriodSeconds"].as_u64()?)
        });
        told = ends.min().map(Duration::from_secs);
        told.is_some()
    };
    let waited = mesh
        .cluster
        .wait_until("an agent ends", Duration::from_secs(60), ends);
    waited.expect("an upgrade");
    told.expect("a moment")
}

/// Of the DaemonSet's settings.
const DRAIN: Duration = Duration::from_secs(20);
const STREAMS: usize = 100;

/// Those from before the upgrade lived until the drain's end, and did not end in one
/// moment: a client that is told to come back is not one of all.
#[track_caller]
fn ended_one_by_one(before: &[Span], told: Duration) {
    let mut ends: Vec<_> = before
        .iter()
        .map(|stream| Duration::from_micros(stream.ended_us).saturating_sub(told))
        .collect();
    ends.sort();
    let (first, last) = (ends[0], ends[ends.len() - 1]);
    let within = |at: &Duration| {
        let window = *at..*at + Duration::from_millis(100);
        ends.iter().filter(|end| window.contains(*end)).count()
    };
    let most = ends.iter().map(within).max().expect("streams");
    println!(
        "{} streams from before ended {first:.2?} to {last:.2?} after the agent was told to, \
         {most} at most within 100 ms",
        ends.len()
    );
    assert!(first >= DRAIN, "{first:?} {:?}", before[0]);
    // The second that the moment is rounded by, the spread, and a client that is slow to see it.
    let latest = DRAIN + Duration::from_secs(1) + DRAIN / 10 + Duration::from_secs(2);
    assert!(last <= latest, "{last:?}");
    assert!(last - first >= Duration::from_millis(250), "{ends:?}");
    assert!(most <= STREAMS / 2, "{most} at once: {ends:?}");
}

#[test]
fn an_upgrade_and_its_rollback_fail_no_new_connection_and_end_streams_one_by_one() {
    let Some(mesh) = mesh() else { return };
    let (shop, [_, api]) = shop(mesh.cluster, "upgrade");
    let (streams, target) = (STREAMS.to_string(), format!("{}:8080", api.v4()));
    let args = ["steady", "--rate", "200", "--streams", &streams];
    let args = [&args[..], &["--stream-pause", "50", &target]].concat();
    let mut client = shop.steady_with("web", &args).expect("a client");
    client.wait_for("carried", 20).expect("carried");
    client.wait_for("stream", STREAMS as u64).expect("streams");
    client.begin_next().expect("an answer");
    begin(&mesh, "restart");
    let told = told_to_end(&mesh);
    let told_us = u64::try_from(told.as_micros()).expect("some centuries");
    mesh.wait_rolled_out().expect("it ends");
    none_failed(&mut client, "upgrade");
    let mut before = Vec::new();
    let all = || {
        before = client.streams().expect("streams");
        before.retain(|stream| stream.begun_us < told_us);
        before.len() >= STREAMS
    };
    mesh.cluster
        .wait_until("the streams have ended", DRAIN + DRAIN / 2, all)
        .expect("they end");
    ended_one_by_one(&before, told);
    client.begin_next().expect("an answer");
    begin(&mesh, "undo");
    mesh.wait_rolled_out().expect("it ends");
    none_failed(&mut client, "rollback");
}

/// How much later than the kubelet the agent of a rebooted node comes.
const LATE: Duration = Duration::from_secs(60);

/// Names of pods that have a container that runs.
fn running_on<'p>(pods: &'p Value, node: &str) -> Vec<&'p str> {
    let all = pods["items"].as_array().expect("a list");
    let there = all.iter().filter(|pod| pod["spec"]["nodeName"] == node);
    let runs = |pod: &&Value| {
        let containers = pod["status"]["containerStatuses"].as_array();
        containers.is_some_and(|all| all.iter().any(|one| one["state"]["running"].is_object()))
    };
    let names = there
        .filter(runs)
        .map(|pod| pod["metadata"]["name"].as_str());
    names.map(|name| name.expect("a name")).collect()
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
    let late = mesh.cluster.reboot(2).expect("rebooted");
    let up = Instant::now();
    let waits = || {
        let events = "-n reboot get events --field-selector reason=FailedCreatePodSandBox -o json";
        let events = mesh.cluster.kubectl(events).expect("events");
        let since = OffsetDateTime::now_utc() - up.elapsed();
        let events: Value = serde_json::from_str(&events).expect("events");
        let mut events = events["items"].as_array().expect("a list").iter();
        let is_told = events.any(|event| {
            let last = event["lastTimestamp"].as_str().unwrap_or_default();
            let is_new = OffsetDateTime::parse(last, &Rfc3339).is_ok_and(|last| last > since);
            is_new
                && event["message"]
                    .as_str()
                    .is_some_and(|m| m.contains("mesh-agent"))
        });
        is_told && up.elapsed() >= LATE
    };
    mesh.cluster
        .wait_until("the kubelet says what pods wait for", 2 * LATE, waits)
        .expect("they wait for the agent");
    let pods = shop.get("pods").expect("the pods");
    let there = running_on(&pods, "node2");
    assert_eq!(there, Vec::<&str>::new(), "started without the agent");
    drop(late);
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
