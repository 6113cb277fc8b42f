//! What an operator is told while something is wrong, and how soon.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use mesh_tests::{
    Agent, ClosedPair, Pod, World, all_fine, attached_links, detach_links, eventually,
    was_never_open,
};
use serde_json::Value;

const BREAK: &str = include_str!("break.py");

/// Client a and server b on one node, enrolled and closed.
fn pair() -> (World, [Pod; 2]) {
    let mut world = World::new(1).expect("a world");
    let a = world.add_pod("n1", "a", Some("closed")).expect("a pod");
    let b = world.add_pod("n1", "b", Some("closed")).expect("a pod");
    world.serve(&b).expect("a server");
    (world, [a, b])
}

fn carries(world: &World, [a, b]: &[Pod; 2]) {
    let args = ["--count", "20", "--inflight", "2"];
    let report = world.storm(a, &b.targets()[..1], &args).expect("a report");
    all_fine(&report, 20);
}

fn problems(agent: &Agent) -> String {
    let status = agent.status().unwrap_or_default();
    status["problems"].to_string()
}

/// How long it takes until `status` has a problem that says so.
fn told(agent: &Agent, what: &str) -> Duration {
    let begun = Instant::now();
    let shown = eventually(Duration::from_secs(30), || problems(agent).contains(what));
    assert!(shown, "{what:?} is not in {}", problems(agent));
    begun.elapsed()
}

fn over(agent: &Agent, what: &str) -> Duration {
    let begun = Instant::now();
    let gone = eventually(Duration::from_secs(30), || {
        let status = agent.status();
        status.is_ok_and(|s| !s["problems"].to_string().contains(what))
    });
    assert!(gone, "{what:?} is still in {}", problems(agent));
    begun.elapsed()
}

/// Sets the process's soft limit of open files.
fn limit_files(agent: &Agent, limit: u32) {
    let pid = agent.pid().to_string();
    let limit = format!("--nofile={limit}:");
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(set.expect("prlimit").success());
}

/// The lowest number of a descriptor that the process has not.
fn lowest_free(agent: &Agent) -> u32 {
    let open = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("its files");
    let open: BTreeSet<u32> = open
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    (0..).find(|n| !open.contains(n)).expect("a number")
}

#[test]
fn an_agent_that_has_no_descriptor_left_answers_who_asks_and_says_so() {
    let (world, pods) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    carries(&world, &pods);
    let usual = 20_000;
    // Some it has open for a moment only, and some it lets go when it can have no
    // other: the limit follows down.
    let mut limit = usual;
    let used_up = eventually(Duration::from_secs(20), || {
        let is_told = problems(&agent).contains("are used up");
        if !is_told {
            limit = limit.min(lowest_free(&agent));
            limit_files(&agent, limit);
        }
        is_told
    });
    assert!(used_up, "{}", agent.log());
    // Nothing is known against pods that cannot be looked at: they are what they were.
    let begun = Instant::now();
    let mut unseen = false;
    while begun.elapsed() < Duration::from_secs(4) {
        let status = agent.status().expect("an answer");
        let pods = status["pods"].as_array().expect("pods");
        assert!(pods.iter().all(|p| p["enrolled"] == true), "{status}");
        assert_eq!(pods.len(), 2, "{status}");
        let problems = status["problems"].to_string();
        assert!(!problems.contains("not enrolled"), "{problems}");
        unseen |= problems.contains("cannot be looked at");
    }
    assert!(unseen, "{}", problems(&agent));
    // What it holds for this is enough for many askers, one after the other.
    for _ in 0..20 {
        let begun = Instant::now();
        let (code, text) = agent.status_text().expect("an answer");
        assert_eq!(code, 4, "degraded: {text}");
        assert!(text.contains("are used up"), "{text}");
        assert!(text.contains("shop/a"), "{text}");
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
    }
    let (code, text) = agent.readyz().expect("an answer");
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("are used up"), "{text}");
    let (code, text) = agent.probe("ready").expect("an answer");
    assert_eq!(
        code, 0,
        "a container that is restarted for it has no more: {text}"
    );
    assert!(text.contains("are used up"), "{text}");
    let metrics = agent.metrics().expect("a page");
    assert!(metrics.contains("mesh_agent_ready 1"), "{metrics}");
    limit_files(&agent, usual);
    over(&agent, "are used up");
    over(&agent, "cannot be looked at");
    carries(&world, &pods);
}

/// Becomes a program whose standard error is a pipe that is full and that nobody reads.
const DEAF: &str = r#"
import fcntl, os, sys
read, write = os.pipe()
os.set_inheritable(read, True)
flags = fcntl.fcntl(write, fcntl.F_GETFL)
fcntl.fcntl(write, fcntl.F_SETFL, flags | os.O_NONBLOCK)
try:
    while os.write(write, b"x" * 4096):
        pass
except BlockingIOError:
    pass
