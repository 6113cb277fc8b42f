//! One of three endpoints fails: what a client sees that never tries again, with the
//! defaults.

#[path = "resilience/attempts.rs"]
mod attempts;
#[path = "resilience/budget.rs"]
mod budget;
#[path = "resilience/hedging.rs"]
mod hedging;
#[path = "resilience/leavers.rs"]
mod leavers;
#[path = "resilience/locality.rs"]
mod locality;
#[path = "resilience/probes.rs"]
mod probes;
#[path = "resilience/rollouts.rs"]
mod rollouts;
#[path = "resilience/slow.rs"]
mod slow;
#[path = "resilience/storms.rs"]
mod storms;
#[path = "resilience/transitions.rs"]
mod transitions;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use mesh_tests::{
    APP_PORT, Agents, OnAgentDown, Pod, PodSpec, World, eventually, parse, traffic_policy,
};
use serde_json::Value;

const SCRIPT: &str = include_str!("resilience.py");
const PYTHON: &str = "/usr/bin/python3";
const VIP: &str = "10.96.1.1:80";
/// A breaker is open for a second to a second and a half at first, then twice as long, and
/// never for longer than this.
const RETURNS: Duration = Duration::from_secs(90);

const SERVERS: [(&str, &str); 3] = [("n1", "b"), ("n2", "c"), ("n2", "d")];

fn spec(node: &str, name: &str) -> PodSpec {
    PodSpec::new(node, name).enrolled(OnAgentDown::Closed)
}

/// Client a and server b on n1, servers c and d on n2, all in the mesh and one Service.
struct Shop {
    world: World,
    a: Pod,
    servers: Vec<Pod>,
    agents: Agents,
}

/// What came of so many calls.
#[derive(Debug)]
struct Calls {
    count: u64,
    ok: u64,
    report: Value,
}

impl Calls {
    fn failed(&self) -> u64 {
        self.count - self.ok
    }

    fn of(&self, server: &str) -> u64 {
        self.report["servers"][server].as_u64().unwrap_or_default()
    }
}

impl Shop {
    fn new() -> Self {
        Self::with(&[])
    }

    /// `flags`: of the agents.
    fn with(flags: &[&str]) -> Self {
        let mut world = World::new(2).expect("a world");
        let a = world.add(&spec("n1", "a")).expect("a pod");
        let mut servers = Vec::new();
        for (node, name) in SERVERS {
            let pod = world.add(&spec(node, name).label("tier", "s"));
            let pod = pod.expect("a pod");
            let mode = mode_file(&world, name);
            fs::write(&mode, "ok").expect("a file");
            let mut server = world.in_pod(&pod, PYTHON);
            server.args(["-c", SCRIPT, "serve", name, &APP_PORT.to_string()]);
            server.arg(mode);
            world
                .start_server(&pod, APP_PORT, server)
                .expect("a server");
            servers.push(pod);
        }
        world.write_config("s", &service("")).expect("a file");
        let agents = Agents::start(&world, flags).expect("agents");
        Self {
            world,
            a,
            servers,
            agents,
        }
    }

    /// From now on the server does so.
    fn mode(&self, server: &str, mode: &str) {
        let file = mode_file(&self.world, server);
        fs::write(&file, mode).expect("a file");
        let is = file.with_extension("is");
        let holds = || fs::read_to_string(&is).is_ok_and(|is| is == mode);
        assert!(
            eventually(Duration::from_secs(20), holds),
            "{server}: {mode}"
        );
    }

    /// Writes objects and waits until they are in force.
    fn write(&self, name: &str, yaml: &str) {
        let read = self.agents.read_file(&self.world, name, yaml);
        read.expect("in force");
    }

    fn route(&self, more: &str) {
        self.write("route", &route("s", more));
    }

    /// From now on it is an endpoint, or none.
    fn serves(&self, at: usize, is_endpoint: bool) {
        let read = self.agents.read(|| self.configure(at, is_endpoint));
        read.expect("in force");
    }

