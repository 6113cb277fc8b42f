//! Endpoints that fail over HTTP/2 and gRPC: they are left out and come back, as on HTTP/1.

use std::collections::BTreeSet;

use super::hedging::hedged;
use super::*;

/// A breaker is open for a second to a second and a half at first, twice as long with each
/// probe that fails, and four times as long where that was a client's loss.
const RETURNS: Duration = Duration::from_secs(90);

/// Kinds of failures of the timed server, with what a client has of each, and whether a probe
/// that fails is its client's loss: what may not be asked twice.
const KINDS: [(&str, &str, bool); 3] = [
    ("fail", "503", false),
    ("unavailable", "grpc 14", true),
    ("unavailable-behind", "grpc 14", true),
];

/// What came of so many calls: by the server that answered, or the failure.
struct Calls(Value);

impl Calls {
    fn of(&self, what: &str) -> u64 {
        self.0[what].as_u64().unwrap_or_default()
    }
}

/// Servers b and c as one Service, with the defaults.
struct Pair {
    mesh: Mesh,
    to: String,
}

impl Pair {
    fn new() -> Self {
        let mesh = Mesh::serving("serve-timed", &[]);
        let to = hedged(&mesh, "outlierDetection: {enabled: true}");
        Self { mesh, to }
    }

    /// Calls of that kind, which that server fails.
    fn calls(&self, (kind, failing): (&str, &str), count: u64) -> Calls {
        let path = format!("/{kind}/{failing}/0/0");
        let told = self
            .mesh
            .client(&["ends", &self.to, &path, &count.to_string()]);
        Calls(told)
    }

    fn metric(&self, name: &str, with: &str) -> u64 {
        // A count.
        self.mesh.agents[0].metric(name, with).expect("a page") as u64
    }

    fn ejections(&self) -> u64 {
        self.metric("mesh_agent_outlier_ejections_total", "")
    }

    fn failed_probes(&self) -> u64 {
        self.metric("mesh_agent_outlier_probes_total", "result=\"failure\"")
    }

    /// As `mesh-agent status endpoints` has them: who is not used.
    fn left_out(&self) -> Vec<String> {
        let list = self.mesh.agents[0].ask("/endpoints").expect("a list");
        let rows = list["endpoints"].as_array().expect("rows");
        let out = rows.iter().filter(|row| row["state"] != "used");
        let pods = out.map(|row| row["pod"].as_str().expect("a pod").to_owned());
        // Each has a row for each of its Services.
        pods.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What the servers were asked, as they count it.
    fn asked(&self) -> u64 {
        let services = self.mesh.services();
        let count = |(_, to): &(&Pod, String)| {
            let told = self.mesh.client(&["get", to, "/asked"]);
            told[0]["body"].as_str().expect("a count").parse::<u64>()
        };
        services.iter().map(|of| count(of).expect("a count")).sum()
    }

    /// That server fails, is left out, costs its clients no more than its probes, and is
    /// used again when it works.
    fn is_spared(&self, server: &str, (kind, failure, is_lost): (&str, &str, bool)) {
        let what = format!("{kind} of {server}");
        let well = self.calls((kind, "none"), 100);
        assert_eq!(well.of("b") + well.of("c"), 100, "{what}: {}", well.0);
        let mut failed = 0;
        let is_ejected = || {
            failed += self.calls((kind, server), 10).of(failure);
            self.ejections() > 0
        };
        assert!(eventually(RETURNS, is_ejected), "{what}: {failed} failed");
        // Seven in a row; the calls behind these are the other one's already. Of one that was
        // asked less before, as it is slower, fewer are a fifth of all that it was asked.
        let good = well.of(server);
        let is_a_fifth = good + failed >= 20 && good * 100 < (good + failed) * 80;
        let is_enough = failed == 7 || (failed < 7 && is_a_fifth);
        assert!(is_enough, "{what}: {failed} behind {good}");
        assert_eq!(self.left_out(), [format!("shop/{server}")], "{what}");
        // Until it was asked again: a loss makes the time to the next one four times as long.
        let wanted = if is_lost { 1 } else { 2 };
        let (mut failed, mut answered) = (0, 0);
        let is_probed = || {
            let calls = self.calls((kind, server), 50);
            failed += calls.of(failure);
            answered += calls.of("b") + calls.of("c");
            assert_eq!(calls.of(server), 0, "{what}: {}", calls.0);
            self.failed_probes() >= wanted
        };
        let is_probed = eventually(RETURNS, is_probed);
        let probes = self.failed_probes();
        println!("{what}: {failed} failed, {answered} did not, {probes} probes");
        assert!(is_probed, "{what}: {probes} probes");
        let most = if is_lost { probes } else { 0 };
        assert_eq!(failed, most, "{what}: beside {answered}");
        assert!(answered >= 100, "{what}: {answered}");
        assert_eq!(self.ejections(), 1, "{what}");
        // It works, and the probe that shows it is nobody's loss.
        let mut lost = Vec::new();
        let is_back = || {
            let calls = self.calls((kind, "none"), 50);
            if calls.of("b") + calls.of("c") < 50 {
                lost.push(calls.0.clone());
            }
            self.left_out().is_empty() && calls.of(server) > 5
        };
        assert!(eventually(RETURNS, is_back), "{what}: {}", self.log());
        assert!(lost.is_empty(), "{what}: {lost:?}");
        assert_eq!(self.ejections(), 1, "{what}");
    }

    fn log(&self) -> String {
        self.mesh.agents[0].log()
    }
}

#[test]
fn an_endpoint_that_fails_is_left_out_once_and_comes_back() {
    for kind in KINDS {
        for server in ["b", "c"] {
            Pair::new().is_spared(server, kind);
        }
    }
}

/// One of the two is used in spite of that, and what it says is the client's. A fifth more
/// than was asked and ten a second reach them; what was asked before counts for ten seconds.
#[test]
fn where_all_fail_servers_see_little_more_than_was_asked_of_them() {
    for (kind, failure, is_lost) in KINDS {
        for is_retried in [false, true] {
            let pair = Pair::new();
            if is_retried {
                let retry = "retry: {codes: [503], attempts: 2, backoff: 1ms}";
                let rules = format!("[{{backendRefs: [{{name: some, port: 80}}], {retry}}}]");
                let some = route("HTTPRoute", &rules).replace("name: b,", "name: some,");
                pair.mesh.policy("route", &some);
            }
            let (before, began) = (pair.asked(), Instant::now());
            let calls = pair.calls((kind, "all"), 1_000);
            let seconds = began.elapsed().as_secs_f64();
            let seen = pair.asked() - before;
            println!("{kind}, retried {is_retried}: {seen} of {}", calls.0);
            assert_eq!(calls.of(failure), 1_000, "{kind}: {}", calls.0);
            let most = 1_200.0 + 10.0 * (seconds + 10.0);
            assert!(seen >= 1_000 && seen as f64 <= most, "{kind}: {seen}");
            // An answer of gRPC that has begun is never asked for again.
            if is_retried && kind != "unavailable-behind" {
                assert!(seen > 1_000, "{kind}: {seen}");
            } else if is_lost {
                assert_eq!(seen, 1_000, "{kind}");
            }
        }
    }
}
