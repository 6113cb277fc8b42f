//! Requests and connections that wait for a place, where as many are in flight as may be.

use std::time::Duration;

use mesh_tests::{Pod, eventually};
use serde_json::{Value, json};

use super::{Mesh, PYTHON, SCRIPT};

impl Mesh {
    /// Requests that were refused for each reason of a limit.
    fn refused(&self) -> [u64; 3] {
        ["max_requests", "max_pending_requests", "max_pending_time"].map(|reason| {
            let label = format!("reason=\"{reason}\"");
            let of = self.agents[0].counter("mesh_agent_requests_refused_total", &[&label]);
            of.expect("a page")
        })
    }

    /// So many; their clients know of it before it is counted.
    #[track_caller]
    fn are_refused(&self, wanted: [u64; 3]) {
        let come = || {
            self.refused()
                .iter()
                .zip(wanted)
                .all(|(n, wanted)| *n >= wanted)
        };
        let all = eventually(Duration::from_secs(20), come);
        assert!(all && self.refused() == wanted, "{:?}", self.refused());
    }

    fn waiting(&self) -> f64 {
        // Not the histogram's, whose name is longer.
        let now = self.agents[0].metric("mesh_agent_pending ", "");
        now.expect("a metric")
    }

    fn waited(&self, end: &str) -> f64 {
        let with = format!("end=\"{end}\"");
        let counted = self.agents[0].metric("mesh_agent_pending_seconds_count", &with);
        counted.expect("a metric")
    }

    /// Requests that take the server so long each: of each its status, the reason and when
    /// its answer came.
    fn crowd(&self, server: &Pod, count: &str, seconds: &str) -> Vec<(u64, String, f64)> {
        let args = ["crowd", &server.vips()[0], count, seconds];
        let told = self.client(&self.clients[0], &args);
        let one = |told: &Value| {
            let (status, at) = (told[0].as_u64(), told[2].as_f64());
            let reason = told[1].as_str().unwrap_or_default().to_owned();
            (status.expect("a status"), reason, at.expect("a time"))
        };
        told.as_array().expect("answers").iter().map(one).collect()
    }
}

#[test]
fn requests_wait_for_a_place_in_their_order_and_no_longer_than_the_policy_says() {
    let mesh = Mesh::new("serve");
    for server in &mesh.servers {
        mesh.says("limits: {maxRequests: 1, maxPendingRequests: 2, maxPendingTime: 15s}");
        let before = mesh.waited("placed");
        let told = mesh.crowd(server, "4", "2");
        assert_eq!(statuses(&told), [200, 200, 200, 503], "{told:?}");
        assert_eq!(told[3].1, "max_pending_requests", "{told:?}");
        assert!(told[3].2 < 1.6, "at once: {told:?}");
        assert!(told[0].2 < told[1].2 && told[1].2 < told[2].2, "{told:?}");
        assert!(told[2].2 > 6.0, "one behind the other: {told:?}");
        assert_eq!(mesh.waited("placed") - before, 2.0);

        mesh.says("limits: {maxRequests: 1, maxPendingRequests: 2, maxPendingTime: 300ms}");
        let told = mesh.crowd(server, "2", "3");
        assert_eq!(statuses(&told), [200, 503], "{told:?}");
        assert_eq!(told[1].1, "max_pending_time", "{told:?}");
        assert!((0.5..2.5).contains(&told[1].2), "{told:?}");

        // What limits the time of a request counts that it waits, too.
        mesh.says("timeouts: {request: 700ms}\n  limits: {maxRequests: 1, maxPendingTime: 5s}");
        let told = mesh.crowd(server, "2", "5");
        assert_eq!(statuses(&told), [504, 504], "{told:?}");
        assert!(told[1].2 < 4.0, "{told:?}");

        mesh.says("limits: {maxRequests: 1, maxPendingRequests: 0}");
        let told = mesh.crowd(server, "2", "1.5");
        assert_eq!(statuses(&told), [200, 503], "{told:?}");
        assert_eq!(told[1].1, "max_requests", "{told:?}");
    }
    // Each by its knob, for each of the servers.
    mesh.are_refused([2; 3]);
    // The log is written behind.
    let mut lines = Vec::new();
    let told = eventually(Duration::from_secs(20), || {
        lines = mesh.world.logged("n1");
        ["max_pending_requests", "max_pending_time"]
            .iter()
            .all(|reason| {
                let all = lines
                    .iter()
                    .filter(|line: &&Value| line["reason"] == *reason);
                all.count() >= 2
            })
    });
    assert!(told, "{lines:?}");
    let of = |reason: &str| {
        let all = lines.iter().filter(|line| line["reason"] == reason);
        all.collect::<Vec<_>>()
    };
    for reason in ["max_pending_requests", "max_pending_time"] {
        assert_eq!(of(reason).len(), 2, "{lines:?}");
        let is_marked = |line: &&Value| line["response_flags"] == "UO";
        assert!(of(reason).iter().all(is_marked), "{lines:?}");
    }
    let late = of("max_pending_time")[0]["queued_ms"].as_f64();
    assert!(
        late.is_some_and(|ms| (300.0..2300.0).contains(&ms)),
        "{late:?}"
    );
}

