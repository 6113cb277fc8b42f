//! One of three endpoints works in 50 ms, and two say no in one: what clients get, in simulated
//! time and with chance that is the same in each run. Nobody tries again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::model::traffic::BalanceBy;

/// Between two calls; each begins at its time however long others take.
const EACH: Duration = Duration::from_millis(10);
const WORKS: Duration = Duration::from_millis(50);
const REFUSES: Duration = Duration::from_millis(1);

struct Sim {
    balancer: Balancer,
    service: Arc<Service>,
    /// What those say that refuse.
    no: Outcome,
    refuses: [bool; 4],
    now: Instant,
    /// When it is answered, by which one, and whether by no.
    under_way: Vec<(Instant, InFlight, u8, bool)>,
    /// Answers of late: by the endpoint.
    yes: [u32; 4],
    no_of: [u32; 4],
    changes: Vec<Change>,
}

impl Sim {
    fn new(by: BalanceBy, is_on: bool, no: Outcome) -> Self {
        let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
        let mut service = Service::clone(only(&snapshot));
        let mut traffic = Traffic::default();
        traffic.load_balancer.by = by;
        traffic.outlier_detection.is_on = is_on;
        service.traffic = Arc::new(traffic);
        let mut sim = Self {
            balancer: balancer(0),
            service: Arc::new(service),
            no,
            refuses: [false; 4],
            now: Instant::now(),
            under_way: vec![],
            yes: [0; 4],
            no_of: [0; 4],
            changes: vec![],
        };
        sim.run(3_000);
        sim
    }

    /// So many ms, of which it tells the answers.
    fn run(&mut self, ms: u64) {
        (self.yes, self.no_of) = ([0; 4], [0; 4]);
        let until = self.now + Duration::from_millis(ms);
        while self.now < until {
            self.hear();
            let (which, load) = begin(&mut self.balancer, &self.service, self.now);
            let is_no = self.refuses[usize::from(which)];
            let takes = if is_no { REFUSES } else { WORKS };
            self.under_way.push((self.now + takes, load, which, is_no));
            self.now += EACH;
        }
    }

    fn hear(&mut self) {
        let under_way = std::mem::take(&mut self.under_way);
        for (at, mut load, which, is_no) in under_way {
            if at > self.now {
                self.under_way.push((at, load, which, is_no));
                continue;
            }
            let number = usize::from(which);
            let outcome = if is_no { self.no } else { Outcome::Success };
            // Nothing has answered where there was no room to ask.
            if outcome != Outcome::Failure(Failure::Connect) {
                load.took(at);
            }
            self.changes.extend(load.end(outcome, at, &random));
            let counts = if is_no {
                &mut self.no_of
            } else {
                &mut self.yes
            };
            counts[number] += 1;
        }
    }

    fn refused(&self) -> f64 {
        let [yes, no]: [u32; 2] = [&self.yes, &self.no_of].map(|of| of.iter().sum());
        f64::from(no) / f64::from(yes + no)
    }
}

const NO: [Outcome; 3] = [
    Outcome::Failure(Failure::Status),
    Outcome::Failure(Failure::Connect),
    Outcome::Shed,
];

fn each(check: impl Fn(Sim, &str)) {
    for by in [BalanceBy::PeakEwma, BalanceBy::LeastRequest] {
        for (no, is_on) in NO.into_iter().flat_map(|no| [(no, true), (no, false)]) {
            let what = format!("{by:?}, {no:?}, ejection {is_on}");
            check(Sim::new(by.clone(), is_on, no), &what);
        }
    }
}

/// Of two by chance both refuse one time of three, where none is ejected: that is less than
/// their part of all. Where one is, hardly any is refused.
#[test]
fn who_says_no_at_once_gets_no_more_than_who_works() {
    each(|mut sim, what| {
        (sim.refuses[1], sim.refuses[2]) = (true, true);
        sim.run(4_000);
        sim.run(20_000);
        let refused = sim.refused();
        let most = match sim.changes.is_empty() {
            true => 0.45,
            false => 0.05,
        };
        assert!(refused < most, "{what}: {refused}");
        let works = sim.yes[3];
        assert!(
            sim.no_of.iter().all(|no| *no < works),
            "{what}: {:?} of {works}",
            sim.no_of
        );
    });
}

