//! Clients that keep to the frames and to nothing else: each is sent away, or costs no more
//! than its frames do, and the clients beside it do not notice.

use super::*;

const AWAY: &[&str] = &["goaway ENHANCE_YOUR_CALM", "closed"];
const ALIVE: &[&str] = &["alive"];

struct Flood {
    kind: &'static str,
    /// Of its frames, or pairs of them.
    count: u32,
    ends: &'static [&'static str],
    /// What each may cost both agents, in microseconds of CPU.
    each: u32,
}

const fn flood(kind: &'static str, count: u32, ends: &'static [&'static str], each: u32) -> Flood {
    Flood {
        kind,
        count,
        ends,
        each,
    }
}

const FLOODS: [Flood; 15] = [
    flood("reset", 5_000, AWAY, 200),
    flood("slow-reset", 2_000, AWAY, 500),
    flood("continuation", 1_000, AWAY, 500),
    flood("empty", 5_000, AWAY, 100),
    flood("window", 5, &["goaway FLOW_CONTROL_ERROR", "closed"], 400),
    flood("ping", 200_000, ALIVE, 10),
    // Answers that it does not want to the end are no flood.
    flood("leave", 1_000, ALIVE, 5_000),
    flood("settings", 200_000, ALIVE, 10),
    // Of both sides' tables the agent keeps its own measure.
    flood("table", 20_000, ALIVE, 50),
    // 64 MB of lines in 16 kB.
    flood("bomb", 300, AWAY, 2_000),
    // 1.2 MB for each, for as long as nobody takes the answer to it.
    flood("lines", 300, AWAY, 2_000),
    flood("priority", 200_000, ALIVE, 10),
    flood("zero-window", 500, ALIVE, 2_000),
    flood("byte-windows", 200_000, ALIVE, 10),
    // No more than each may have of them; it is answered.
    flood("crumbs", 900, ALIVE, 2_000),
];

/// What the clients beside it cost, and what runs anyway.
const BESIDE: Duration = Duration::from_secs(2);

fn cpu(mesh: &Mesh) -> Duration {
    let all = mesh
        .agents
        .iter()
        .map(|agent| agent.cpu().expect("a cgroup"));
    all.sum()
}

#[test]
fn a_client_that_floods_is_sent_away_and_its_neighbours_do_not_notice() {
    let mesh = Mesh::of_http();
    // What the first ones leave is kept for the next.
    for (_, to) in mesh.services() {
        mesh.client(&["names", &to, "200"]);
    }
    for (_, to) in mesh.services() {
        let before = mesh.agents.memory().expect("memory");
        for Flood {
            kind,
            count,
            ends,
            each,
        } in FLOODS
        {
            let used = cpu(&mesh);
            let mut flooding = mesh.command(&["flood", &to, kind, &count.to_string()]);
            let flooding = flooding.stdout(Stdio::piped()).spawn().expect("it runs");
            let beside = || {
                let told = mesh.client(&["names", &to, "200"]);
                (told, flooding.wait_with_output().expect("its end"))
            };
            let ((told, flooded), [near_most, far_most]) =
                mesh.agents.grow_by(beside).expect("memory");
            let answered: u64 = ["b", "c"]
                .iter()
                .filter_map(|name| told[name].as_u64())
                .sum();
            assert_eq!(answered, 200, "beside {kind}: {told}");
            let told = parse(&flooded).expect("a word");
            let used = cpu(&mesh) - used;
            let grown = mesh.agents.grown_since(before).expect("memory");
            println!(
                "{kind} x {count} to {to}: {told}, {used:?} of CPU, grown {grown:?}, \
                 meanwhile {near_most} and {far_most}"
            );
            assert!(
                ends.iter().any(|end| told == *end),
                "{kind} to {to}: {told}"
            );
            let most = BESIDE + Duration::from_micros(u64::from(each)) * count;
            assert!(used < most, "{kind} to {to}: {used:?} of CPU");
            let [near, far] = grown;
            // 512 lines for each of 900 heads take 33 MB, all of them within `--max-buffer-mib`.
            let most = if kind == "crumbs" { 44 << 20 } else { 24 << 20 };
            let is_bounded =
                near < most && far < 8 << 20 && near_most < 48 << 20 && far_most < 48 << 20;
            assert!(
                is_bounded,
                "{kind} to {to}: grown by {near} and {far} bytes"
            );
        }
    }
}
