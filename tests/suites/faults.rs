//! Calls of the kernel that fail, one after the other: a closed pod stays closed.
//!
//! `faults.py` has the calls of the agent's control loop fail: the n-th one, or
//! all from the n-th on. `MESH_FAULTS=1/1` in the environment tries every error in
//! both ways at every call, however long it takes; `2/20` the second of twenty equal
//! parts of that. Else they take turns, for a minute.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_tests::{
    Agent, ClosedPair, PodSpec, Steady, attached_links, detach_links, eventually, was_never_open,
};

const SUPERVISOR: &str = include_str!("faults.py");
/// EMFILE, ENOMEM, ENOSPC, EPERM, EBUSY.
const ERRORS: [i32; 5] = [24, 12, 28, 1, 16];
const MODES: [&str; 2] = ["once", "from"];
/// Of one part of the suite, where errors take turns.
const BUDGET: Duration = Duration::from_secs(60);
/// Of starts, and of calls that failed.
const ENOUGH: usize = 20;

#[derive(Clone, Copy, Debug)]
struct Fault {
    /// Counted from 1.
    call: usize,
    error: i32,
    mode: &'static str,
}

impl Fault {
    fn text(self) -> String {
        format!("{} {} {}", self.call, self.error, self.mode)
    }
}

/// Which part of all faults is to be tried: the number of it, and of how many.
fn part() -> Option<(usize, usize)> {
    let text = std::env::var("MESH_FAULTS").ok()?;
    let numbers = text.split_once('/').and_then(|(number, parts)| {
        let (number, parts) = (number.parse().ok()?, parts.parse().ok()?);
        (1..=parts).contains(&number).then_some((number, parts))
    });
    Some(numbers.expect("MESH_FAULTS=NUMBER/PARTS"))
}

/// Those of `calls` calls, in an order in which a part of them is spread evenly.
fn faults(calls: usize) -> Vec<Fault> {
    let mut all = Vec::new();
    for turn in 0..10 {
        for call in 1..=calls {
            // Another one at each call, and at the next turn another one there.
            let which = (call + turn) % 10;
            all.push(Fault {
                call,
                error: ERRORS[which / 2],
                mode: MODES[which % 2],
            });
        }
    }
    if let Some((number, parts)) = part() {
        return all.into_iter().skip(number - 1).step_by(parts).collect();
    }
    // One error at each call, every seventh call first.
    all.truncate(calls);
    all.sort_by_key(|fault| fault.call % 7);
    all
}

/// A run in which next to nothing failed shows nothing; a part may be small.
fn is_enough(injected: usize) {
    let least = if part().is_some() { 0 } else { ENOUGH };
    assert!(injected > least, "only {injected}");
}

/// What it is to be told about the agent's calls.
struct Supervisor {
    socket: PathBuf,
}

impl Supervisor {
    fn new(scene: &ClosedPair) -> Self {
        let socket = scene.world.dir().join("faults.sock");
        Self { socket }
    }

    /// Starts n1's agent under it, with this fault from its first call on.
    fn start(&self, scene: &ClosedPair, fault: Option<Fault>) -> Agent {
        let fault = format!("FAULT={}", fault.map(Fault::text).unwrap_or_default());
        let socket = self.socket.display().to_string();
        let by = ["env", &fault, "python3", "-c", SUPERVISOR, &socket];
        let args = scene.authority.agent_args("n1").expect("a token");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let agent = scene.world.spawn_agent_by("n1", &by, &args);
        agent.expect("an agent")
    }

    /// `None` where the agent has ended.
    fn tell(&self, command: &str) -> Option<usize> {
        let mut socket = UnixStream::connect(&self.socket).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        writeln!(socket, "{command}").ok()?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer).ok()?;
        answer.trim().parse().ok()
    }

    fn ask(&self, command: &str) -> usize {
        self.tell(command).expect("an answer of the supervisor")
    }
}

/// Ready, ended, or half a second is over: what failed has failed by then.
fn settles(agent: &mut Agent) {
    let _half_way = eventually(Duration::from_millis(500), || {
        agent.is_ready() || agent.ended().is_ok_and(|ended| ended.is_some())
    });
}