/// Without an ejection within two seconds, which are two of its intervals; else its probe has
/// to come.
#[test]
fn who_works_again_is_used_again() {
    each(|mut sim, what| {
        (sim.refuses[1], sim.refuses[2]) = (true, true);
        sim.run(1_000);
        sim.refuses = [false; 4];
        sim.run(3_000);
        sim.run(3_000);
        assert_eq!(sim.refused(), 0.0, "{what}");
        // As it was before: all are as good.
        for which in 1..=3 {
            let share = f64::from(sim.yes[which]) / 300.0;
            assert!(share > 0.2, "{what}: {which} has {share}");
        }
    });
}

/// Whoever picks does not change when an endpoint is ejected: seven failures, one behind the
/// other and as soon as they would be.
#[test]
fn one_that_fails_is_ejected_after_seven_failures_as_soon_as_ever() {
    for by in [BalanceBy::PeakEwma, BalanceBy::LeastRequest] {
        let mut sim = Sim::new(by.clone(), true, Outcome::Failure(Failure::Status));
        // What is under way ends well.
        sim.now += WORKS;
        sim.hear();
        sim.refuses[1] = true;
        sim.run(600);
        let failures: u32 = sim.no_of.iter().sum();
        assert_eq!(failures, 7, "{by:?}: {:?}", sim.changes);
        let [Change::Ejected { cause, .. }] = sim.changes[..] else {
            panic!("{by:?}: {:?}", sim.changes);
        };
        assert_eq!(cause.label(), "consecutive_failures");
    }
}

/// One whose endpoints are all out of room has its requests answered by whoever it is, and no
/// breaker opens.
#[test]
fn an_agent_without_room_ejects_nobody() {
    let mut sim = Sim::new(BalanceBy::PeakEwma, true, Outcome::Overflow);
    sim.refuses = [false, true, true, true];
    sim.run(5_000);
    assert!(sim.changes.is_empty(), "{:?}", sim.changes);
    assert_eq!(sim.balancer.health.ejected(), 0);
}

/// Another caller may have no limit there, or not reached it.
#[test]
fn a_probe_that_meets_its_callers_rate_limit_is_followed_by_another_soon() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
    let (service, now) = (only(&snapshot), Instant::now());
    for (outcome, is_next) in [(Outcome::OverRate, true), (Outcome::Overflow, false)] {
        let mut balancer = balancer(0);
        // Ejected for the third time, so that a second is soon.
        let mut later = now;
        fail(&mut balancer, service, 2, later);
        for _ in 0..2 {
            later += Duration::from_secs(100);
            let (which, mut probe) = begin(&mut balancer, service, later);
            assert!(which == 2 && probe.is_probe());
            let failed = probe.end(Outcome::Failure(Failure::Status), later, &random);
            assert!(failed.is_some());
        }
        later += Duration::from_secs(100);
        let (which, mut probe) = begin(&mut balancer, service, later);
        assert!(which == 2 && probe.is_probe());
        assert_eq!(probe.end(outcome, later, &random), None);
        drop(probe);
        assert_ne!(begin(&mut balancer, service, later).0, 2, "not at once");
        later += Duration::from_secs(1);
        let (which, next) = begin(&mut balancer, service, later);
        assert_eq!(which == 2 && next.is_probe(), is_next, "{outcome:?}");
    }
}

/// A retry goes where it may help: to the one that works, and not to another that fails.
#[test]
fn a_retry_goes_to_the_one_that_works() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]);
    let (service, now) = (only(&snapshot), Instant::now());
    let mut balancer = balancer(0);
    for which in [1, 2, 3] {
        fail(&mut balancer, service, which, now);
    }
    let picker = Picker::on("n1", None);
    for _ in 0..100 {
        let mut attempt = Attempt::default();
        let picks = [0; 3].map(|_| {
            let picked = picker.begin(&mut balancer, service, (&mut attempt, draw(now)));
            picked.expect("one").0
        });
        // Two are ejected, one fails and is used, two work: these first.
        assert!(picks[0] > 3 && picks[1] > 3 && picks[2] == 3, "{picks:?}");
    }
}
