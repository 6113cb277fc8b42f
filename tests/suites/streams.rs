//! Connections that last, carry much, or are many: WebSocket, server-sent events,
//! large bodies both ways, slow clients, a greedy neighbour, servers that close what
//! is idle. `MESH_STREAMS=long` takes the figures of the documentation, which need
//! about half an hour.

#[path = "streams/attacks.rs"]
mod attacks;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_tests::{APP_PORT, Agent, Agents, Pod, World, eventually, figure, parse};
use serde_json::{Value, json};

/// The helpers of `http.py` come last: there it is told which verb to run.
const SCRIPT: &str = concat!(include_str!("streams.py"), include_str!("http.py"));
const PYTHON: &str = "/usr/bin/python3";

/// Clients a and d and server b on n1, server c on n2, all in the mesh.
struct Mesh {
    world: World,
    a: Pod,
    d: Pod,
    servers: [Pod; 2],
    agents: Agents,
}

impl Mesh {
    fn new() -> Self {
        Self::serving(&[], &[])
    }

    /// `how`: more arguments of the servers; `flags`: of the agents.
    fn serving(how: &[&str], flags: &[&str]) -> Self {
        let (mut world, [a, b, c]) = World::of_three().expect("a world");
        let d = world.add_pod("n1", "d", Some("closed")).expect("a pod");
        for pod in [&b, &c] {
            let mut server = world.in_pod(pod, PYTHON);
            server.args(["-c", SCRIPT, "serve_streams", &APP_PORT.to_string()]);
            server.args(how);
            world.start_server(pod, APP_PORT, server).expect("a server");
        }
        let agents = Agents::start(&world, flags).expect("agents");
        Self {
            world,
            a,
            d,
            servers: [b, c],
            agents,
        }
    }

    /// A verb of the script in a pod.
    fn client(&self, pod: &Pod, args: &[&str]) -> Value {
        let mut client = self.world.in_pod(pod, PYTHON);
        client.args(["-c", SCRIPT]).args(args).stdin(Stdio::null());
        let output = client.output().expect("python runs");
        parse(&output).unwrap_or_else(|problem| panic!("{args:?}: {problem:#}"))
    }

    /// Of each server, an address of its Service.
    fn services(&self) -> [String; 2] {
        self.servers.each_ref().map(|pod| pod.vips()[0].clone())
    }

    /// Clients of pod a that are slow until they are told to end.
    fn slow(&self, to: &str, mode: &str, count: &str) -> Slow {
        let mut client = self.world.in_pod(&self.a, PYTHON);
        client.args(["-c", SCRIPT, "slow", to, mode, count]);
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut slow = Slow::of(client.spawn().expect("python runs"));
        assert_eq!(slow.line(), "open", "{mode}");
        slow
    }

    fn all<T>(&self, of: impl Fn(&Agent) -> anyhow::Result<T>) -> [T; 2] {
        self.agents.each(of).expect("told")
    }
}

