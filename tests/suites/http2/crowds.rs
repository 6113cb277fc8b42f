//! A pod with more requests in flight than one may have, beside a pod that asks for little.

use super::*;

/// Of one pod, as client and as server.
const MOST: u64 = 2_000;
const CONNECTIONS: u64 = 3;
const STREAMS: u64 = 900;
const SOON: Duration = Duration::from_secs(10);

impl Mesh {
    /// Thousands of open streams of pod a, and how many of them were answered how.
    fn crowd(&self, to: &str, kind: &str) -> (Held, Value) {
        let [connections, streams] = [CONNECTIONS, STREAMS].map(|count| count.to_string());
        let mut held = self.held(&["crowd", to, kind, &connections, &streams]);
        let mut line = String::new();
        held.out.read_line(&mut line).expect("a line");
        let told = serde_json::from_str(&line);
        (held, told.unwrap_or_else(|e| panic!("{e}: {line}")))
    }

    /// What `status` says of one of the pods.
    fn in_flight(&self, node: usize, pod: &Pod) -> u64 {
        let status = self.agents[node].status().expect("a status");
        let name = format!("shop/{}", pod.name);
        let rows = status["pods"].as_array().expect("pods").iter();
        let mut rows = rows.filter(|row| row["pod"] == name.as_str());
        let row = rows.next().expect("its row");
        row["requests"].as_u64().expect("a count")
    }

    /// Requests that were answered because of the limit.
    fn refused(&self, node: usize) -> u64 {
        let reason = ["reason=\"max_requests_per_pod\""];
        let refused = self.agents[node].counter("mesh_agent_requests_refused_total", &reason);
        refused.expect("a page")
    }

    /// So many by each; their clients know of it before it is counted.
    #[track_caller]
    fn are_refused(&self, wanted: [u64; 2]) {
        let now = || [0, 1].map(|node| self.refused(node));
        let all = eventually(SOON, || {
            now().iter().zip(wanted).all(|(n, wanted)| *n >= wanted)
        });
        assert!(all && now() == wanted, "{:?} of {wanted:?}", now());
    }

    fn over_share(&self, node: usize, share: &str) -> f64 {
        let share = format!("share=\"{share}\"");
        let over = self.agents[node].metric("mesh_agent_requests_over_share_total", &share);
        over.expect("a page")
    }
}

#[test]
fn a_pod_with_thousands_of_open_streams_is_told_so_and_its_neighbour_is_served() {
    let mesh = Mesh::of_http_with(&["--max-requests-per-pod", &MOST.to_string()]);
    let [b, c] = &mesh.servers;
    let over = CONNECTIONS * STREAMS - MOST;
    for (kind, refused) in [
        ("http", "503 max_requests_per_pod"),
        ("grpc", "200 14 max_requests_per_pod"),
    ] {
        let before = (mesh.refused(0), mesh.over_share(0, "pod"));
        let (mut held, told) = mesh.crowd(&b.vips()[0], kind);
        assert_eq!(told, json!({"200": MOST, refused: over}), "{kind}");
        mesh.are_refused([before.0 + over, mesh.refused(1)]);
        assert_eq!(mesh.over_share(0, "pod") - before.1, over as f64);
        assert!(eventually(SOON, || mesh.in_flight(0, &mesh.a) == MOST));
        let active = || mesh.agents[0].metric("mesh_agent_requests_active", "");
        assert!(eventually(SOON, || active().expect("a page") == MOST as f64));
        // The neighbour of it, to the other node and to itself.
        for server in [c, b] {
            let mut client = mesh.world.in_pod(b, peer());
            client.args(["names", &server.vips()[0], "200"]);
            let told = parse(&client.output().expect("it runs")).expect("names");
            assert_eq!(told[&server.name], 200, "{}: {told}", server.name);
        }
        assert_eq!(mesh.over_share(0, "pod") - before.1, over as f64);
        held.child.kill().expect("it ends");
        let _ended = held.child.wait();
        assert!(eventually(SOON, || mesh.in_flight(0, &mesh.a) == 0));
        assert_eq!(mesh.client(&["names", &b.vips()[0], "10"])["b"], 10);
    }
}

/// At the other end one that asks has as much of a pod as it leaves to others.
#[test]
fn who_asks_one_pod_for_thousands_leaves_as_many_to_others() {
    let mesh = Mesh::of_http_with(&["--max-requests-per-pod", &MOST.to_string()]);
    let [b, c] = &mesh.servers;
    let (mut held, told) = mesh.crowd(&c.vips()[0], "http");
    let answered = told["200"].as_u64().expect("a count");
    // Each of the workers may have looked at the same moment.
    assert!((MOST / 2..=MOST / 2 + 8).contains(&answered), "{told}");
    // What the other node says of its reason stays between the agents; some have been
    // over the limit of a already.
    let counts = ["503", "503 max_requests_per_pod"].map(|end| told[end].as_u64());
    let [there, here] = counts.map(Option::unwrap_or_default);
    assert_eq!(answered + there + here, CONNECTIONS * STREAMS, "{told}");
    mesh.are_refused([here, there]);
    assert_eq!(mesh.over_share(1, "source"), there as f64);
    assert!(eventually(SOON, || mesh.in_flight(1, c) == answered));
    let mut client = mesh.world.in_pod(b, peer());
    client.args(["names", &c.vips()[0], "200"]);
    let told = parse(&client.output().expect("it runs")).expect("names");
    assert_eq!(told["c"], 200, "{told}");
    held.child.kill().expect("it ends");
    let _ended = held.child.wait();
    assert!(eventually(SOON, || mesh.in_flight(1, c) == 0));
}