    fn configure(&self, at: usize, is_endpoint: bool) -> Result<()> {
        let (node, name) = SERVERS[at];
        let spec = match is_endpoint {
            true => spec(node, name).label("tier", "s"),
            false => spec(node, name),
        };
        self.world.configure(&spec, &self.servers[at])
    }

    fn calls(&self, kind: &str, count: u64) -> Calls {
        self.calls_within(kind, count, "20")
    }

    /// Each within so many seconds.
    fn calls_within(&self, kind: &str, count: u64, longest: &str) -> Calls {
        let out = self
            .world
            .in_pod(&self.a, PYTHON)
            .args([
                "-c",
                SCRIPT,
                "calls",
                VIP,
                kind,
                &count.to_string(),
                longest,
            ])
            .output();
        let report = parse(&out.expect("a client")).expect("its report");
        let ok = report["results"]["ok"].as_u64().unwrap_or_default();
        Calls { count, ok, report }
    }

    /// What the server knows itself: how often it was asked, and its connections now.
    fn asked(&self, at: usize) -> (u64, u64) {
        let url = format!("http://{}:{APP_PORT}/state", self.servers[at].v4());
        let mut curl = self.world.in_pod(&self.a, "curl");
        let out = curl.args(["-sS", "--max-time", "10", &url]).output();
        let told: Value = parse(&out.expect("curl")).expect("a list");
        let count = |at: usize| told[at].as_u64().expect("a count");
        (count(0), count(1))
    }

    /// Of all servers.
    fn asked_all(&self) -> u64 {
        (0..SERVERS.len()).map(|at| self.asked(at).0).sum()
    }

    fn metric(&self, name: &str, with: &str) -> u64 {
        // A count.
        self.agents[0].metric(name, with).expect("a page") as u64
    }

    fn ejections(&self) -> u64 {
        self.metric("mesh_agent_outlier_ejections_total", "")
    }

    /// Calls until the server is left out; how they went.
    fn until_ejected(&self, kind: &str) -> Vec<Calls> {
        let (mut calls, before) = (Vec::new(), self.ejections());
        let is_ejected = || {
            calls.push(self.calls(kind, 30));
            self.ejections() > before
        };
        let ejected = eventually(RETURNS, is_ejected);
        assert!(ejected, "{calls:?}\n{}", self.agents[0].log());
        calls
    }

    /// Calls of which none fails, until that is seen. A server that was late once is asked
    /// less than the others for ten times as long, up to ten seconds, whatever it does: how
    /// many calls it takes is chance.
    fn spared_until(&self, kind: &str, count: u64, is_seen: impl Fn() -> bool) {
        let mut last = None;
        let seen = eventually(RETURNS, || {
            if is_seen() {
                return true;
            }
            let calls = self.calls(kind, count);
            assert_eq!(calls.failed(), 0, "{calls:?}\n{}", self.agents[0].log());
            last = Some(calls);
            is_seen()
        });
        let told = self.agents[0].ask("/endpoints").expect("a list");
        assert!(seen, "{last:?} {told}\n{}", self.agents[0].log());
    }

    /// Calls until the server answers again.
    fn until_back(&self, kind: &str, server: &str) {
        let is_back = || self.calls(kind, 30).of(server) > 5;
        let back = eventually(RETURNS, is_back);
        assert!(back, "{server} is not used again\n{}", self.agents[0].log());
    }

    /// Of two requests of one failing server the second is the next one's.
    fn is_spared(&self, kind: &str, server: &str, mode: &str) {
        self.mode(server, mode);
        let before = self.until_ejected(kind);
        println!("{kind} {mode}: until it is ejected {before:?}");
        let probes = || self.metric("mesh_agent_outlier_probes_total", "failure");
        let before = (probes(), self.ejections());
        let after = self.calls(kind, 1_000);
        // A client meets it when chance had it pass a probe. A probe itself costs only those
        // whose question may not be asked twice, who know of it before it is counted.
        let is_accounted_for = || {
            let (failed, ejected) = (probes() - before.0, self.ejections() - before.1);
            println!("{kind} {mode}: then {after:?}; {failed} probes failed, {ejected} ejections");
            let probes = match kind {
                "http" => 0,
                _ => failed,
            };
            after.failed() <= probes + 5 * ejected
        };
        assert!(
            eventually(Duration::from_secs(5), is_accounted_for),
            "{after:?}\n{}",
            self.agents[0].log()
        );
        self.mode(server, "ok");
        self.until_back(kind, server);
        assert_eq!(self.calls(kind, 100).failed(), 0);
    }
}