/// A client that goes on until it is told to end.
struct Slow {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Slow {
    fn of(mut child: Child) -> Self {
        let out = child.stdout.take().map(BufReader::new);
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.out.as_mut().expect("its output");
        out.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    /// How many there were, and how many there are still.
    fn end(mut self) -> Value {
        drop(self.child.stdin.take());
        let told = serde_json::from_str(&self.line()).expect("JSON");
        let _ended = self.child.wait();
        told
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Ended already, usually.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which CPU a greedy pod has: what nobody else wants, for how pods share that is the kernel's
/// affair, and not what is looked at; or a core of its own and no other (`MESH_STREAMS_A=core`),
/// as a kubelet's static CPU manager has it.
fn greedy() -> [&'static str; 3] {
    match is_on_a_core() {
        true => ["taskset", "-c", "0"],
        false => ["nice", "-n", "19"],
    }
}

fn is_on_a_core() -> bool {
    std::env::var("MESH_STREAMS_A").is_ok_and(|where_it_is| where_it_is == "core")
}

/// Until nothing is left of what slow or greedy clients did; `short` where other suites run
/// beside it.
fn recovery(short: &'static str) -> Duration {
    Duration::from_secs(number(figure("2", short)))
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

#[test]
fn upgrades_pass_their_first_frame_and_every_way_to_end() {
    let mesh = Mesh::new();
    let count = figure("5000", "1000");
    for to in mesh.services() {
        let begun = Instant::now();
        let told = mesh.client(&mesh.a, &["sockets", &to, count, "8"]);
        println!("{count} upgrades at {to} in {:?}", begun.elapsed());
        assert_eq!(told["failed"], 0, "{told}");
        let quarter = number(count) / 4;
        let noted = || mesh.client(&mesh.a, &["notes", &to]);
        let expected = json!({"heard": quarter, "reset": quarter});
        // The last ones may be on their way yet.
        let heard = eventually(Duration::from_secs(20), || noted() == expected);
        assert!(heard, "{} and not {expected}", noted());
    }
}

/// Nor is a connection between two requests.
#[test]
fn a_silence_cuts_nothing_and_ends_at_once() {
    let mesh = Mesh::new();
    let (silence, idle) = (figure("360", "20"), figure("400", "31"));
    let services = mesh.services();
    std::thread::scope(|scope| {
        for to in &services {
            scope.spawn(|| {
                let late = mesh.client(&mesh.a, &["events", to, silence, "1"]);
                assert_eq!(late.as_array().map(Vec::len), Some(1), "{late}");
                is_soon(&late);
            });
            scope.spawn(|| {
                let late = mesh.client(&mesh.a, &["events", to, "0.05", "300"]);
                assert_eq!(late.as_array().map(Vec::len), Some(300), "{late}");
                is_soon(&late);
            });
            scope.spawn(|| {
                let told = mesh.client(&mesh.a, &["sockets", to, "4", "4", silence]);
                assert_eq!(told["failed"], 0, "{told}");
            });
            scope.spawn(|| {
                let told = mesh.client(&mesh.a, &["asks_again", to, idle]);
                assert_eq!(told, json!([200, 200]));
            });
        }
    });
}

/// Half of the events within 20 ms, each within a second: the machine is shared.
fn is_soon(late: &Value) {
    let late = late.as_array().expect("times").iter();
    let mut late: Vec<f64> = late.filter_map(Value::as_f64).collect();
    late.sort_by(f64::total_cmp);
    let (half, last) = (late[late.len() / 2], late[late.len() - 1]);
    println!(
        "{} events: {half:.2} ms late, at most {last:.2}",
        late.len()
    );
    assert!(half < 20.0 && last < 1000.0, "{half} and {last} ms late");
}

#[test]
fn as_much_up_as_down_passes_exactly_and_is_not_held() {
    let mesh = Mesh::new();
    let size = figure("1073741824", "134217728");
    for to in mesh.services() {
        // What the first exchange costs is not that of one.
        assert_eq!(mesh.client(&mesh.a, &["both", &to, "16777216"]), true);
        let begun = Instant::now();
        let carry = || mesh.client(&mesh.a, &["both", &to, size]);
        let (is_exact, grown) = mesh.agents.grow_by(carry).expect("memory");
        assert_eq!(is_exact, true);
        let grown = grown.map(|bytes| bytes / 1024);
        println!(
            "{size} bytes each way at {to} in {:?}: {grown:?} KiB more",
            begun.elapsed()
        );
        assert!(grown.iter().all(|kib| *kib <= 2048), "{grown:?} KiB");
    }
}

#[test]
fn what_proxies_are_known_to_break_is_whole() {
    let mesh = Mesh::new();
    for to in mesh.services() {
        let told = mesh.client(&mesh.a, &["odd_ones", &to]);
        let expected = json!({
            "old": 200,
            "upload to old": 11,
            "get with body": 5,
            "query": "GET /q?a=\"<b>\" HTTP/1.1",
            "length and chunks": 502,
            "cut to 1.0": "reset",
        });
        assert_eq!(told, expected, "{to}");
    }
}

/// The four ways of slowhttptest, and a quiet client beside.
#[test]
fn slow_clients_cost_little_and_are_forgotten_when_they_go() {
    let mesh = Mesh::new();
    let (count, seconds) = (figure("2000", "300"), figure("30", "5"));
    let [_, far] = &mesh.services();
    let [near, _] = &mesh.services();
    // What connections cost once stays with the agent.
    mesh.slow(far, "headers", count).end();
    let settled = || {
        let active = |agent: &Agent| agent.metric("mesh_agent_connections_active", "");
        let left = mesh.all(active);
        left.iter().sum::<f64>() < 10.0
    };
    for mode in ["headers", "body", "read", "range"] {
        assert!(eventually(Duration::from_secs(10), settled), "{mode}");
        let (memory, cpu) = (mesh.all(Agent::rss), mesh.all(Agent::cpu));
        let slow = mesh.slow(far, mode, count);
        let opened = mesh.all(Agent::cpu);
        let quiet = mesh.client(&mesh.d, &["paced", near, "50", seconds]);
        assert_eq!(quiet["failed"], 0, "{mode}: {quiet}");
        let each = number(count);
        let spent = mesh.all(Agent::cpu);
        for (i, agent) in mesh.agents.iter().enumerate() {
            assert!(agent.is_ready(), "{mode}");
            let grown = agent.rss().expect("memory").saturating_sub(memory[i]);
            let (opening, held) = (opened[i] - cpu[i], spent[i] - opened[i]);
            println!(
                "{mode}: {} KiB each, {opening:?} to open, then {held:?}",
                grown / 1024 / each
            );
            // What a client does not read is held within the budget of all.
            let budget = match mode {
                "read" | "range" => 256 << 20,
                _ => 0,
            };
            let most = (each * 256 * 1024).min(budget + each * 64 * 1024);
            assert!(grown < most, "{mode}: {grown} bytes");
            // A byte of each a second is work; a spin is a core.
            let bound = Duration::from_secs(number(seconds)).mul_f64(0.6);
            assert!(held < bound, "{mode}: {held:?}");
        }
        let told = slow.end();
        let ended = Instant::now();
        assert_eq!(told["opened"], each, "{mode}: {told}");
        let whole = eventually(recovery("20"), settled);
        println!("{mode}: {:?} until all had gone", ended.elapsed());
        assert!(whole, "{mode}: {:?} later", ended.elapsed());
        assert_eq!(
            mesh.client(&mesh.a, &["asks_again", far, "0"]),
            json!([200, 200])
        );
    }
}

/// Its application closes what is idle just when the next request comes.
#[test]
fn a_server_that_closes_idle_connections_loses_no_request() {
    let mesh = Mesh::serving(&[figure("5", "0.2")], &[]);
    let (idle, spread) = (figure("5", "0.2"), figure("0.01", "0.05"));
    let (seconds, width) = (figure("600", "8"), figure("200", "24"));
    let services = mesh.services();
    std::thread::scope(|scope| {
        for to in &services {
            let mesh = &mesh;
            scope.spawn(move || {
                let told = mesh.client(&mesh.a, &["race", to, idle, spread, seconds, width]);
                println!("{to}: {told}");
                assert_eq!(told["failed"]["GET"], json!({}), "{told}");
                // It may have been seen, and then nobody may ask again: its client is told so.
                let posts = told["failed"]["POST"].as_object().expect("counts");
                let failed: u64 = posts.values().filter_map(Value::as_u64).sum();
                let asked = told["asked"]["POST"].as_u64().expect("a count");
                assert!(posts.keys().all(|what| what == "502"), "{told}");
                // One of a hundred; where the times are short, what a busy machine takes longer
                // to notice a close is more of them.
                let each = number(figure("100", "20"));
                assert!(each * failed <= asked, "{failed} of {asked}: {told}");
                for what in ["twice", "lost"] {
                    assert_eq!(told[what], 0, "{what}: {told}");
                }
            });
        }
    });
}

/// Connections that are held, bulk, and new connections as fast as they come, all of
/// one pod; another one beside it. The row without agents is what the machine itself
/// does to it. How long it takes is asked of an idle machine alone (`MESH_STREAMS=long`):
/// beside other tests times tell of them.
#[test]
fn beside_a_greedy_pod_a_quiet_one_has_each_of_its_answers() {
    let mut mesh = Mesh::new();
    let flood = mesh.world.add_pod("n2", "flood", Some("closed"));
    let flood = flood.expect("a pod");
    let mut server = mesh.world.app_by(&flood, greedy());
    server.args(["load-server", &APP_PORT.to_string()]);
    mesh.world
        .start_and_read(server, "serving")
        .expect("a server");
    let addresses = [0, 1].map(|role| format!("{}:{}", flood.v4(), APP_PORT + role));
    // They are ended before: longer than what is measured beside them.
    let millis = number(figure("120", "60")) * 1000;
    // What the load costs without any agent: the machine is small.
    let outside = [("n1", "x"), ("n2", "y")];
    let [x, y] = outside.map(|(node, name)| mesh.world.add_pod(node, name, None).expect("a pod"));
    let mut server = mesh.world.in_pod(&y, PYTHON);
    server.args(["-c", SCRIPT, "serve_streams", &APP_PORT.to_string()]);
    mesh.world
        .start_server(&y, APP_PORT, server)
        .expect("a server");
    let [near, far] = mesh.services();
    let ways = [
        ("same node", &mesh.d, near),
        ("two nodes", &mesh.d, far),
        ("no agents", &x, format!("{}:{APP_PORT}", y.v4())),
    ];
    let seconds = figure("10", "3");
    let quiet =
        |(_, from, to): &(&str, &Pod, String)| mesh.client(from, &["paced", to, "100", seconds]);
    let alone = ways.each_ref().map(quiet);
    let args = |kind: &str, to: &str, width: &str| {
        let mut load = mesh.world.app_by(&mesh.a, greedy());
        load.args([
            "load",
            kind,
            to,
            "--width",
            width,
            "--millis",
            &millis.to_string(),
        ]);
        load.stdout(Stdio::null()).stderr(Stdio::inherit());
        Slow::of(load.spawn().expect("load"))
    };
    // The certificate of the pod that came last may be on its way yet.
    let mut asks = mesh.world.app(&mesh.a);
    asks.args(["load", "connections", &addresses[0]]);
    asks.args(["--width", "1", "--millis", "1"]);
    let answers = || {
        let told = parse(&asks.output().expect("it runs")).expect("JSON");
        told["errors"] == 0
    };
    assert!(eventually(Duration::from_secs(20), answers), "no answers");
    let mut held = mesh.world.hold(&mesh.a, &addresses[0], 2000).expect("held");
    let mut greedy = [
        args("bulk", &addresses[1], "8"),
        args("connections", &addresses[0], "32"),
    ];
    let beside = ways.each_ref().map(quiet);
    // Where other tests take the machine, so that the loads hardly run, it takes longer.
    let waited = || mesh.all(|agent| agent.metric("mesh_agent_turns_waited_total", ""));
    let in_turns = eventually(Duration::from_secs(20), || {
        waited().iter().all(|times| *times > 0.0)
    });
    for load in &mut greedy {
        let ended = load.child.try_wait().expect("it is asked");
        let lines = ["n1", "n2"].map(|node| mesh.world.logged(node));
        let cut = lines.iter().flatten().filter(|line| {
            let reason = line["reason"].as_str();
            reason.is_some_and(|reason| reason != "finished")
        });
        let cut: Vec<_> = cut.collect();
        assert_eq!(
            ended, None,
            "a load ended before all was measured: {cut:#?}"
        );
    }
    drop(greedy);
    println!("turns waited for: {:?}", waited());
    assert!(in_turns, "{:?}", waited());
    drop(held.stdin.take());
    held.wait().expect("it ends");
    let times = |which: usize, what: &str| {
        let of = |told: &Value| told[what].as_f64().unwrap_or_default();
        of(&beside[which]) / of(&alone[which])
    };
    let machine = times(2, "p50").max(1.0);
    let worst = times(2, "p99").max(1.0);
    for (which, (way, ..)) in ways.iter().enumerate() {
        let (alone, beside) = (&alone[which], &beside[which]);
        let (half, most) = (times(which, "p50"), times(which, "p99"));
        println!("{way}: alone {alone}\nbeside {beside}\np50 x {half:.1}, p99 x {most:.1}");
        for told in [alone, beside] {
            assert_eq!(told["failed"], 0, "{told}");
        }
        if figure("long", "short") == "long" {
            let bound = 12.0 * machine;
            assert!(half < bound, "{way}: half of the requests take x {half:.1}");
            let bound = 3.0 * worst;
            assert!(most <= bound, "{way}: x {most:.1} of at most {bound:.1}");
        }
    }
}

/// Fewer descriptors than clients: those that find none are refused at once, and
/// nothing of it stays.
#[test]
fn descriptors_that_run_out_are_refused_and_come_back() {
    const SECONDS: &str = "4";
    let mesh = Mesh::new();
    let [near, far] = mesh.services();
    for agent in mesh.agents.iter() {
        let pid = agent.pid().to_string();
        let set = Command::new("prlimit")
            .args(["--nofile=600:", "--pid", &pid])
            .status();
        assert!(set.expect("prlimit").success());
    }
    let memory = mesh.agents.memory().expect("memory");
    let slow = mesh.slow(&far, "body", "1000");
    let before = mesh.all(Agent::cpu);
    let told = mesh.client(&mesh.d, &["paced", &near, "50", SECONDS]);
    for ((agent, before), after) in mesh.agents.iter().zip(before).zip(mesh.all(Agent::cpu)) {
        println!("{:?} of CPU; beside {told}", after - before);
        let bound = Duration::from_secs(number(SECONDS)).mul_f64(0.6);
        assert!(
            after - before < bound,
            "{:?} in {SECONDS} s",
            after - before
        );
        assert!(agent.status().is_ok(), "nobody answers");
    }
    let grown = mesh.agents.grown_since(memory).expect("memory");
    println!("{grown:?} bytes more");
    // No more than as many slow clients as there are descriptors, whoever asks again.
    assert!(
        grown.iter().all(|bytes| *bytes < 600 * 64 * 1024),
        "{grown:?}"
    );
    let slow = slow.end();
    let ended = Instant::now();
    let asks = || mesh.client(&mesh.a, &["asks_again", &far, "0"]);
    let whole = eventually(recovery("20"), || asks() == json!([200, 200]));
    println!("{slow}; whole {:?} later", ended.elapsed());
    assert!(whole, "{}", asks());
    let after = mesh.client(&mesh.d, &["paced", &near, "50", "1"]);
    assert_eq!(after["failed"], 0, "{after}");
}