/// The pair, closed, with an agent that was killed.
fn killed() -> ClosedPair {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let agent = scene.agent(&[]).expect("an agent");
    let mut load = scene.load().expect("two clients");
    load[0].wait_for("carried", 20).expect("carried");
    agent.kill9().expect("kill");
    scene
}

fn steady(scene: &ClosedPair) -> [Steady; 2] {
    scene.clients().expect("two clients")
}

#[test]
fn whatever_fails_at_a_start_a_closed_pod_stays_closed() {
    let scene = killed();
    let supervisor = Supervisor::new(&scene);
    let capture = scene.leaks().expect("a capture");
    let mut load = steady(&scene);
    let agent = supervisor.start(&scene, None);
    agent.wait_ready().expect("ready under supervision");
    let calls = supervisor.ask("reset");
    agent.kill9().expect("kill");
    let (mut injected, mut starts) = (0, 0);
    let end = Instant::now() + BUDGET;
    for fault in faults(calls) {
        // On a slow machine it takes longer than that.
        if part().is_none() && Instant::now() > end && starts > ENOUGH {
            break;
        }
        let mut agent = supervisor.start(&scene, Some(fault));
        settles(&mut agent);
        injected += supervisor.tell("disarm").unwrap_or(1).max(1);
        starts += 1;
        agent.kill9().expect("kill");
    }
    println!("{injected} calls failed in {starts} starts of {calls} calls each");
    assert!(starts > ENOUGH, "only {starts} starts");
    let agent = scene.agent(&[]).expect("an agent that is whole");
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 20).expect("carried again");
    was_never_open(capture, &mut load).expect("closed all the time");
    drop(agent);
}

/// The agent of n1 under its supervisor, started again when a fault ended it.
struct Run<'s> {
    scene: &'s ClosedPair,
    supervisor: Supervisor,
    agent: Agent,
    ends: usize,
}

impl<'s> Run<'s> {
    fn start(scene: &'s ClosedPair) -> Self {
        let supervisor = Supervisor::new(scene);
        let agent = supervisor.start(scene, None);
        agent.wait_ready().expect("ready under supervision");
        Self {
            scene,
            supervisor,
            agent,
            ends: 0,
        }
    }

    fn start_again(&mut self) {
        let ended = eventually(Duration::from_secs(20), || {
            self.agent.ended().is_ok_and(|ended| ended.is_some())
        });
        assert!(ended, "no supervisor, and no end: {}", self.agent.log());
        self.ends += 1;
        self.agent = self.supervisor.start(self.scene, None);
        self.agent.wait_ready().expect("ready again");
    }

    /// Each fault while `work` has the agent do something; gives how many calls failed.
    fn during(&mut self, calls: usize, mut work: impl FnMut(usize)) -> usize {
        let mut injected = 0;
        let end = Instant::now() + BUDGET;
        for (turn, fault) in faults(calls).into_iter().enumerate() {
            if part().is_none() && Instant::now() > end && injected > ENOUGH {
                break;
            }
            let arm = format!("arm {}", fault.text());
            if self.supervisor.tell(&arm).is_none() {
                self.start_again();
                self.supervisor.ask(&arm);
            }
            work(turn);
            // A call that a turn does not come to does not fail.
            let _came_to_it = eventually(Duration::from_millis(700), || {
                self.supervisor.tell("count").is_none_or(|n| n > 0)
            });
            // One that ended the agent did fail.
            injected += self.supervisor.tell("disarm").unwrap_or(1);
        }
        injected
    }

    /// One fault that lasts while `work` has the agent do something; gives how
    /// many calls failed.
    fn meanwhile(&mut self, fault: &str, work: impl FnOnce()) -> usize {
        self.supervisor.ask(&format!("arm {fault}"));
        work();
        let _came_to_it = eventually(Duration::from_millis(900), || {
            self.supervisor.tell("count").is_none_or(|n| n > 20)
        });
        let injected = self.supervisor.tell("disarm");
        if injected.is_none() {
            self.start_again();
        }
        injected.unwrap_or(1)
    }

    fn is_whole_again(&mut self) {
        if self.supervisor.tell("disarm").is_none() {
            self.start_again();
        }
        let whole = eventually(Duration::from_secs(10), || {
            let status = self.agent.status();
            status.is_ok_and(|s| s["pods"][0]["enrolled"] == true)
        });
        assert!(whole, "{}", self.agent.log());
    }
}

