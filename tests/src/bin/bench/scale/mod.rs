//! What the configuration of a large cluster costs one agent: the first
//! snapshot, one changed object, a question, memory.
//!
//! The agent is a real one, on a node of its own without pods, whose
//! configuration is a directory of a file a namespace. CPU is the whole agent's;
//! it is read when nothing else asks the agent anything. Times to effect are
//! until the agent's status names the new generation.

mod cluster;
mod table;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::{Agent, World};
use serde::Serialize;

use cluster::{Change, Cluster};

pub(crate) const SIZES: [usize; 3] = [2_000, 20_000, 50_000];
/// Each changes every kind twice: once for its CPU, once for its time. What is
/// told is the least, for others use the machine as well.
const ROUNDS: usize = 2;
const QUESTIONS: u32 = 10;
/// Longest wait for the agent.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than the agent waits before it looks at the directory again by itself.
const IDLE: Duration = Duration::from_secs(11);

/// One size.
#[derive(Debug, Serialize)]
struct Size {
    pods: usize,
    namespaces: usize,
    services: usize,
    policies: usize,
    megabytes: f64,
    /// From the agent's start until it is ready.
    first: Cost,
    changes: Vec<Changed>,
    explain_pod: Cost,
    explain_identity: Cost,
    /// Resident, without what an agent without configuration has.
    kib_per_pod: f64,
    /// The same after all the changes.
    kib_per_pod_after: f64,
    /// Used while nothing happens.
    idle_cpu_ms_per_s: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    cpu_ms: f64,
    wall_ms: f64,
}

#[derive(Debug, Serialize)]
struct Changed {
    what: &'static str,
    cost: Cost,
}

/// Measures each size; a line of JSON for each, and a table.
pub(crate) fn run(sizes: &[usize], pods_per_namespace: usize) -> Result<()> {
    ensure!(pods_per_namespace > 0, "a namespace has a pod at least");
    ensure!(sizes.iter().all(|pods| *pods > 0), "a size is at least 1");
    let start = Instant::now();
    let (empty, _) = Measured::start(1, 1)?;
    let empty = empty.agent.rss()?;
    let mut measured = vec![];
    for &pods in sizes {
        eprintln!("{pods} pods, {} s", start.elapsed().as_secs());
        let size = size(pods, pods_per_namespace, empty);
        let size = size.with_context(|| format!("{pods} pods"))?;
        println!("{}", serde_json::to_string(&size)?);
        measured.push(size);
    }
    println!("\n{}", table::text(&measured));
    Ok(())
}

fn size(pods: usize, pods_per_namespace: usize, empty: u64) -> Result<Size> {
    let (mut measured, first) = Measured::start(pods, pods_per_namespace)?;
    let per_pod = |rss: u64| rss.saturating_sub(empty) as f64 / 1024.0 / pods as f64;
    let kib_per_pod = per_pod(measured.agent.rss()?);
    let [pod, identity, service] = measured.cluster.question();
    let explain_pod = measured.explain(&pod, &service)?;
    let explain_identity = measured.explain(&identity, &service)?;
    let changes = Change::ALL.into_iter().map(|change| {
        let cost = measured.changed(change);
        Ok(Changed {
            what: name(change),
            cost: cost.with_context(|| name(change))?,
        })
    });
    let changes = changes.collect::<Result<_>>()?;
    let kib_per_pod_after = per_pod(measured.agent.rss()?);
    let cluster = &measured.cluster;
    Ok(Size {
        pods,
        namespaces: cluster.namespaces(),
        services: cluster.services(),
        policies: cluster.policies(),
        megabytes: cluster.bytes() as f64 / 1e6,
        first,
        changes,
        explain_pod,
        explain_identity,
        kib_per_pod,
        kib_per_pod_after,
        idle_cpu_ms_per_s: measured.idle(IDLE)?,
    })
}

fn name(change: Change) -> &'static str {
    match change {
        Change::Service => "Service",
        Change::Endpoint => "endpoint",
        Change::Policy => "policy",
    }
}

/// An agent and its directory.
struct Measured {
    cluster: Cluster,
    agent: Agent,
    /// Last: it ends whatever is left.
    _world: World,
}