fn statuses(told: &[(u64, String, f64)]) -> Vec<u64> {
    told.iter().map(|(status, ..)| *status).collect()
}

/// Of HTTP/2 and gRPC.
#[test]
fn a_stream_waits_by_itself_and_is_told_in_its_own_words() {
    let mesh = Mesh::new("serve");
    for (count, server) in (0..).zip(&mesh.servers) {
        mesh.says("limits: {maxRequests: 1, maxPendingRequests: 1, maxPendingTime: 2s}");
        let to = &server.vips()[0];
        let mut slow = mesh.world.in_pod(&mesh.clients[1], PYTHON);
        let slow = slow.args(["-c", SCRIPT, "crowd", to, "1", "12"]).spawn();
        let mut slow = slow.expect("a client");
        let is_full = || mesh.agents[0].has_in_flight().expect("a page");
        assert!(eventually(Duration::from_secs(20), is_full));
        let url = format!("http://{to}/a.B/C");
        let ask = || {
            let mut curl = mesh.world.in_pod(&mesh.clients[0], "curl");
            curl.args(["-sSi", "--http2-prior-knowledge", "--max-time", "10"]);
            curl.args(["-H", "content-type: application/grpc", "-d", "x", &url]);
            let told = curl.output().expect("curl runs");
            String::from_utf8_lossy(&told.stdout).into_owned()
        };
        let told = std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(ask));
            both.map(|one| one.join().expect("it ran"))
        });
        let told = told.concat();
        for reason in ["max_pending_requests", "max_pending_time"] {
            let line = format!("x-mesh-reason: {reason}");
            assert_eq!(told.matches(&line).count(), 1, "{}: {told}", server.name);
        }
        assert_eq!(told.matches("grpc-status: 14").count(), 2, "{told}");
        let all = count + 1;
        mesh.are_refused([0, all, all]);
        // Who leaves does so while it waits, and would wait for longer than this test.
        mesh.says("limits: {maxRequests: 1, maxPendingRequests: 1, maxPendingTime: 60s}");
        let left = mesh.waited("left");
        let mut leaves = mesh.world.in_pod(&mesh.clients[0], "curl");
        leaves.args(["-sS", "--http2-prior-knowledge", &url]);
        let mut leaves = leaves.spawn().expect("curl runs");
        let waits = eventually(Duration::from_secs(20), || mesh.waiting() > 0.5);
        leaves.kill().expect("it leaves");
        let _gone = leaves.wait();
        assert!(waits, "it does not wait");
        let gone = eventually(Duration::from_secs(20), || mesh.waited("left") > left);
        assert!(gone, "who leaves does not wait");
        slow.kill().expect("it ends");
        let _ended = slow.wait();
        // Who has only ended its side may wait for the server's answer.
        let is_free = || !is_full();
        assert!(eventually(Duration::from_secs(20), is_free));
    }
}

#[test]
fn connections_wait_for_a_place_too() {
    let mesh = Mesh::new("echo");
    mesh.says("limits: {maxConnections: 1, maxPendingRequests: 1, maxPendingTime: 10s}");
    for server in &mesh.servers {
        let told = mesh.client(&mesh.clients[0], &["turns", &server.vips()[0]]);
        let third = told[0].as_str();
        assert_eq!(third, Some("ConnectionResetError"), "{told}");
        let rest = json!([told[1], told[2], told[3]]);
        assert_eq!(rest, json!(["TimeoutError", true, true]), "{}", server.name);
    }
}