#[test]
fn whatever_fails_while_a_pod_changes_it_stays_closed() {
    let scene = killed();
    let capture = scene.leaks().expect("a capture");
    let mut load = steady(&scene);
    let mut run = Run::start(&scene);
    load[0].wait_for("carried", 20).expect("carried");
    let change = |turn: usize| {
        let mut spec = scene.spec().label("turn", &turn.to_string());
        if turn % 2 == 1 {
            spec = spec.account("other");
        }
        if turn % 3 == 1 {
            spec = spec.only_v4();
        }
        scene.world.configure(&spec, &scene.a).expect("written");
    };
    run.supervisor.ask("reset");
    let generation = |agent: &Agent| {
        let status = agent.status();
        status.ok().and_then(|s| s["generation"].as_u64())
    };
    let before = generation(&run.agent);
    change(1);
    let taken = eventually(Duration::from_secs(10), || generation(&run.agent) > before);
    assert!(taken, "{}", run.agent.log());
    let calls = run.supervisor.ask("reset");
    let injected = run.during(calls, change);
    println!(
        "{injected} calls failed of {calls} that a change makes; {} ended it",
        run.ends
    );
    is_enough(injected);
    let at_last = scene.world.configure(&scene.spec(), &scene.a);
    at_last.expect("written");
    run.is_whole_again();
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 20).expect("carried");
    was_never_open(capture, &mut load).expect("closed all the time");
}

/// Everywhere from the n-th call on, a few n of all.
fn from_then_on(calls: usize, most: usize) -> Vec<String> {
    let step = (calls / most).max(1);
    let call = |call| Fault {
        call,
        error: ERRORS[call / step % ERRORS.len()],
        mode: "from",
    };
    (1..=calls).step_by(step).map(|n| call(n).text()).collect()
}

fn is_held(scene: &ClosedPair) -> bool {
    let held = |begin| scene.world.pinned("n1", "links", begin);
    ["netns-", "guard-"]
        .into_iter()
        .any(|begin| held(begin).is_ok_and(|pins| !pins.is_empty()))
}

#[test]
fn whatever_fails_while_a_pod_is_let_go_it_is_let_go_at_last() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let mut run = Run::start(&scene);
    let set = |spec: &PodSpec| scene.world.configure(spec, &scene.a).expect("written");
    let (wanted, unwanted) = (scene.spec(), PodSpec::new("n1", "a"));
    let is_gone = || eventually(Duration::from_secs(20), || !is_held(&scene));
    run.supervisor.ask("reset");
    set(&unwanted);
    assert!(is_gone());
    let calls = run.supervisor.ask("reset");
    let mut injected = 0;
    for fault in from_then_on(calls, 12) {
        set(&wanted);
        run.is_whole_again();
        injected += run.meanwhile(&fault, || set(&unwanted));
        assert!(is_gone(), "after {fault}: {}", run.agent.log());
    }
    println!("{injected} calls failed");
    is_enough(injected);
}

fn pins(scene: &ClosedPair, of: &str, begin: &str) -> Vec<PathBuf> {
    scene.world.pinned("n1", of, begin).expect("pins")
}

/// What root takes away.
#[derive(Debug)]
enum Taken {
    Pins(Vec<PathBuf>),
    Program(PathBuf),
}

impl Taken {
    fn take(&self) {
        match self {
            Self::Pins(pins) => {
                for pin in pins {
                    std::fs::remove_file(pin).expect("a pin to remove");
                }
            }
            Self::Program(pin) => detach_links(std::slice::from_ref(pin)).expect("detached"),
        }
    }
}

/// Everything has its pin, and each link is attached.
fn is_put_back(all: &[PathBuf], attached: &[PathBuf]) -> bool {
    eventually(Duration::from_secs(10), || {
        let whole = || attached_links(attached).is_ok_and(|n| n == attached.len());
        all.iter().all(|pin| pin.exists()) && whole()
    })
}

