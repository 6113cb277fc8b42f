//! Connections between agents: what they survive, and when they are made.

use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_tests::{APP_PORT, Agent, Authority, Pod, PodSpec, World, eventually, has_left};
use nix::sys::signal::{Signal, kill};

/// Client a and its agent on n1, server c on n2.
struct Mesh {
    world: World,
    a: Pod,
    c: Pod,
    near: Agent,
    authority: Authority,
}

impl Mesh {
    fn new() -> Self {
        // One worker, one pool: what is counted does not depend on chance.
        Self::of_workers("1")
    }

    fn of_workers(workers: &str) -> Self {
        Self::with(&["--workers", workers])
    }

    fn with(flags: &[&str]) -> Self {
        let mut world = World::new(2).expect("a world");
        let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
        let c = world.add_pod("n2", "c", Some("closed")).expect("a pod");
        world.serve(&c).expect("a server");
        let authority = world.authority(&[]).expect("an authority");
        let near = world.secure_agent("n1", &authority, flags);
        Self {
            near: near.expect("an agent"),
            world,
            a,
            c,
            authority,
        }
    }

    fn far(&self) -> Agent {
        let keep = ["--on-stop", "keep"];
        let agent = self.world.secure_agent("n2", &self.authority, &keep);
        agent.expect("an agent")
    }

    fn storm(&self, count: u64, inflight: &str) -> serde_json::Value {
        let args = ["--count", &count.to_string(), "--inflight", inflight];
        let targets = &self.c.targets()[2..3];
        self.world.storm(&self.a, targets, &args).expect("a report")
    }

    fn count(&self, name: &str) -> u64 {
        let value = self.near.metric(&format!("mesh_agent_{name}"), "");
        value.expect("a metric") as u64
    }

    /// Connections that begin at once, and stay.
    fn burst(&self, count: usize) -> Child {
        let signal = |signal| {
            let pid = i32::try_from(self.near.pid()).expect("a pid");
            kill(nix::unistd::Pid::from_raw(pid), signal).expect("a signal");
        };
        signal(Signal::SIGSTOP);
        let target = format!("[{}]:{APP_PORT}", self.c.v6());
        let holder = self.world.hold(&self.a, &target, count).expect("a client");
        signal(Signal::SIGCONT);
        holder
    }
}

/// Connections of pod a's agent that are there in the server's namespace, whoever has
/// taken them.
fn established(mesh: &Mesh) -> usize {
    const ESTABLISHED: &str = "01";
    let mut cat = mesh.world.in_pod(&mesh.c, "cat");
    let out = cat.arg("/proc/net/tcp6").output().expect("cat");
    let table = String::from_utf8(out.stdout).expect("text");
    let port = format!(":{APP_PORT:04X}");
    let at_server = |line: &&str| {
        let mut columns = line.split_whitespace().skip(1);
        let local = columns.next().is_some_and(|local| local.ends_with(&port));
        local && columns.nth(1) == Some(ESTABLISHED)
    };
    table.lines().filter(at_server).count()
}

/// All at once would be late together where the agents are slow.
#[test]
fn a_burst_makes_some_handshakes_at_once_and_all_of_it_gets_through() {
    const BURST: usize = 600;
    const AT_ONCE: usize = 256;
    /// Beside them, for streams to come.
    const AHEAD: usize = 16;
    // However slow this machine is while the far agent stands still.
    let patient = ["--handshake-timeout", "60s", "--workers", "1"];
    let mesh = Mesh::with(&patient);
    let far = mesh.world.secure_agent("n2", &mesh.authority, &patient);
    let far = far.expect("an agent");
    far.pause().expect("it stands still");
    let before = mesh.near.open_fds();
    let mut held = mesh.burst(BURST);
    // Each stream has a socket, and each handshake.
    let taken = eventually(Duration::from_secs(30), || {
        mesh.near.open_fds() >= before + BURST + AT_ONCE
    });
    assert!(taken, "{} and {before}", mesh.near.open_fds());
    let at_once = established(&mesh);
    assert!(at_once <= AT_ONCE + AHEAD, "{at_once}");
    far.resume().expect("it goes on");
    let through = eventually(Duration::from_secs(60), || {
        mesh.count("tunnel_connects_total") >= BURST as u64
    });
    assert!(through, "{}", mesh.count("tunnel_connects_total"));
    let lines = mesh.world.logged("n1");
    let refused: Vec<_> = lines.iter().filter(|l| l["reason"].is_string()).collect();
    assert!(refused.is_empty(), "{refused:?}");
    drop(held.stdin.take());
    held.wait().expect("the client ends");
}