impl Measured {
    /// Also what it cost the agent to become ready.
    fn start(pods: usize, pods_per_namespace: usize) -> Result<(Self, Cost)> {
        let world = World::new(1)?;
        mesh_tests::on_interrupt(world.remains());
        let dir = world.dir().join("cluster");
        let cluster = Cluster::create(&dir, pods, pods_per_namespace)?;
        world.links_up()?;
        let started = Instant::now();
        let dir = dir.to_str().context("a name in UTF-8")?;
        let agent = world.spawn_agent("n1", &["--config-dir", dir, "--workers", "1"])?;
        let measured = Self {
            cluster,
            agent,
            _world: world,
        };
        measured.wait(|status| status["ready"] == true)?;
        let wall = started.elapsed();
        measured.settle()?;
        let cpu = measured.agent.cpu()?;
        Ok((measured, cost(cpu, wall)))
    }

    fn changed(&mut self, change: Change) -> Result<Cost> {
        let mut least = cost(Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            least.cpu_ms = least.cpu_ms.min(self.cpu_of(change)?);
            least.wall_ms = least.wall_ms.min(self.time_of(change)?);
        }
        Ok(least)
    }

    fn cpu_of(&mut self, change: Change) -> Result<f64> {
        let generation = self.generation()?;
        self.settle()?;
        let before = self.agent.cpu()?;
        self.cluster.change(change)?;
        self.settle()?;
        let used = self.agent.cpu()?.saturating_sub(before);
        self.wait(|status| status["generation"] == generation + 1)?;
        Ok(ms(used))
    }

    fn time_of(&mut self, change: Change) -> Result<f64> {
        let generation = self.generation()?;
        self.settle()?;
        self.cluster.change(change)?;
        let changed = Instant::now();
        self.wait(|status| status["generation"] == generation + 1)?;
        Ok(ms(changed.elapsed()))
    }

    /// Of one question, on average.
    fn explain(&self, from: &str, to: &str) -> Result<Cost> {
        let page = format!("/explain?from={from}&to={to}&port=80");
        self.settle()?;
        let (before, started) = (self.agent.cpu()?, Instant::now());
        for _ in 0..QUESTIONS {
            let answer = self.agent.ask(&page)?;
            ensure!(answer["verdict"] == "allowed", "{answer}");
        }
        let used = self.agent.cpu()?.saturating_sub(before);
        Ok(cost(used / QUESTIONS, started.elapsed() / QUESTIONS))
    }

    /// Milliseconds of CPU a second.
    fn idle(&self, time: Duration) -> Result<f64> {
        self.settle()?;
        let before = self.agent.cpu()?;
        std::thread::sleep(time);
        let used = self.agent.cpu()?.saturating_sub(before);
        Ok(ms(used) / time.as_secs_f64())
    }

    fn generation(&self) -> Result<u64> {
        let status = self.agent.ask("/status")?;
        status["generation"].as_u64().context("a generation")
    }

    fn wait(&self, is_so: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        let asked = || self.agent.ask("/status").is_ok_and(|status| is_so(&status));
        if !mesh_tests::eventually(PATIENCE, asked) {
            bail!("it did not come to that: {}", self.agent.log());
        }
        Ok(())
    }

    /// Until the agent has used next to no CPU for longer than it waits before
    /// it reads what changed. Asks the kernel, not the agent.
    fn settle(&self) -> Result<()> {
        const QUIET: Duration = Duration::from_millis(500);
        const NOTHING: Duration = Duration::from_millis(5);
        let begun = (Instant::now(), self.agent.cpu()?);
        let (mut since, mut used) = begun;
        while since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.agent.cpu()?;
            if begun.0.elapsed() > PATIENCE {
                let used = now.saturating_sub(begun.1);
                bail!("it does not come to rest: {used:?} of CPU in {PATIENCE:?}");
            }
            if now.saturating_sub(used) > NOTHING {
                (since, used) = (Instant::now(), now);
            }
        }
        Ok(())
    }
}

fn cost(cpu: Duration, wall: Duration) -> Cost {
    Cost {
        cpu_ms: ms(cpu),
        wall_ms: ms(wall),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
