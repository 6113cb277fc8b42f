use std::net::IpAddr;

use super::*;
use crate::balance::testing::{CALLED, Picker, balancer, only, snapshot};
use crate::balance::{Client, Reach};

fn pick(balancer: &mut Balancer, snapshot: &Snapshot, attempt: &mut Attempt) -> Option<u8> {
    let picker = Picker::on("n1", None);
    picker.pick(balancer, only(snapshot), (attempt, Instant::now()))
}

fn picks(balancer: &mut Balancer, snapshot: &Snapshot, count: usize) -> Vec<u8> {
    let one = |_| pick(balancer, snapshot, &mut Attempt::default()).expect("one");
    (0..count).map(one).collect()
}

#[test]
fn endpoints_are_picked_in_turn_and_workers_begin_with_others() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
    let mut first = balancer(0);
    assert_eq!(picks(&mut first, &snapshot, 6), [1, 2, 3, 1, 2, 3]);
    let mut second = balancer(1);
    assert_eq!(picks(&mut second, &snapshot, 4), [2, 3, 1, 2]);
}

#[test]
fn the_turn_of_one_service_is_not_that_of_another() {
    let (one, other) = (snapshot(1, &[(1, "a"), (2, "b")]), snapshot(1, &[(3, "c")]));
    let mut balancer = balancer(0);
    let mut picked = vec![];
    for _ in 0..4 {
        picked.extend(picks(&mut balancer, &one, 1));
        picks(&mut balancer, &other, 1);
    }
    assert_eq!(picked, [1, 2, 1, 2]);
}

#[test]
fn a_new_endpoint_changes_nothing_of_the_others_turns() {
    let mut balancer = balancer(0);
    let before = snapshot(1, &[(1, "a"), (2, "b")]);
    assert_eq!(picks(&mut balancer, &before, 3), [1, 2, 1]);
    let after = snapshot(2, &[(1, "a"), (2, "b"), (3, "c")]);
    balancer.hear(&after);
    assert_eq!(picks(&mut balancer, &after, 4), [3, 2, 1, 3]);
}

#[test]
fn a_pod_that_is_made_anew_is_another_endpoint_and_the_old_one_is_forgotten() {
    let mut balancer = balancer(0);
    let before = snapshot(1, &[(1, "a"), (2, "b")]);
    assert_eq!(picks(&mut balancer, &before, 1), [1]);
    let after = snapshot(2, &[(1, "another"), (2, "b")]);
    balancer.hear(&after);
    assert_eq!(balancer.states.len(), 1, "of b");
    assert_eq!(picks(&mut balancer, &after, 1), [1]);
    balancer.hear(&before);
    assert_eq!(balancer.states.len(), 2, "an older one says nothing");
    balancer.hear(&snapshot(3, &[]));
    assert!(balancer.states.is_empty() && balancer.lists.is_empty());
}

#[test]
fn a_second_attempt_goes_elsewhere_and_again_where_there_is_nobody_else() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let mut balancer = balancer(0);
    let mut attempt = Attempt::default();
    let first = pick(&mut balancer, &snapshot, &mut attempt);
    // Others come between, so that it would be the first one's turn.
    picks(&mut balancer, &snapshot, 1);
    let second = pick(&mut balancer, &snapshot, &mut attempt);
    assert_eq!((first, second), (Some(1), Some(2)));
    assert!(pick(&mut balancer, &snapshot, &mut attempt).is_some());
}

#[test]
fn nothing_is_picked_of_another_family_or_where_there_is_none() {
    let mut balancer = balancer(0);
    let snapshot = snapshot(1, &[(1, "a")]);
    let service = only(&snapshot);
    let ipv6: IpAddr = "fd00::1".parse().expect("an address");
    let client = Client {
        pod: &"client".into(),
        node: "n1",
        zone: None,
    };
    let pick = |balancer: &mut Balancer, called| {
        let to = (service, &service.ports[0]);
        let candidates = Candidates::new(to, (client, called), Reach::Cluster);
        let count = candidates.iter().count();
        let picked = balancer.pick(&candidates, &mut Attempt::default(), Instant::now());
        (picked.is_some(), count)
    };
    assert_eq!(pick(&mut balancer, ipv6), (false, 0));
    assert_eq!(pick(&mut balancer, CALLED), (true, 1));
}