#[test]
fn no_connection_fails_while_the_servers_agent_is_restarted() {
    let mesh = Mesh::new();
    let mut far = mesh.far();
    let (done, ok) = (AtomicBool::new(false), AtomicU64::new(0));
    let goes_on = || {
        let more = ok.load(Ordering::Relaxed) + 80;
        let went_on = || ok.load(Ordering::Relaxed) >= more || done.load(Ordering::Relaxed);
        assert!(eventually(Duration::from_secs(20), went_on), "{ok:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ends the restarts, too, when it fails.
            let _done = OnDrop(&done);
            while !done.load(Ordering::Relaxed) {
                let report = mesh.storm(40, "4");
                assert_eq!(report["ok"], 40, "after {ok:?}: {report}");
                ok.fetch_add(40, Ordering::Relaxed);
                // A client has about 28,000 ports for a minute.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _done = OnDrop(&done);
        for _ in 0..5 {
            goes_on();
            assert!(far.stop().expect("stopped").success());
            far = mesh.far();
        }
        goes_on();
    });
}

struct OnDrop<'d>(&'d AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_second_burst_finds_connections_made_ahead_and_single_streams_make_none() {
    const BURST: u64 = 8;
    let mesh = Mesh::new();
    let _far = mesh.far();
    assert_eq!(mesh.storm(50, "1")["ok"], 50);
    let counts = || {
        let active = mesh.count("connections_active");
        (
            active,
            mesh.count("tunnel_connects_total"),
            mesh.count("tunnel_connects_ahead_total"),
        )
    };
    // The last one is over for its client first.
    let over = eventually(Duration::from_secs(20), || counts().0 == 0);
    assert!(over, "{:?}", counts());
    assert_eq!(counts(), (0, 1, 0), "one after the other");
    let first = mesh.burst(BURST as usize);
    let ready = eventually(Duration::from_secs(10), || {
        counts() == (BURST, 1 + BURST, BURST)
    });
    assert!(ready, "after the first burst: {:?}", counts());
    let second = mesh.burst(BURST as usize);
    let ready = eventually(Duration::from_secs(10), || {
        counts() == (2 * BURST, 1 + BURST, 2 * BURST)
    });
    assert!(ready, "after the second burst: {:?}", counts());
    for mut holder in [first, second] {
        drop(holder.stdin.take());
        holder.wait().expect("the client ends");
    }
}

#[test]
fn a_pod_goes_within_two_seconds_whatever_the_other_end_of_its_streams_does() {
    // Each of which has some of them.
    let mesh = Mesh::of_workers("4");
    let far = mesh.far();
    let target = format!("{}:{APP_PORT}", mesh.c.v4());
    let mut holder = mesh.world.hold(&mesh.a, &target, 40).expect("a client");
    let held = eventually(Duration::from_secs(10), || {
        mesh.count("connections_active") == 40
    });
    assert!(held, "{}", mesh.near.log());
    far.pause().expect("it stands still");
    let unwanted = PodSpec::new("n1", "a");
    mesh.world.configure(&unwanted, &mesh.a).expect("written");
    let begun = Instant::now();
    let gone = eventually(Duration::from_secs(20), || has_left(&mesh.near, &mesh.a));
    let took = begun.elapsed();
    assert!(gone, "{}", mesh.near.log());
    // The other agent's word is waited for a second, of all streams at once: one worker's
    // after the other's it would take four.
    assert!(took < Duration::from_millis(3_500), "{took:?}");
    holder.kill().expect("killed");
    holder.wait().expect("it ends");
    far.resume().expect("resumed");
}