/// The Service of all servers; `more`: of its `spec`.
fn service(more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.1.1\n  selector: {{tier: s}}\n  \
         ports: [{{port: 80, targetPort: {APP_PORT}}}]\n  {more}\n"
    )
}

fn mode_file(world: &World, server: &str) -> PathBuf {
    world.dir().join(format!("mode-{server}"))
}

#[test]
fn all_endpoints_are_used_while_they_work() {
    let shop = Shop::new();
    for kind in ["http", "tcp"] {
        // One that was late once is looked at again.
        let are_used = || {
            let calls = shop.calls(kind, 2_000);
            assert_eq!(calls.failed(), 0, "{calls:?}");
            let used = ["b", "c", "d"].map(|server| calls.of(server));
            used.iter().all(|count| *count > 200)
        };
        assert!(eventually(RETURNS, are_used), "{kind}");
    }
    assert_eq!(shop.ejections(), 0);
}

#[test]
fn an_endpoint_that_answers_with_errors_is_left_out_and_comes_back() {
    let shop = Shop::new();
    shop.is_spared("http", "b", "fail");
    shop.is_spared("http", "c", "fail");
    shop.is_spared("http", "d", "half");
}

#[test]
fn an_endpoint_that_refuses_connections_is_left_out_and_comes_back() {
    let shop = Shop::new();
    for kind in ["http", "tcp"] {
        shop.is_spared(kind, "b", "refuse");
        shop.is_spared(kind, "c", "refuse");
    }
}

#[test]
fn an_endpoint_that_resets_what_it_accepts_is_left_out_and_comes_back() {
    let shop = Shop::new();
    for kind in ["http", "tcp"] {
        shop.is_spared(kind, "b", "reset");
        shop.is_spared(kind, "c", "reset");
    }
}

#[test]
fn where_all_fail_errors_pass_as_they_are_and_nobody_storms() {
    let shop = Shop::new();
    for server in ["b", "c", "d"] {
        shop.mode(server, "fail");
    }
    shop.until_ejected("http");
    let calls = shop.calls("http", 300);
    assert_eq!(calls.report["results"]["503"], 300, "{calls:?}");
    let used = ["b", "c", "d"].map(|server| calls.of(server));
    assert_eq!(used.iter().sum::<u64>(), 300, "the servers' own: {calls:?}");
    for server in ["b", "c", "d"] {
        shop.mode(server, "ok");
    }
    for server in ["b", "c", "d"] {
        shop.until_back("http", server);
    }
}

/// No more than one of three may be ejected. To fail at once is not to be quick.
#[test]
fn where_two_of_three_fail_at_once_the_one_that_works_gets_nearly_all() {
    let shop = Shop::new();
    shop.mode("d", "ok:0.05");
    for server in ["b", "c"] {
        shop.mode(server, "fail");
    }
    shop.until_ejected("http");
    let calls = shop.calls("http", 300);
    println!("two of three fail: {calls:?}");
    assert!(calls.failed() <= 60, "{calls:?}\n{}", shop.agents[0].log());
    for server in ["b", "c"] {
        shop.mode(server, "ok");
    }
    for server in ["b", "c"] {
        shop.until_back("http", server);
    }
}