fcntl.fcntl(write, fcntl.F_SETFL, flags)
os.dup2(write, 2)
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn an_agent_whose_log_nobody_reads_carries_on_and_ends() {
    let (world, pods) = pair();
    let by = ["python3", "-c", DEAF];
    let agent = world.spawn_agent_by("n1", &by, &[]).expect("an agent");
    agent.wait_ready().expect("ready");
    carries(&world, &pods);
    // What is logged meanwhile is not waited for.
    world.write_config("broken", "kind: [").expect("a file");
    told(&agent, "broken.yaml");
    world.remove_config("broken").expect("removed");
    over(&agent, "broken.yaml");
    carries(&world, &pods);
    let begun = Instant::now();
    assert!(agent.stop().expect("it ends").success());
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    assert!(!world.pins("n1").exists(), "it cleaned up");
}

#[test]
fn a_file_and_an_object_with_names_of_several_lines_forge_none() {
    let (world, _pods) = pair();
    let forged = "2026-11-27T00:00:00Z ERROR all is lost";
    let file = format!("x\n{forged}\u{1b}[2J.yaml");
    let path = world.config_dir().join(&file);
    std::fs::write(&path, "kind: [").expect("a file");
    let object = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: \"p\\n{forged}\\e[2J\", namespace: shop}}\n\
         spec: {{\"y\\n{forged}\\e[2J\": 1}}\n"
    );
    world.write_config("object", &object).expect("a file");
    let agent = world.agent("n1", &[]).expect("an agent");
    told(&agent, "all is lost");
    let (_, status) = agent.status_text().expect("an answer");
    let (_, ready) = agent.readyz().expect("an answer");
    let mut check = world.agent_command("n1", "check-config");
    let out = check.arg(world.config_dir()).output().expect("it runs");
    let checked = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(checked.contains("all is lost"), "{checked}");
    // The log is written by a thread of its own.
    let logged = || agent.log().contains("all is lost");
    assert!(eventually(Duration::from_secs(20), logged));
    for (what, text) in [
        ("status", status),
        ("/readyz", ready),
        ("check-config", checked),
        ("log", agent.log()),
    ] {
        assert!(text.contains("all is lost"), "{what}: {text}");
        let begins = |line: &str| line.starts_with("2026-11-27T00:00:00Z");
        assert!(!text.lines().any(begins), "{what}: {text}");
        assert!(!text.contains('\u{1b}'), "{what}: {text:?}");
    }
}

#[test]
fn what_could_not_be_printed_is_a_failure() {
    let (world, _pods) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full");
    for args in [&["status", "--json"][..], &["connections"]] {
        let out = mesh_tests::program()
            .args(args)
            .arg("--run-dir")
            .arg(agent.run_dir())
            .stdout(full().expect("/dev/full"))
            .output()
            .expect("it runs");
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("cannot print"), "{args:?}: {said}");
    }
}

#[test]
fn a_full_disk_under_the_access_log_is_told_and_stops_no_connection() {
    let (world, pods) = pair();
    let disk = world.dir().join("disk");
    std::fs::create_dir(&disk).expect("a directory");
    // In a mount namespace of the agent's own: gone with it.
    let small = format!(
        "mount -t tmpfs -o size=64k none {0} && exec \"$@\"",
        disk.display()
    );
    let by = [
        "unshare",
        "-m",
        "--propagation",
        "slave",
        "sh",
        "-c",
        &small,
        "sh",
    ];
    let log = disk.join("access.log").display().to_string();
    let agent = world.spawn_agent_by("n1", &by, &["--access-log", &log]);
    let agent = agent.expect("an agent");
    agent.wait_ready().expect("ready");
    for _ in 0..10 {
        carries(&world, &pods);
    }
    told(&agent, "lines of the access log are dropped");
    carries(&world, &pods);
    let dropped = agent
        .metric("mesh_agent_log_lines_dropped_total", "")
        .expect("a page");
    assert!(dropped > 1.0, "{dropped}");
    let (code, text) = agent.status_text().expect("an answer");
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("No space left"), "{text}");
    // What is on it is whole lines.
    let file = format!("/proc/{}/root{log}", agent.pid());
    let text = std::fs::read_to_string(&file).expect("the log");
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let (last, whole) = lines.split_last().expect("lines");
    assert!(whole.len() > 10, "{text}");
    for line in whole {
        serde_json::from_str::<Value>(line).expect("an object");
    }
    println!(
        "{} whole lines, the last has {} bytes",
        whole.len(),
        last.len()
    );
    std::fs::write(&file, "").expect("room");
    carries(&world, &pods);
    over(&agent, "lines of the access log are dropped");
}

/// One turn of the table in docs/failures.md.
fn row(what: &str, told: Duration, over: Duration) {
    println!("| {what} | {told:.1?} | {over:.1?} |");
}

