use std::sync::Arc;

use super::*;
use crate::balance::testing::{Picker, chance, only, snapshot};
use crate::balance::{Affinity, Attempt, Balancer, Draw, Kind, Outcome};
use crate::model::Service;

/// That one fails until its breaker is open, and others work.
fn fail(balancer: &mut Balancer, service: &Arc<Service>, which: u8, now: Instant) {
    for _ in 0..200 {
        let draw = Draw {
            kind: Kind::Request,
            now,
            random: &chance,
        };
        let attempt = (&mut Attempt::default(), draw);
        let picked = Picker::on("n1", None).begin(balancer, service, attempt);
        let (picked, mut load) = picked.expect("one");
        let outcome = match picked == which {
            true => Outcome::Failure(Failure::Status),
            false => Outcome::Success,
        };
        load.end(outcome, now, &chance);
    }
}

fn standings(health: &Health, service: &Arc<Service>, now: Instant) -> Vec<(Phase, Option<Kept>)> {
    let picker = Picker::on("n1", None);
    let standings = health.standings(&[picker.candidates(service)], now);
    assert!(standings.iter().map(|(at, _)| *at).eq(0..standings.len()));
    let of = |(_, one): &(usize, Standing)| (one.phase, one.kept);
    standings.iter().map(of).collect()
}

#[test]
fn one_that_is_ejected_is_told_from_one_that_fails_and_is_used_all_the_same() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
    let (service, now) = (only(&snapshot), Instant::now());
    let health = Arc::new(Health::new(now));
    let mut balancer = Balancer::new(0, Arc::<Affinity>::default(), health.clone());
    let later = |ms| now + Duration::from_millis(ms);
    fail(&mut balancer, service, 2, now);
    let used = (Phase::Closed, None);
    let ejected = (Phase::Open, None);
    assert_eq!(standings(&health, service, now), [used, ejected, used]);
    fail(&mut balancer, service, 1, later(5));
    let failing = (Phase::Open, Some(Kept { ejected: 1, of: 3 }));
    assert_eq!(
        standings(&health, service, later(5)),
        [failing, ejected, used]
    );
    // What it is ejected from is one Service's: of another one it is all that there is.
    let alone = Service {
        ports: vec![crate::model::ServicePort {
            endpoints: vec![service.ports[0].endpoints[1].clone()].into(),
            ..service.ports[0].clone()
        }],
        ..Service::clone(service)
    };
    let kept = (Phase::Open, Some(Kept { ejected: 0, of: 1 }));
    assert_eq!(standings(&health, &Arc::new(alone), later(5)), [kept]);
}
