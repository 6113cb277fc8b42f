//! Pods that come, go, restart and change their labels as fast as they can, in an order
//! that a seed gives.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mesh_tests::{
    APP_PORT, Agent, Chance, ClosedPair, OnAgentDown, Pod, PodSpec, World, eventually, has_left,
    pod_status, was_never_open,
};

/// On a busy machine three a second. With 1,000 it was run by hand.
const TURNS: usize = 120;
const PATIENCE: Duration = Duration::from_secs(20);

/// MESH_TURNS for more of them by hand.
fn turns() -> usize {
    let turns = std::env::var("MESH_TURNS").ok();
    turns.and_then(|turns| turns.parse().ok()).unwrap_or(TURNS)
}

/// A pod of n1 that turns are about.
struct Slot {
    pod: Pod,
    /// Its label is never taken away: nothing of it may be readable.
    always: bool,
    there: bool,
    enrolled: bool,
    version: u64,
    client: Option<Child>,
}

impl Slot {
    fn spec(&self) -> PodSpec {
        let spec = PodSpec::new("n1", &self.pod.name).label("version", &self.version.to_string());
        match self.enrolled {
            true => spec.enrolled(OnAgentDown::Closed),
            false => spec,
        }
    }

    fn state(&self, agent: &Agent) -> serde_json::Value {
        pod_status(agent, &self.pod)
    }

    /// What the agent says is what is to be.
    fn is_settled(&self, agent: &Agent) -> bool {
        match self.there && self.enrolled {
            true => self.state(agent)["enrolled"] == true,
            false => has_left(agent, &self.pod),
        }
    }

    /// And what is so, in the namespace that is there now.
    fn is_as_said(&self, world: &World) -> bool {
        let rules = || world.capture_rules(&self.pod).expect("rules");
        !self.there || rules().is_empty() != self.enrolled
    }

    fn settle(&self, world: &World, agent: &Agent) {
        let settled = eventually(PATIENCE, || {
            self.is_settled(agent) && self.is_as_said(world)
        });
        let name = &self.pod.name;
        assert!(settled, "{name}: {}\n{}", self.state(agent), agent.log());
    }

    /// Connections to c that begin at once, whatever becomes of them.
    fn call(&mut self, pair: &ClosedPair) {
        self.end_client();
        if !self.always {
            return;
        }
        let mut client = pair.world.app(&self.pod);
        client.args(["storm", "--count", "10", "--inflight", "2"]);
        client.arg(format!("{}:{APP_PORT}", pair.c.v4()));
        client.arg(format!("[{}]:{APP_PORT}", pair.c.v6()));
        client.stdout(Stdio::null()).stderr(Stdio::null());
        self.client = Some(client.spawn().expect("a client"));
    }

    fn end_client(&mut self) {
        if let Some(mut client) = self.client.take() {
            let _ended = client.kill();
            client.wait().expect("its end");
        }
    }

    fn turn(&mut self, pair: &mut ClosedPair, agent: &Agent, chance: &mut Chance) {
        if !self.there {
            self.enrolled = self.always || chance.below(2) == 0;
            pair.world
                .add_again(&self.spec(), &self.pod)
                .expect("added");
            self.there = true;
            // Not known before: only a guarded cgroup or the plugin closes such a one.
            if chance.below(2) == 0 {
                self.settle(&pair.world, agent);
                self.call(pair);
            }
            return;
        }
        match chance.below(8) {
            0 => {
                self.end_client();
                pair.world.remove_pod(&self.pod).expect("removed");
                self.there = false;
            }
            1..=3 => {
                self.end_client();
                pair.world.restart(&self.pod).expect("restarted");
                if self.enrolled && self.is_settled(agent) {
                    self.call(pair);
                }
            }
            _ => {
                self.version += 1;
                self.enrolled = self.always || chance.below(2) == 0;
                pair.world
                    .configure(&self.spec(), &self.pod)
                    .expect("written");
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.end_client();
    }
}

/// What could be left behind: open files, threads, pins, links of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    threads: usize,
    pins: usize,
    links: usize,
}

/// Of the first node.
fn links(world: &World) -> usize {
    let mut ip = world.on_node("n1", "ip");
    let links = ip.args(["-o", "link"]).output().expect("ip runs").stdout;
    links.iter().filter(|byte| **byte == b'\n').count()
}

impl Held {
    fn now(pair: &ClosedPair, agent: &Agent) -> Self {
        let pins = pair.world.pinned("n1", "links", "").expect("pins");
        Self {
            files: agent.open_fds(),
            threads: agent.threads(),
            pins: pins.len(),
            links: links(&pair.world),
        }
    }

