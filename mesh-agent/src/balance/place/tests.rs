use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::balance::testing::{Picker, balancer, chance, only, snapshot};
use crate::balance::{Attempt, Balancer, Draw, InFlight, Kind, Unpicked};
use crate::model::traffic::Traffic;
use crate::model::{RefuseReason, Service, Snapshot};

/// A configuration by which so many may be in flight, and so many wait.
fn limited(generation: u64, (most, room): (u32, u32), pods: &[(u8, &str)]) -> Snapshot {
    let mut snapshot = snapshot(generation, pods);
    let mut service = Service::clone(only(&snapshot));
    let mut traffic = Traffic::default();
    traffic.limits.max_requests = most;
    traffic.limits.max_pending_requests = room;
    service.traffic = Arc::new(traffic);
    snapshot.services.insert(Arc::new(service));
    snapshot
}

/// As it is decided by that configuration.
fn begin(
    balancer: &mut Balancer,
    snapshot: &Snapshot,
    attempt: &mut Attempt,
) -> Result<InFlight, Unpicked> {
    balancer.hear(snapshot);
    let draw = Draw {
        kind: Kind::Request,
        now: Instant::now(),
        random: &chance,
    };
    let picker = Picker::on("n1", None);
    let picked = balancer.pick(&picker.candidates(only(snapshot)), attempt, draw);
    picked.map(|(_, load)| load)
}

fn is_decided_anew(attempt: &mut Attempt) -> bool {
    let polled = attempt.poll_place(&mut Context::from_waker(Waker::noop()));
    polled.is_ready()
}

#[test]
fn a_limit_that_changes_is_that_of_who_waits_already() {
    const PODS: &[(u8, &str)] = &[(1, "a")];
    let mut balancer = balancer(0, Instant::now());
    let before = limited(1, (1, 1), PODS);
    let [mut first, mut waits, mut more] = [(); 3].map(|()| Attempt::default());
    let one = begin(&mut balancer, &before, &mut first).expect("a place");
    let over = |begun: Result<InFlight, Unpicked>| match begun.expect_err("it is full") {
        Unpicked::Over(reason) => reason,
        Unpicked::Nobody => panic!("there is one"),
    };
    let full = over(begin(&mut balancer, &before, &mut waits));
    assert_eq!(full, RefuseReason::MaxRequests);
    let full = over(begin(&mut balancer, &before, &mut more));
    assert_eq!(full, RefuseReason::MaxPendingRequests);
    assert!(!is_decided_anew(&mut waits));
    // Nobody leaves and nobody comes.
    let raised = limited(2, (3, 0), PODS);
    balancer.hear(&raised);
    assert!(is_decided_anew(&mut waits), "there are three places now");
    let two = begin(&mut balancer, &raised, &mut waits).expect("its place");
    let three = begin(&mut balancer, &raised, &mut more).expect("a place");
    // Fewer may be there now than are.
    let lowered = limited(3, (1, 1), PODS);
    let mut waits = Attempt::default();
    over(begin(&mut balancer, &lowered, &mut waits));
    drop((one, two));
    assert!(!is_decided_anew(&mut waits), "one is there still");
    drop(three);
    assert!(is_decided_anew(&mut waits));
}

#[test]
fn who_waits_is_told_at_once_that_there_is_nothing_left_to_wait_for() {
    let mut balancer = balancer(0, Instant::now());
    let before = limited(1, (1, 1), &[(1, "a")]);
    let [mut first, mut waits] = [(); 2].map(|()| Attempt::default());
    let _one = begin(&mut balancer, &before, &mut first).expect("a place");
    assert!(begin(&mut balancer, &before, &mut waits).is_err());
    let none = limited(2, (1, 1), &[]);
    balancer.hear(&none);
    assert!(is_decided_anew(&mut waits));
    let told = begin(&mut balancer, &none, &mut waits);
    assert_eq!(told.expect_err("none"), Unpicked::Nobody);
    balancer.hear(&before);
    let mut waits = Attempt::default();
    assert!(begin(&mut balancer, &before, &mut waits).is_err());
    let gone = Snapshot {
        generation: 3,
        ..Snapshot::default()
    };
    balancer.hear(&gone);
    assert!(is_decided_anew(&mut waits), "its Service is gone");
}

#[test]
fn a_pod_that_has_many_wait_makes_room_for_one_that_has_few() {
    let mut balancer = balancer(0, Instant::now());
    let snapshot = limited(1, (1, 2), &[(1, "a")]);
    balancer.hear(&snapshot);
    let mut begin = |pod: &str, attempt: &mut Attempt| {
        let draw = Draw {
            kind: Kind::Request,
            now: Instant::now(),
            random: &chance,
        };
        let picker = Picker::on("n1", None).pod(pod);
        let picked = balancer.pick(&picker.candidates(only(&snapshot)), attempt, draw);
        picked.map(|(_, load)| load)
    };
    let poll = |attempt: &mut Attempt| attempt.poll_place(&mut Context::from_waker(Waker::noop()));
    let [mut first, mut one, mut two, mut quiet] = [(); 4].map(|()| Attempt::default());
    let load = begin("greedy", &mut first).expect("a place");
    for waits in [&mut one, &mut two] {
        assert!(begin("greedy", waits).is_err() && waits.queued().is_some());
    }
    assert!(begin("quiet", &mut quiet).is_err() && quiet.queued().is_some());
    let full = RefuseReason::MaxPendingRequests;
    assert_eq!(poll(&mut two), Poll::Ready(Err(full)));
    assert!(!two.is_held_back() && two.queued_since().is_some());
    drop(load);
    assert_eq!(poll(&mut one), Poll::Ready(Ok(())));
    let load = begin("greedy", &mut one).expect("its place");
    let mut next = Attempt::default();
    assert!(begin("greedy", &mut next).is_err() && next.queued().is_some());
    drop(load);
    assert_eq!(poll(&mut quiet), Poll::Ready(Ok(())), "its turn");
    assert!(poll(&mut next).is_pending());
}
