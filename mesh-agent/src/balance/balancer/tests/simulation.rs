//! A thousand endpoints and fifty nodes, in simulated time and with chance that is the
//! same in each run: how load is spread, what becomes of it when endpoints come, fail
//! and heal. Nodes know nothing of each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::testing::{Picker, balancer, chance, endpoint_at, service};
use crate::balance::{Attempt, Balancer, Draw, Failure, InFlight, Kind, Outcome};
use crate::model::Service;

const NODES: usize = 50;
const ENDPOINTS: usize = 1_000;
const TICK: Duration = Duration::from_millis(10);
/// Of a node, in a tick: an endpoint gets about one request a second of each node.
const REQUESTS: usize = 10;
/// An endpoint serves one request after the other.
const SERVICE: Duration = Duration::from_millis(5);

struct World {
    nodes: Vec<Balancer>,
    service: Arc<Service>,
    now: Instant,
    /// When each has served what it was asked.
    free: Vec<Instant>,
    failing: Vec<bool>,
    under_way: VecDeque<Vec<(InFlight, Outcome, Instant)>>,
    /// Requests of late, of each endpoint; how many failed; the longest wait.
    counts: Vec<usize>,
    failed: usize,
    longest: Duration,
}

impl World {
    fn new(endpoints: usize) -> Self {
        let now = Instant::now();
        Self {
            nodes: (0..NODES).map(|node| balancer(node, now)).collect(),
            service: of(endpoints),
            now,
            free: vec![now; ENDPOINTS],
            failing: vec![false; ENDPOINTS],
            under_way: VecDeque::new(),
            counts: vec![0; ENDPOINTS],
            failed: 0,
            longest: Duration::ZERO,
        }
    }

    fn forget(&mut self) {
        self.counts = vec![0; ENDPOINTS];
        (self.failed, self.longest) = (0, Duration::ZERO);
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            for (mut load, outcome, answered) in self.under_way.pop_front().unwrap_or_default() {
                load.took(answered);
                load.end(outcome, answered, &chance);
            }
            for node in 0..NODES {
                for _ in 0..REQUESTS {
                    self.ask(node);
                }
            }
            self.now += TICK;
        }
    }

    fn ask(&mut self, node: usize) {
        let now = self.now + TICK.mul_f64(chance(1_000) as f64 / 1_000.0);
        let draw = Draw {
            kind: Kind::Request,
            now,
            random: &chance,
        };
        let (picker, mut attempt) = (Picker::on("n1", None), Attempt::default());
        let candidates = picker.candidates(&self.service);
        let (endpoint, load) = self.nodes[node]
            .pick(&candidates, &mut attempt, draw)
            .expect("one");
        let at = usize::from(endpoint.addr.port());
        let free = self.free[at].max(now) + SERVICE;
        self.free[at] = free;
        self.counts[at] += 1;
        self.longest = self.longest.max(free - now);
        let outcome = match self.failing[at] {
            true => Outcome::Failure(Failure::Status),
            false => Outcome::Success,
        };
        self.failed += usize::from(self.failing[at]);
        let ticks = (free - self.now).div_duration_f64(TICK) as usize;
        while self.under_way.len() <= ticks {
            self.under_way.push_back(Vec::new());
        }
        self.under_way[ticks].push((load, outcome, free));
    }

    fn mean(&self) -> f64 {
        self.counts.iter().sum::<usize>() as f64 / self.service.ports[0].endpoints.len() as f64
    }

    /// The least and the most, in shares of the mean.
    fn spread(&self, of: std::ops::Range<usize>) -> (f64, f64) {
        let shares = self.counts[of].iter().map(|n| *n as f64 / self.mean());
        shares.fold((f64::MAX, 0.0), |(least, most), share| {
            (least.min(share), most.max(share))
        })
    }
}

fn of(count: usize) -> Arc<Service> {
    service((0..count).map(endpoint_at).collect(), None)
}

#[test]
fn a_thousand_endpoints_and_fifty_nodes() {
    let mut world = World::new(ENDPOINTS - 100);
    world.run(Duration::from_secs(2));
    world.forget();
    world.run(Duration::from_secs(2));
    let (least, most) = world.spread(0..900);
    assert!(least > 0.5 && most < 1.6, "{least} {most}");
    assert!(
        world.longest < Duration::from_millis(100),
        "{:?}",
        world.longest
    );

    // A hundred more: nobody runs to them, and they get their share.
    world.service = of(ENDPOINTS);
    world.forget();
    world.run(Duration::from_millis(500));
    let (_, most) = world.spread(900..1_000);
    assert!(most < 3.0, "{most}");
    assert!(
        world.longest < Duration::from_millis(150),
        "{:?}",
        world.longest
    );
    world.run(Duration::from_millis(2_500));
    world.forget();
    world.run(Duration::from_secs(2));
    let (least, most) = world.spread(0..1_000);
    assert!(least > 0.4 && most < 1.7, "{least} {most}");

    // Twenty fail: each node finds out by itself, and spares them.
    (0..20).for_each(|at| world.failing[at] = true);
    world.run(Duration::from_secs(12));
    world.forget();
    world.run(Duration::from_secs(2));
    let share = world.failed as f64 / world.counts.iter().sum::<usize>() as f64;
    assert!(share < 0.005, "{share}");
    let (least, most) = world.spread(20..1_000);
    assert!(least > 0.4 && most < 1.7, "{least} {most}");

    // They heal: within a probe's interval each is used again, and nobody runs there.
    (0..20).for_each(|at| world.failing[at] = false);
    world.run(Duration::from_secs(13));
    world.forget();
    world.run(Duration::from_secs(2));
    let (least, most) = world.spread(0..20);
    assert!(least > 0.3 && most < 2.0, "{least} {most}");
    assert_eq!(world.failed, 0);
}