    /// Idle connections to other nodes, and threads that wait for work, come and go.
    fn is_within(self, before: Self) -> bool {
        let few = |now: usize, before: usize| now <= before + 8;
        self.pins <= before.pins
            && self.links <= before.links
            && few(self.files, before.files)
            && few(self.threads, before.threads)
    }
}

#[test]
fn restarts_and_flips_in_any_order_leak_nothing_and_open_nothing() {
    let mut chance = Chance::new();
    let mut pair = ClosedPair::new(true).expect("a pair");
    let without_slots = links(&pair.world);
    let mut slots = Vec::new();
    for (name, always) in [("e0", true), ("e1", true), ("f0", false), ("f1", false)] {
        let spec = PodSpec::new("n1", name).enrolled(OnAgentDown::Closed);
        let pod = pair.world.add(&spec).expect("a pod");
        slots.push(Slot {
            pod,
            always,
            there: true,
            enrolled: true,
            version: 0,
            client: None,
        });
    }
    let agent = pair.agent(&[]).expect("an agent");
    agent.wait_ready().expect("ready");
    settle_all(&pair, &slots, &agent);
    let mut load = pair.load().expect("clients");
    load[0].begin_next().expect("an answer");
    let cookie = pod_status(&agent, &pair.a)["netns_cookie"].clone();
    remove_all(&mut pair, &mut slots, &agent);
    // A link goes a moment after its namespace.
    let before = Held {
        links: without_slots,
        ..Held::now(&pair, &agent)
    };

    let always: Vec<Pod> = slots
        .iter()
        .filter(|s| s.always)
        .map(|s| s.pod.clone())
        .collect();
    let watched: Vec<&Pod> = std::iter::once(&pair.a).chain(&always).collect();
    let capture = pair.leaks_of(&watched).expect("tcpdump");
    let begun = Instant::now();
    for turn in 0..turns() {
        let slot = usize::try_from(chance.below(4)).expect("a small number");
        slots[slot].turn(&mut pair, &agent, &mut chance);
        if turn % 40 == 39 {
            settle_all(&pair, &slots, &agent);
        }
    }
    println!("{} turns in {:.0?}", turns(), begun.elapsed());
    remove_all(&mut pair, &mut slots, &agent);
    let mut after = before;
    let whole = eventually(PATIENCE, || {
        after = Held::now(&pair, &agent);
        after.is_within(before)
    });
    println!("held before {before:?}, after {after:?}");
    assert!(whole, "before {before:?}, after {after:?}");
    // Who had no part in it was not touched.
    let a = pod_status(&agent, &pair.a);
    assert!(a["enrolled"] == true && a["netns_cookie"] == cookie, "{a}");
    let tally = load[0].tally(load[0].time).expect("a tally");
    assert_eq!(mesh_tests::failed(&tally), 0, "{tally}");
    was_never_open(capture, &mut load).expect("never open");
    // And all can still be enrolled.
    for slot in &mut slots {
        slot.enrolled = true;
        slot.there = true;
        pair.world
            .add_again(&slot.spec(), &slot.pod)
            .expect("added");
        slot.settle(&pair.world, &agent);
    }
}

fn settle_all(pair: &ClosedPair, slots: &[Slot], agent: &Agent) {
    for slot in slots {
        slot.settle(&pair.world, agent);
    }
}

fn remove_all(pair: &mut ClosedPair, slots: &mut [Slot], agent: &Agent) {
    for slot in slots {
        slot.end_client();
        if slot.there {
            pair.world.remove_pod(&slot.pod).expect("removed");
        }
        slot.there = false;
        slot.settle(&pair.world, agent);
    }
}
