//! Servers that speak first: nobody waits for their clients.

use super::*;

#[test]
fn a_server_that_speaks_first_is_not_waited_for() {
    let mesh = Mesh::serving(&["greets"]);
    for (pod, to) in mesh.addresses() {
        let times = mesh.client(&["greeted", &to, "20"]);
        let mut times: Vec<f64> = times
            .as_array()
            .expect("times")
            .iter()
            .filter_map(Value::as_f64)
            .collect();
        println!("{} at {to}: {times:?}", pod.name);
        times.sort_by(f64::total_cmp);
        // A client that is waited for would cost a second.
        assert!(times[10] < 500.0, "{times:?}");
    }
}

#[test]
fn a_stray_request_does_not_make_the_clients_of_another_protocol_wait() {
    let mesh = Mesh::serving(&["greets"]);
    for (pod, to) in mesh.addresses() {
        // Each worker may get one.
        let taken = mesh.client(&["stray", &to, "40"]);
        assert_ne!(taken, 0, "none came before the server's greeting");
        let times = mesh.client(&["greeted", &to, "20"]);
        let times = times.as_array().expect("times").iter();
        let slow = times.filter_map(Value::as_f64).filter(|ms| *ms > 500.0);
        // One for each worker, which finds out then.
        let slow: Vec<f64> = slow.collect();
        assert!(slow.len() <= 8, "{} at {to}: {slow:?}", pod.name);
    }
}

const SMTP: &str = include_str!("smtp.py");
/// What nobody says anything about, each its own.
const PORTS: std::ops::Range<u16> = 7000..7020;
/// Known to be of SMTP.
const KNOWN: u16 = 25;

/// Milliseconds until the greeting, sorted: of the first connection to each port, and of the
/// second.
fn waited(world: &World, from: &Pod, to: &Pod) -> [Vec<f64>; 2] {
    let mut client = world.in_pod(from, PYTHON);
    client.args(["-c", SMTP, "greeted", &to.v4()]);
    client.args(PORTS.map(|port| port.to_string()));
    let told = parse(&client.output().expect("python runs")).expect("times");
    [0, 1].map(|which| {
        let times = told[which].as_array().expect("times").iter();
        let mut times: Vec<f64> = times.filter_map(Value::as_f64).collect();
        assert_eq!(times.len(), PORTS.len(), "{told}");
        times.sort_by(f64::total_cmp);
        times
    })
}

/// So many of a hundred were no longer.
fn within(times: &[f64], percent: usize) -> f64 {
    times[times.len() * percent / 100]
}

/// docs/performance.md has the figures, of a run for them (`MESH_STREAMS=long`), which is held to
/// the aims. A client that is waited for would cost a second: else the bounds are between the
/// two, for slow machines.
#[test]
fn the_greeting_of_a_mail_server_comes_at_once_also_on_the_first_connection() {
    let mut world = World::new(2).expect("a world");
    let spec = |node, name| PodSpec::new(node, name);
    let [a, b, c] = [("n1", "a"), ("n1", "b"), ("n2", "c")].map(|(node, name)| {
        let spec = spec(node, name).enrolled(OnAgentDown::Closed);
        world.add(&spec).expect("a pod")
    });
    let [outside, near, far] = [("n1", "o"), ("n1", "e"), ("n2", "f")].map(|(node, name)| {
        let pod = world.add(&spec(node, name));
        pod.expect("a pod")
    });
    for pod in [&b, &c, &near, &far] {
        let mut server = world.in_pod(pod, PYTHON);
        server.args(["-c", SMTP, "serve", &KNOWN.to_string()]);
        server.args(PORTS.map(|port| port.to_string()));
        let last = PORTS.end - 1;
        world.start_server(pod, last, server).expect("a server");
    }
    let mesh = Mesh::of(world, a, [b, c]);
    let most: f64 = figure("5", "500").parse().expect("milliseconds");
    for (pod, direct) in mesh.servers.iter().zip([&near, &far]) {
        let without = waited(&mesh.world, &outside, direct);
        let with = waited(&mesh.world, &mesh.a, pod);
        for (which, name) in ["first", "second"].iter().enumerate() {
            let of = |times: &[Vec<f64>; 2]| [50, 95].map(|part| within(&times[which], part));
            let (with, without) = (of(&with), of(&without));
            println!(
                "{}: p50 and p95 of the {name}: {with:.2?} ms, {without:.2?} without a mesh",
                pod.name
            );
            let more = with[0] - without[0];
            assert!(more < most, "{}: {more} ms for the {name}", pod.name);
        }
        // What was learned on the first costs the second nothing that can be measured.
        let is_figure = most < 500.0;
        let (first, second) = (within(&with[0], 95), within(&with[1], 50));
        assert!(!is_figure || second <= first, "{second} behind {first} ms");
        let mut client = mesh.world.in_pod(&mesh.a, PYTHON);
        client.args(["-c", SMTP, "mails", &format!("{}:{KNOWN}", pod.v4())]);
        let told = parse(&client.output().expect("python runs")).expect("an answer");
        assert_eq!(told, json!([220, 250]), "{}", pod.name);
    }
}
