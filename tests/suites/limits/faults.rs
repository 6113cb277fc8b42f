//! Faults that a TrafficPolicy injects: into the named callers' requests alone, so many of
//! a hundred, until the time that it says.

use std::process::{Command, Output};
use std::time::Duration;

use mesh_tests::{Pod, eventually};
use serde_json::Value;

use super::Mesh;

/// So many seconds from now.
fn until(seconds: u64) -> String {
    let mut date = Command::new("date");
    date.args(["-u", "+%FT%TZ", "-d", &format!("{seconds} seconds")]);
    let output = date.output().expect("date runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Mesh {
    /// A fault of the first client's requests.
    fn fault(&self, until: &str, what: &str) {
        self.says(&format!(
            "faults: [{{name: test, from: {{principals: [cluster.local/ns/shop/sa/a]}}, until: \"{until}\", {what}}}]"
        ));
    }

    fn injected(&self, kind: &str) -> f64 {
        let labels = format!("kind=\"{kind}\"");
        let counted = self.agents[0].metric("mesh_agent_faults_injected_total", &labels);
        counted.expect("a metric")
    }

    /// By HTTP/2; the head of the answer, and behind it how long it took.
    fn http2(&self, server: &Pod, kind: &str) -> String {
        let mut curl = self.world.in_pod(&self.clients[0], "curl");
        curl.args(["-sSi", "--http2-prior-knowledge", "--max-time", "20"]);
        curl.args(["-w", "took %{time_total}", "-d", "x", "-H"]);
        curl.arg(format!("content-type: {kind}"));
        curl.arg(format!("http://{}/a.B/C", server.vips()[0]));
        let Output { stdout, .. } = curl.output().expect("curl runs");
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Of so many requests: each one's status, and the seconds that it took.
    fn timed(&self, client: usize, server: &Pod, count: &str) -> Vec<(u64, f64)> {
        let told = self.client(&self.clients[client], &["timed", &server.vips()[0], count]);
        let told = told.as_array().expect("answers").iter();
        told.map(|one| {
            let (status, took) = (one[0].as_u64(), one[1].as_f64());
            (status.expect("a status"), took.expect("a time"))
        })
        .collect()
    }
}

#[test]
fn a_share_of_the_named_callers_requests_is_aborted_and_nobody_elses() {
    let mesh = Mesh::new("serve");
    mesh.fault(&until(600), "percent: 30, abort: {httpStatus: 418}");
    let mut aborted = 0;
    for server in &mesh.servers {
        let told = mesh.some(0, server, 1500, &[]);
        let count = told.iter().filter(|status| **status == 418).count();
        // Six times the deviation: by chance one run in 500 million is outside.
        assert!((343..=557).contains(&count), "{count} of 1500");
        assert!(told.iter().all(|status| matches!(status, 200 | 418)));
        aborted += count;
        assert_eq!(mesh.some(1, server, 50, &[]), [200; 50]);
    }
    assert_eq!(mesh.injected("abort"), aborted as f64);
    assert_eq!(mesh.injected("delay"), 0.0);
    let is_told = || {
        let lines = mesh.world.logged("n1");
        lines
            .iter()
            .filter(|line| line["reason"] == "fault_injected")
            .count()
            == aborted
    };
    assert!(eventually(Duration::from_secs(20), is_told));
    for line in mesh.world.logged("n1") {
        let is_fault = line["reason"] == "fault_injected";
        assert_eq!(line["response_flags"] == "FI", is_fault, "{line}");
        assert_eq!(line["status"] == 418, is_fault, "{line}");
        if is_fault {
            assert_eq!(line["rule"]["policy"], "shop/servers/test", "{line}");
        }
    }
    let (_, told) = mesh.agents[0]
        .explain("shop/a", "service/shop/c", 80)
        .expect("told");
    assert!(
        told["notes"].to_string().contains("fault test until"),
        "{told}"
    );
    let (_, told) = mesh.agents[0]
        .explain("shop/d", "service/shop/c", 80)
        .expect("told");
    assert!(!told["notes"].to_string().contains("fault test"), "{told}");
}

#[test]
fn http_2_and_grpc_get_the_fault_in_their_own_words() {
    let mesh = Mesh::new("serve");
    mesh.fault(&until(600), "abort: {grpcStatus: RESOURCE_EXHAUSTED}");
    for server in &mesh.servers {
        let http = mesh.http2(server, "text/plain");
        assert!(http.starts_with("HTTP/2 429"), "{http}");
        assert!(http.contains("x-mesh-reason: fault_injected"), "{http}");
        let grpc = mesh.http2(server, "application/grpc");
        assert!(grpc.contains("grpc-status: 8"), "{grpc}");
    }
}

#[test]
fn a_fault_has_no_effect_from_the_time_on_that_it_says() {
    let mesh = Mesh::new("serve");
    let server = &mesh.servers[1];
    mesh.fault(&until(0), "abort: {httpStatus: 500}");
    assert_eq!(mesh.some(0, server, 20, &[]), [200; 20]);
    let status = || mesh.agents[0].ask("/traffic").expect("a page").to_string();
    assert!(
        status().contains("fault test is over since"),
        "{}",
        status()
    );
    mesh.fault(&until(20), "abort: {httpStatus: 500}");
    assert_eq!(mesh.some(0, server, 1, &[]), [500]);
    let is_over = || mesh.some(0, server, 1, &[]) == [200];
    assert!(eventually(Duration::from_secs(40), is_over));
    assert!(
        status().contains("fault test is over since"),
        "{}",
        status()
    );
}

#[test]
fn a_delay_is_as_long_as_it_says_and_is_no_latency_of_the_endpoint() {
    let mesh = Mesh::new("serve");
    mesh.fault(&until(600), "delay: 1s");
    for server in &mesh.servers {
        for (status, took) in mesh.timed(0, server, "3") {
            assert_eq!(status, 200);
            assert!((1.0..3.0).contains(&took), "{took}");
        }
        let told = mesh.timed(1, server, "5");
        assert!(told.iter().all(|(_, took)| *took < 1.0), "{told:?}");
        let http2 = mesh.http2(server, "text/plain");
        let took = http2.rsplit_once("took ").expect("a time").1;
        assert!(took.parse::<f64>().expect("a number") >= 1.0, "{http2}");
    }
    assert_eq!(mesh.injected("delay"), 8.0);
    let endpoints = mesh.agents[0].ask("/endpoints").expect("a page");
    println!("{endpoints}");
    let all = endpoints["endpoints"].as_array().expect("rows");
    let latency = |row: &Value| row["latency_milliseconds"].as_f64().expect("a time");
    assert!(all.iter().all(|row| latency(row) < 900.0), "{endpoints}");
    let delayed = || {
        let lines = mesh.world.logged("n1");
        let delayed = lines.iter().filter(|line| line["response_flags"] == "DI");
        delayed
            .filter(|line| line["fault_delay_ms"] == 1000.0)
            .count()
            >= 6
    };
    assert!(eventually(Duration::from_secs(20), delayed));
}

#[test]
fn who_leaves_during_a_delay_is_waited_for_no_longer() {
    let mesh = Mesh::new("serve");
    mesh.fault(&until(600), "delay: 60s, abort: {httpStatus: 500}");
    let client = &mesh.clients[0];
    mesh.client(client, &["leave", &mesh.servers[1].vips()[0], "0.2"]);
    let left = || {
        let lines = mesh.world.logged("n1");
        lines.iter().any(|line| line["response_flags"] == "DI,DC")
    };
    assert!(
        eventually(Duration::from_secs(10), left),
        "{:?}",
        mesh.world.logged("n1")
    );
    let mut curl = mesh.world.in_pod(client, "curl");
    curl.args(["-sS", "--http2-prior-knowledge", "--max-time", "1"]);
    curl.arg(format!("http://{}/", mesh.servers[0].vips()[0]));
    assert!(!curl.status().expect("curl runs").success());
    let both = || {
        let lines = mesh.world.logged("n1");
        lines
            .iter()
            .filter(|line| line["response_flags"] == "DI,DC")
            .count()
            == 2
    };
    assert!(
        eventually(Duration::from_secs(10), both),
        "{:?}",
        mesh.world.logged("n1")
    );
    assert_eq!(mesh.injected("abort"), 0.0);
}

/// Whoever has no cookie gets one, over HTTP/1 and HTTP/2, and keeps it.
#[test]
fn a_consistent_hash_by_cookie_sets_the_cookie_where_it_is_missing() {
    let mesh = Mesh::new("serve");
    mesh.says(
        "loadBalancer: {type: ConsistentHash, consistentHash: {httpCookie: {name: at, ttl: 1h}}}",
    );
    for server in &mesh.servers {
        let to = &server.vips()[0];
        let ask = |line: &str| {
            let told = mesh.client(&mesh.clients[0], &["some", to, "1", line]);
            told[0][1]["set-cookie"].as_str().map(str::to_owned)
        };
        let given = ask("a=b").expect("a cookie");
        let (pair, rest) = given.split_once(';').expect("attributes");
        assert!(pair.starts_with("at=") && pair.len() == 19, "{given}");
        assert_eq!(rest, " Path=/; Max-Age=3600; HttpOnly");
        assert_eq!(ask(&format!("Cookie=b=c; {pair}")), None);
    }
}

#[test]
fn what_is_aborted_behind_its_delay_tells_its_route() {
    let mesh = Mesh::new("serve");
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: some, namespace: shop}\n\
         spec:\n  parentRefs: [{group: \"\", kind: Service, name: b, port: 80}]\n  \
         rules: [{backendRefs: [{name: b, port: 80}]}]\n";
    mesh.world.write_config("route", route).expect("a file");
    mesh.fault(&until(600), "delay: 100ms, abort: {httpStatus: 500}");
    let server = &mesh.servers[0];
    for version in ["1.1", "2"] {
        // Until the route is in force.
        let is_told = || {
            let _first = match version {
                "1.1" => mesh.timed(0, server, "1").len(),
                _ => mesh.http2(server, "text/plain").len(),
            };
            mesh.world.logged("n1").iter().any(|line| {
                let is_this = line["version"] == version && line["response_flags"] == "DI,FI";
                is_this && line["route"]["name"] == "HTTPRoute/shop/some"
            })
        };
        assert!(
            eventually(Duration::from_secs(15), is_told),
            "{version}: {:?}",
            mesh.world.logged("n1").last()
        );
    }
}
