//! Deployments that are rolled out, again and again, under load.

use std::time::{Duration, Instant};

use mesh_tests::Steady;
use mesh_tests::kube::{Namespace, mesh};

use crate::traffic::shop;

/// Rollouts of each kind: each replaces all pods.
const ROUNDS: u64 = 2;
const REPLICAS: u64 = 2;
const STREAMS: u64 = 50;
/// From a pod's end until it is killed: for so long its streams go on.
const GRACE: Duration = Duration::from_secs(4);

/// Both containers stop listening when they are told to end, answer what has come in, and
/// carry streams until they are killed.
const SERVER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: books, namespace: @NS@}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: books}}
  template:
    metadata: {labels: {app: books}}
    spec:
      terminationGracePeriodSeconds: 4
      containers:
      - name: bytes
        image: cluster.local/mesh-app:dev
        imagePullPolicy: Never
        args: [serve, \"8080\"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        @BEFORE_STOP@
      - name: requests
        image: cluster.local/mesh-app:dev
        imagePullPolicy: Never
        args: [load-server, \"9000\"]
        readinessProbe: {tcpSocket: {port: 9002}, periodSeconds: 1}
        @BEFORE_STOP@
---
apiVersion: v1
kind: Service
metadata: {name: books, namespace: @NS@}
spec:
  selector: {app: books}
  ports:
  - {name: tcp, port: 80, targetPort: 8080}
  - {name: http, port: 81, targetPort: 9002}
  - {name: grpc, port: 82, targetPort: 9003}
";

/// What they do, how often a second, to which port.
const CLIENTS: [(&str, u64, u16); 4] = [
    ("bytes", 200, 80),
    ("get", 40, 81),
    ("kept-get", 40, 81),
    ("call", 40, 82),
];

fn client(shop: &Namespace<'_>, vip: &str, (what, rate, port): (&str, u64, u16)) -> Steady {
    let (rate, target) = (rate.to_string(), format!("{vip}:{port}"));
    let streams = match what {
        "bytes" => STREAMS,
        _ => 0,
    };
    let streams = streams.to_string();
    let mut args = vec!["steady", "--what", what, "--width", "8", "--rate", &rate];
    args.extend(["--streams", &streams, "--stream-pause", "50", &target]);
    shop.steady_with("web", &args).expect("a client")
}

/// Nothing of what began has failed, and there was as much of it as there should be.
#[track_caller]
fn none_failed(client: &mut Steady, what: &str, rate: u64, time: Duration) {
    let tally = client.tally(client.time).expect("a tally");
    let failures = client.failures().expect("what failed");
    println!("{what}: {tally} in {time:.0?}");
    assert_eq!(
        mesh_tests::failed(&tally),
        0,
        "{what}: {tally} {failures:?}"
    );
    let carried = tally["carried"].as_u64().expect("a count");
    // The machine is busy with the rollout as well.
    let least = rate * time.as_secs() / 2;
    assert!(carried >= least, "{what}: {carried} of {least} at least");
}

/// Streams end with their server, and not before.
#[track_caller]
fn streams_end_with_their_server(client: &mut Steady, what: &str) {
    let ended = client.streams().expect("streams");
    let lives = ended.iter().map(mesh_tests::Span::life);
    let (shortest, longest) = (lives.clone().min(), lives.max());
    println!(
        "{what}: {} streams ended, after {shortest:.1?} to {longest:.1?}",
        ended.len()
    );
    let count = ended.len() as u64;
    // One that comes back late in a round meets the next one's pods.
    let can_be = STREAMS..=STREAMS * ROUNDS * REPLICAS;
    assert!(can_be.contains(&count), "{what}: {count}, not {can_be:?}");
    // To a pod that has begun to end nothing new goes, for longer than the news takes.
    let least = GRACE - Duration::from_secs(1);
    let early: Vec<_> = ended.iter().filter(|s| s.life() < least).collect();
    assert!(early.is_empty(), "{what}: {} early: {early:?}", early.len());
}

#[test]
fn rollouts_under_load_fail_no_connection_and_no_request() {
    let Some(mesh) = mesh() else { return };
    let (shop, _) = shop(mesh.cluster, "rollouts");
    let kubectl = |words: &str| {
        let words = format!("-n rollouts {words}");
        mesh.cluster.kubectl(&words).expect("done")
    };
    for (what, before_stop) in [
        ("without preStop", ""),
        (
            "with preStop",
            "lifecycle: {preStop: {sleep: {seconds: 2}}}",
        ),
    ] {
        let server = SERVER.replace("@BEFORE_STOP@", before_stop);
        shop.apply(&server).expect("applied");
        let all_there = || {
            kubectl("rollout status deployment/books --timeout=60s");
            let gone = mesh
                .cluster
                .wait_until("the old ones have gone", 2 * GRACE, || {
                    let pods = kubectl("get pods -l app=books -o name");
                    pods.lines().count() as u64 == REPLICAS
                });
            gone.expect("gone");
        };
        all_there();
        let vip = shop.vip("books").expect("an address");
        let mut clients = CLIENTS.map(|kind| client(&shop, &vip, kind));
        for client in &mut clients {
            client.wait_for("carried", 20).expect("carried");
        }
        clients[0].wait_for("stream", STREAMS).expect("streams");
        for client in &mut clients {
            client.begin_next().expect("an answer");
        }
        let since = Instant::now();
        for _ in 0..ROUNDS {
            kubectl("rollout restart deployment/books");
            kubectl("rollout status deployment/books --timeout=60s");
        }
        all_there();
        let time = since.elapsed();
        for (client, (kind, rate, _)) in clients.iter_mut().zip(CLIENTS) {
            none_failed(client, &format!("{what}, {kind}"), rate, time);
        }
        streams_end_with_their_server(&mut clients[0], what);
    }
}