#[test]
fn whatever_fails_while_what_root_took_is_put_back_a_closed_pod_stays_closed() {
    let scene = killed();
    let capture = scene.leaks().expect("a capture");
    let mut load = steady(&scene);
    let run = Run::start(&scene);
    load[0].wait_for("carried", 20).expect("carried");
    let attached = pins(&scene, "links", "");
    let all = [attached.clone(), pins(&scene, "maps", "")].concat();
    let whole = || assert!(is_put_back(&all, &attached), "{}", run.agent.log());
    let one = |pin: &PathBuf| Taken::Pins(vec![pin.clone()]);
    let mut taken: Vec<Taken> = attached.iter().cloned().map(Taken::Program).collect();
    taken.extend(all.iter().map(one));
    taken.push(Taken::Pins(all.clone()));
    run.supervisor.ask("reset");
    Taken::Pins(all.clone()).take();
    whole();
    let calls = run.supervisor.ask("reset");
    let (mut injected, mut turns) = (0, 0);
    let end = Instant::now() + BUDGET;
    for (turn, fault) in faults(calls).into_iter().enumerate() {
        if part().is_none() && Instant::now() > end && injected > ENOUGH {
            break;
        }
        run.supervisor.ask(&format!("arm {} returns", fault.text()));
        taken[turn % taken.len()].take();
        let _came_to_it = eventually(Duration::from_millis(700), || {
            run.supervisor.ask("count") > 0
        });
        // An agent that a failure ended does not answer.
        let failed = run.supervisor.tell("disarm");
        injected += failed.unwrap_or_else(|| panic!("{fault:?}: {}", run.agent.log()));
        turns += 1;
        whole();
    }
    println!("{injected} calls failed in {turns} turns; a look makes up to {calls}");
    is_enough(injected);
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 20).expect("carried");
    // Of a by the wire: while its own program is away, what it calls may come to
    // its own server.
    was_never_open(capture, &mut load[1..]).expect("closed all the time");
}

#[test]
fn maps_that_lost_their_pins_before_a_start_are_not_begun_anew() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    // Else the second line holds what the first does not know.
    let args = ["--link-guard", "off"];
    let agent = scene.agent(&args).expect("an agent");
    let mut load = scene.load().expect("two clients");
    let capture = scene.leaks().expect("a capture");
    agent.pause().expect("it does not put them back");
    Taken::Pins(pins(&scene, "maps", "")).take();
    agent.kill9().expect("kill");
    load[0].begin_next().expect("told");
    load[0].wait_for("EPERM", 20).expect("refused");
    let _agent = scene.agent(&args).expect("the next one");
    load[0].wait_for("carried", 20).expect("carried again");
    was_never_open(capture, &mut load).expect("closed all the time");
}

#[test]
fn a_pod_without_its_own_program_answers_nobody_past_the_agent() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let agent = scene.agent(&[]).expect("an agent");
    let mut load = scene.load().expect("two clients");
    let capture = scene.leaks().expect("a capture");
    let of_pods = pins(&scene, "links", "netns-");
    assert_eq!(of_pods.len(), 1);
    for _ in 0..20 {
        is_taken_and_put_back(&Taken::Program(of_pods[0].clone()), &of_pods, &agent);
    }
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 20).expect("carried");
    was_never_open(capture, &mut load[1..]).expect("closed all the time");
}

#[test]
fn a_pod_that_is_closed_and_that_nobody_knows_is_looked_after_as_well() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let agent = scene.agent(&["--on-stop", "keep"]).expect("an agent");
    let mut load = scene.load().expect("two clients");
    assert!(agent.stop().expect("stop").success());
    let unreadable = "kind: Pod\nmetadata: [\n";
    let written = scene.world.write_config("a", unreadable);
    written.expect("written");
    let agent = scene.agent(&["--on-stop", "keep"]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    was_looked_after(&scene, &agent);
    let back = scene.world.configure(&scene.spec(), &scene.a);
    back.expect("written");
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 20).expect("carried");
    was_never_open(capture, &mut load).expect("closed all the time");
}

#[test]
fn a_pod_that_was_served_and_is_closed_is_looked_after_as_well() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let agent = scene.agent(&[]).expect("an agent");
    let mut load = scene.load().expect("two clients");
    let capture = scene.leaks().expect("a capture");
    let elsewhere = scene.spec().found_by("netns", "/run/netns/mistyped");
    let written = scene.world.configure(&elsewhere.account("other"), &scene.a);
    written.expect("written");
    load[0].begin_next().expect("told");
    load[0].wait_for("EPERM", 20).expect("refused");
    was_looked_after(&scene, &agent);
    was_never_open(capture, &mut load).expect("closed all the time");
}

