mod two;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::balance::testing::endpoint_at;
use crate::model::traffic::HashOn;

/// Since the agent's start, in ms.
const NOW: u64 = 60_000;

/// As chance has it, the same each time.
struct Dice(Cell<u64>);

impl Dice {
    fn below(&self, limit: u64) -> u64 {
        let next = self.0.get().wrapping_mul(6_364_136_223_846_793_005);
        self.0.set(next.wrapping_add(1_442_695_040_888_963_407));
        (self.0.get() >> 33) % limit
    }
}

/// `count` endpoints, of which the last is as old as that, in ms; the others are old.
fn world(count: usize, age: u64) -> (Vec<Endpoint>, Vec<Arc<State>>) {
    let endpoints: Vec<Endpoint> = (1..=count).map(endpoint_at).collect();
    let born = |at: usize| if at + 1 == count { NOW - age } else { 1 };
    let states = endpoints.iter().enumerate();
    let states = states.map(|(at, endpoint)| Arc::new(State::new(endpoint, born(at))));
    let states = states.collect();
    (endpoints, states)
}

/// How often each is chosen; `hash` of the nth.
fn chosen(
    by: &LoadBalancer,
    (endpoints, states): &(Vec<Endpoint>, Vec<Arc<State>>),
    usable: &[u32],
    (count, hash): (u64, fn(u64) -> Option<u64>),
) -> Vec<u32> {
    let (dice, turn) = (Dice(Cell::new(7)), Cell::new(0));
    let random = |limit| dice.below(limit);
    let mut counts = vec![0; endpoints.len()];
    for n in 0..count {
        let choice = Choice {
            by,
            kind: Kind::Request,
            hash: hash(n),
            has_breakers: true,
            now: NOW,
            random: &random,
        };
        let field = Field {
            endpoints,
            states,
            usable,
            turn: &turn,
        };
        let (at, _) = choice.of(field).expect("there are some");
        counts[at as usize] += 1;
    }
    counts
}

fn by(by: BalanceBy) -> LoadBalancer {
    LoadBalancer {
        by,
        ..LoadBalancer::default()
    }
}

#[test]
fn round_robin_takes_each_that_may_be_chosen_as_often() {
    let world = world(4, NOW - 1);
    let turns = chosen(
        &by(BalanceBy::RoundRobin),
        &world,
        &[0, 2, 3],
        (300, |_| None),
    );
    assert_eq!(turns, [100, 0, 100, 100]);
}

#[test]
fn by_chance_each_is_chosen_about_as_often() {
    let world = world(4, NOW - 1);
    let turns = chosen(
        &by(BalanceBy::Random),
        &world,
        &[0, 1, 2, 3],
        (4_000, |_| None),
    );
    assert!(turns.iter().all(|n| (850..1_150).contains(n)), "{turns:?}");
}

#[test]
fn least_request_goes_where_less_is_in_flight() {
    let world = world(3, NOW - 1);
    world.1[0].pending.store(9, Ordering::Relaxed);
    let turns = chosen(
        &by(BalanceBy::LeastRequest),
        &world,
        &[0, 1, 2],
        (3_000, |_| None),
    );
    // Of two that are alike, whichever; and never the one with more.
    assert_eq!(turns[0], 0, "{turns:?}");
    assert!(turns[1] > 1_000 && turns[2] > 1_000, "{turns:?}");
}

#[test]
fn a_key_keeps_its_endpoint_and_one_that_goes_moves_its_own_keys_alone() {
    let world = world(5, NOW - 1);
    let hashed = by(BalanceBy::ConsistentHash(HashOn::SourceIp));
    let one = chosen(&hashed, &world, &[0, 1, 2, 3, 4], (100, |_| Some(42)));
    assert_eq!(one.iter().filter(|n| **n == 100).count(), 1, "{one:?}");
    let at = |usable: &[u32], key: u64| {
        let (dice, turn) = (Dice(Cell::new(7)), Cell::new(0));
        let random = |limit| dice.below(limit);
        let choice = Choice {
            by: &hashed,
            kind: Kind::Request,
            hash: Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            has_breakers: true,
            now: NOW,
            random: &random,
        };
        let field = Field {
            endpoints: &world.0,
            states: &world.1,
            usable,
            turn: &turn,
        };
        choice.of(field).expect("there are some").0
    };
    let mut moved = 0;
    let mut each = [0; 5];
    for key in 0..5_000 {
        let (before, after) = (at(&[0, 1, 2, 3, 4], key), at(&[0, 1, 3, 4], key));
        each[before as usize] += 1;
        assert!(before == after || before == 2, "a key of another one moved");
        moved += usize::from(before != after);
    }
    assert_eq!(moved, each[2], "all of its own");
    assert!(each.iter().all(|n| (850..1_150).contains(n)), "{each:?}");
}

/// As behind a rollout, or a start of the agent.
#[test]
fn where_all_are_new_the_better_one_is_taken() {
    let warm = LoadBalancer {
        warmup: Some(Warmup {
            duration: Duration::from_secs(10),
            minimum_percent: 10,
        }),
        ..by(BalanceBy::LeastRequest)
    };
    let (endpoints, _) = world(2, 0);
    let states = endpoints.iter().map(|e| Arc::new(State::new(e, NOW)));
    let world = (endpoints.clone(), states.collect::<Vec<_>>());
    world.1[0].pending.store(9, Ordering::Relaxed);
    let turns = chosen(&warm, &world, &[0, 1], (1_000, |_| None));
    assert_eq!(turns, [0, 1_000]);
}

#[test]
fn one_that_is_new_gets_a_growing_share_of_what_it_would_get() {
    let whole = Duration::from_secs(10);
    for of in [
        BalanceBy::RoundRobin,
        BalanceBy::Random,
        BalanceBy::LeastRequest,
        BalanceBy::PeakEwma,
    ] {
        let warm = LoadBalancer {
            warmup: Some(Warmup {
                duration: whole,
                minimum_percent: 10,
            }),
            ..by(of.clone())
        };
        let new = |age| chosen(&warm, &world(4, age), &[0, 1, 2, 3], (8_000, |_| None))[3];
        let (begins, half, ends) = (new(0), new(5_000), new(10_000));
        assert!((100..350).contains(&begins), "{of:?}: {begins} of 2,000");
        assert!((800..1_250).contains(&half), "{of:?}: {half}");
        assert!((1_750..2_300).contains(&ends), "{of:?}: {ends}");
    }
}