#[test]
fn what_goes_wrong_is_in_status_within_a_moment_and_so_is_its_end() {
    let (mut world, pods) = pair();
    let mut authority = world.authority(&[]).expect("an authority");
    let life = ["--certificate-lifetime", "8s"];
    let agent = world
        .secure_agent("n1", &authority, &life)
        .expect("an agent");
    carries(&world, &pods);
    let soon = Duration::from_secs(3);

    world.write_config("broken", "kind: [").expect("a file");
    let come = told(&agent, "broken.yaml");
    world.remove_config("broken").expect("removed");
    let gone = over(&agent, "broken.yaml");
    row("a file of the configuration is broken", come, gone);
    assert!(come < soon && gone < soon);

    let lost = world.add_pod("n1", "lost", Some("closed")).expect("a pod");
    world.remove_netns(&lost).expect("removed");
    let come = told(&agent, "shop/lost");
    world.remove_config("lost").expect("removed");
    let gone = over(&agent, "shop/lost");
    row("a pod's namespace is gone", come, gone);
    assert!(come < Duration::from_secs(6) && gone < soon);

    let links = world.pinned("n1", "links", "").expect("links");
    let attached = || attached_links(&links).expect("counted");
    let all = attached();
    let begun = Instant::now();
    detach_links(&links).expect("detached");
    let whole = eventually(Duration::from_secs(10), || attached() == all);
    println!(
        "| every program is detached | put back after {:.1?} | |",
        begun.elapsed()
    );
    assert!(
        whole && begun.elapsed() < Duration::from_secs(6),
        "{}",
        agent.log()
    );
    // It is counted when all has been looked at.
    let _counted = agent.comes_to("mesh_agent_reattached", "", 1.0);

    let begun = Instant::now();
    authority.stop().expect("stopped");
    told(&agent, "cannot be renewed");
    let renewal = begun.elapsed();
    told(&agent, "has expired");
    let late = agent.status().expect("a status")["identities"]["identities"]
        .as_array()
        .expect("identities")
        .iter()
        .filter_map(|i| i["expires_in_seconds"].as_i64())
        .min();
    println!("| the authority is away | {renewal:.1?} (the next renewal) | |");
    println!("| certificates expired | {late:?} s after their end | |");
    // Renewal is at half of the life, give or take a tenth.
    assert!(renewal < Duration::from_secs(8), "{renewal:?}");
    assert!(late.is_some_and(|late| late >= -2), "{late:?}");
    let (code, _) = agent.readyz().expect("an answer");
    assert_eq!(code, 503, "nothing to or from another node can succeed");
    authority.start_again(&world, &[]).expect("an authority");
    let gone = over(&agent, "has expired");
    println!("| the authority is back | | {gone:.1?} |");
    assert!(gone < Duration::from_secs(8), "{gone:?}");

    let run_dir = agent.run_dir().to_owned();
    agent.kill9().expect("kill");
    let begun = Instant::now();
    let out = mesh_tests::program()
        .args(["status", "--run-dir"])
        .arg(run_dir)
        .output();
    assert_eq!(out.expect("it runs").status.code(), Some(3));
    println!("| no agent | {:.1?} | |", begun.elapsed());
}

#[test]
fn an_agent_that_stands_still_is_told_from_one_that_answers() {
    let (world, _pods) = pair();
    let agent = world.agent("n1", &[]).expect("an agent");
    agent.pause().expect("it stands still");
    // As many as wait in its backlog, and more.
    for _ in 0..3 {
        let begun = Instant::now();
        let out = mesh_tests::program()
            .args(["status", "--run-dir"])
            .arg(agent.run_dir())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(3), "{said}");
        assert!(said.contains("is there and does not answer"), "{said}");
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "{:?}",
            begun.elapsed()
        );
    }
    agent.resume().expect("it goes on");
    let answers = eventually(Duration::from_secs(20), || {
        agent.status().is_ok_and(|s: Value| s["ready"] == true)
    });
    assert!(answers);
}

#[test]
fn an_agent_that_lost_a_worker_ends_and_says_so_and_its_pods_stay_closed() {
    let scene = ClosedPair::new(true).expect("a closed pair");
    let mut agent = scene.agent(&[]).expect("an agent");
    let capture = scene.leaks().expect("a capture");
    let mut load = scene.load().expect("two clients");
    load[0].wait_for("carried", 20).expect("carried");
    let broken = Command::new("python3")
        .args(["-c", BREAK, &agent.pid().to_string(), "worker-0"])
        .status();
    assert!(broken.expect("python3").success());
    let ends = eventually(Duration::from_secs(20), || {
        agent.ended().is_ok_and(|ended| ended.is_some())
    });
    assert!(ends, "{}", agent.log());
    let ended = agent.ended().expect("a status").expect("it ended");
    assert_eq!(ended.code(), Some(1), "a supervisor starts it again");
    let log = agent.log();
    assert!(log.contains("worker-0 has ended by itself"), "{log}");
    load.iter_mut().for_each(|c| c.begin_next().expect("told"));
    load[0].wait_for("EPERM", 20).expect("refused");
    load[1].wait_for("ECONNREFUSED", 20).expect("refused");
    let _again = scene.agent(&[]).expect("an agent");
    load[0].begin_next().expect("told");
    load[0].wait_for("carried", 50).expect("carried again");
    was_never_open(capture, &mut load).expect("closed all the time");
}