/// Each program at the pod and its link is put back when root takes it away, and
/// each pin; the pod's own last: a handshake that its server began meanwhile waits
/// for a minute, and would go on past a guard that is taken next.
fn was_looked_after(scene: &ClosedPair, agent: &Agent) {
    let held = ["guard-", "netns-"].map(|begin| pins(scene, "links", begin));
    let held = held.concat();
    assert_eq!(held.len(), 3, "{held:?}");
    for pin in &held {
        is_taken_and_put_back(&Taken::Program(pin.clone()), &held, agent);
        is_taken_and_put_back(&Taken::Pins(vec![pin.clone()]), &held, agent);
    }
}

fn is_taken_and_put_back(taken: &Taken, held: &[PathBuf], agent: &Agent) {
    taken.take();
    assert!(is_put_back(held, held), "{taken:?}: {}", agent.log());
}

#[test]
fn a_program_that_root_detached_before_a_start_is_no_namespace_that_is_gone() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let agent = scene.agent(&[]).expect("an agent");
    let mut load = scene.load().expect("two clients");
    let capture = scene.leaks().expect("a capture");
    let of_pods = pins(&scene, "links", "netns-");
    assert_eq!(of_pods.len(), 1);
    agent.pause().expect("it does not put it back");
    detach_links(&of_pods).expect("detached");
    agent.kill9().expect("kill");
    let agent = scene.agent(&[]).expect("the next one");
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 20).expect("carried again");
    let attached = attached_links(&of_pods).expect("counted");
    assert_eq!(attached, 1, "{}", agent.log());
    // By the wire: what a calls meanwhile may come to its own server.
    let captured = capture.stop().expect("a capture");
    assert_eq!(captured.packets, 0, "in plaintext: {:?}", captured.flows);
}

/// Opens as many connections as it can to ADDRESS PORT, for some seconds, and
/// says how many there were.
const GREEDY: &str = r#"
import errno, resource, socket, sys, time
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, end = [], time.monotonic() + float(sys.argv[3])
while time.monotonic() < end and len(held) < 5000:
    one = socket.socket()
    one.settimeout(0.2)
    try:
        one.connect((sys.argv[1], int(sys.argv[2])))
        held.append(one)
    except OSError:
        one.close()
        time.sleep(0.005)
print(len(held))
"#;

#[test]
fn an_agent_that_runs_out_of_descriptors_refuses_and_opens_nothing() {
    let scene = killed();
    let capture = scene.leaks().expect("a capture");
    let mut load = steady(&scene);
    let args = scene.authority.agent_args("n1").expect("a token");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let by = ["prlimit", "--nofile=256:400"];
    let agent = scene.world.spawn_agent_by("n1", &by, &args);
    let agent = agent.expect("an agent");
    agent.wait_ready().expect("ready");
    load[0].wait_for("carried", 20).expect("carried");
    let problems = agent.status().expect("a status")["problems"].to_string();
    assert!(problems.contains("raise LimitNOFILE"), "{problems}");
    let greedy = |mut command: std::process::Command, to: &str, port: &str| {
        let out = command.args(["-c", GREEDY, to, port, "5"]).output();
        let out = out.expect("python3 runs");
        let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        said.parse::<usize>().unwrap_or(0)
    };
    // A pod, without any privilege; then anybody on the node, at the agent's page.
    let app = scene.world.in_pod(&scene.a, "python3");
    let held = greedy(app, &scene.c.v4(), "8080");
    println!("a pod made {held} connections");
    assert!(held > 0);
    let status = agent.status().expect("the admin socket answers");
    assert_eq!(status["pods"][0]["enrolled"], true, "{status}");
    let node = scene.world.on_node("n1", "python3");
    let held = greedy(node, "127.0.0.1", "15020");
    println!("a process of the node made {held} connections to the page");
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 20).expect("carried again");
    let answers = eventually(Duration::from_secs(10), || agent.status().is_ok());
    assert!(answers, "{}", agent.log());
    let put_back = agent.metric("mesh_agent_reattached", "").expect("a page");
    assert!(put_back < 0.5, "{put_back} were put back: nothing was gone");
    was_never_open(capture, &mut load).expect("closed all the time");
}