#[test]
fn a_route_that_asks_for_retries_spares_its_clients() {
    let shop = Shop::new();
    shop.route("retry: {codes: [503], attempts: 2, backoff: 1ms}");
    // One that nobody knows when it fails is asked little, and not ejected for that.
    assert_eq!(shop.calls("http", 100).failed(), 0);
    let retried = || shop.metric("mesh_agent_retries_total", "");
    for server in ["b", "c"] {
        let before = retried();
        shop.mode(server, "fail");
        // By seven in a row it is left out, or by its share where it was asked seldom before.
        shop.spared_until("http", 200, || retried() - before >= 5);
        shop.mode(server, "ok");
        shop.until_back("http", server);
    }
    // Of those that all fail each client gets the application's own answer, and no
    // more reaches them than the budget allows.
    for server in ["b", "c", "d"] {
        shop.mode(server, "fail");
    }
    let before = shop.metric("mesh_agent_retries_total", "");
    let calls = shop.calls("http", 1_000);
    assert_eq!(calls.report["results"]["503"], 1_000, "{calls:?}");
    assert!(calls.of("b") + calls.of("c") + calls.of("d") == 1_000);
    let retries = shop.metric("mesh_agent_retries_total", "") - before;
    let seconds = calls.report["took"].as_f64().expect("a time");
    // What was asked before counts for ten seconds.
    let requests = shop.metric("istio_requests_total", "reporter=\"source\"") as f64;
    let allowed = requests * 0.2 + 10.0 * (seconds + 10.0);
    assert!((retries as f64) <= allowed, "{retries} of {allowed}");
    assert!(shop.metric("mesh_agent_retry_budget_exhausted_total", "") > 0);
}

#[test]
fn what_may_not_be_asked_twice_has_the_answer_of_the_probe_that_it_was() {
    let shop = Shop::new();
    shop.mode("b", "fail");
    shop.until_ejected("http");
    let probes = || shop.metric("mesh_agent_outlier_probes_total", "failure");
    let (before, retries) = (probes(), shop.metric("mesh_agent_retries_total", ""));
    let mut failed = 0;
    let is_probed = || {
        failed += shop.calls("post", 30).failed();
        probes() > before
    };
    assert!(eventually(RETURNS, is_probed), "{}", shop.agents[0].log());
    // Its client knows of each before it is counted.
    let counted = eventually(Duration::from_secs(20), || probes() - before >= failed);
    assert!(
        counted && probes() - before == failed,
        "{failed}: {}",
        shop.agents[0].log()
    );
    assert_eq!(shop.metric("mesh_agent_retries_total", ""), retries);
}

#[test]
fn an_answer_that_begins_well_brings_its_endpoint_back_however_long_it_takes() {
    let shop = Shop::new();
    shop.mode("c", "fail");
    shop.until_ejected("http");
    shop.mode("c", "stream");
    let probes = || shop.metric("mesh_agent_outlier_probes_total", "success");
    let before = probes();
    // It asks until it is the probe, and then waits for the end of that one's answer.
    let asks = shop
        .world
        .in_pod(&shop.a, PYTHON)
        .args(["-c", SCRIPT, "calls", VIP, "http", "1000000", "60"])
        .spawn();
    let mut asks = asks.expect("a client");
    let is_back = eventually(RETURNS, || probes() > before);
    let goes_on = asks.try_wait().expect("its state").is_none();
    asks.kill().expect("it ends");
    let _ended = asks.wait();
    assert!(is_back && goes_on, "{}", shop.agents[0].log());
}

/// To that Service; its rule says this, too.
fn route(service: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: s, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: s}}]\n  rules:\n  \
         - backendRefs: [{{name: {service}, port: 80}}]\n    {more}\n"
    )
}

/// An endpoint may ask for seconds: what holds behind them is asked then.
#[test]
fn where_a_retry_goes_is_decided_when_it_goes() {
    let shop = Shop::new();
    shop.write("route", &route("b", "retry: {codes: [503], attempts: 1}"));
    shop.mode("b", "later");
    let waits = shop
        .world
        .in_pod(&shop.a, PYTHON)
        .args(["-c", SCRIPT, "calls", VIP, "http", "1", "60"])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let waits = waits.expect("a client");
    let is_under_way = || shop.agents[0].has_in_flight().expect("a page");
    assert!(eventually(Duration::from_secs(10), is_under_way));
    shop.write("route", &route("c", "retry: {codes: [503], attempts: 1}"));
    shop.mode("b", "ok");
    let report = parse(&waits.wait_with_output().expect("its end")).expect("its report");
    assert_eq!(
        report["servers"]["c"],
        1,
        "{report}\n{}",
        shop.agents[0].log()
    );
}

#[test]
fn what_is_over_a_limit_is_told_its_name_at_once() {
    let shop = Shop::new();
    let one = "limits: {maxRequests: 1, maxPendingRequests: 0}";
    shop.write("limits", &traffic_policy("s", &["s"], one));
    for server in ["b", "c", "d"] {
        shop.mode(server, "hang");
    }
    let hangs = shop
        .world
        .in_pod(&shop.a, PYTHON)
        .args(["-c", SCRIPT, "calls", VIP, "http", "1", "60"])
        .spawn();
    let mut hangs = hangs.expect("a client");
    let is_under_way = || shop.agents[0].has_in_flight().expect("a page");
    assert!(eventually(Duration::from_secs(10), is_under_way));
    let calls = shop.calls("http", 3);
    assert_eq!(calls.report["results"]["503"], 3, "{calls:?}");
    assert_eq!(calls.of("max_requests"), 3, "{calls:?}");
    hangs.kill().expect("it ends");
    let _ended = hangs.wait();
    // Nobody waits for it any more, so it goes nowhere else.
    let is_over = || !is_under_way();
    assert!(eventually(Duration::from_secs(10), is_over));
    for server in ["b", "c", "d"] {
        shop.mode(server, "ok");
    }
    let is_free = || shop.calls("http", 1).failed() == 0;
    assert!(eventually(Duration::from_secs(10), is_free));
}

#[test]
fn a_kept_connection_whose_server_dies_is_no_client_s_loss() {
    for server in ["b", "c"] {
        let shop = Shop::new();
        let mut client = shop.world.in_pod(&shop.a, PYTHON);
        client.args(["-c", SCRIPT, "kept", VIP, "12"]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client.spawn().expect("a client");
        let mut told = BufReader::new(client.stdout.take().expect("its output"));
        let mut line = String::new();
        told.read_line(&mut line).expect("all have their answer");
        shop.mode(server, "die");
        drop(client.stdin.take());
        told.read_to_string(&mut line).expect("its report");
        client.wait().expect("its end");
        let report: Value = serde_json::from_str(&line).expect("a report");
        let results = report["results"].as_array().expect("results");
        let failed = results.iter().any(|result| result != "200");
        assert!(
            !failed && results.len() == 12,
            "{report}\n{}",
            shop.agents[0].log()
        );
    }
}

#[test]
fn a_policy_ends_requests_and_connections_that_take_too_long() {
    let shop = Shop::new();
    for server in ["b", "c", "d"] {
        shop.mode(server, "hang");
    }
    let allow = |timeouts: &str| {
        let says = format!("outlierDetection: {{enabled: false}}\n  timeouts: {{{timeouts}}}");
        shop.write("timeouts", &traffic_policy("s", &["s"], &says));
    };
    allow("request: 300ms");
    let calls = shop.calls("http", 6);
    assert_eq!(calls.report["results"]["504"], 6, "{calls:?}");
    allow("idle: 300ms");
    for kind in ["http", "tcp"] {
        let calls = shop.calls(kind, 6);
        // The agent ends it; the client itself would wait for 20 s.
        assert_eq!(calls.ok, 0, "{kind}: {calls:?}");
        let waited = &calls.report["results"]["TimeoutError"];
        assert!(waited.is_null(), "{kind}: {calls:?}");
    }
    // A route's own wins, also where it says that there is none.
    allow("request: 300ms");
    shop.route("timeouts: {request: 0s}");
    let calls = shop.calls_within("http", 1, "1.5");
    assert_eq!(calls.report["results"]["TimeoutError"], 1, "{calls:?}");
}
