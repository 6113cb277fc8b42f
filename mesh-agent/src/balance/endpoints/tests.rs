use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::balance::testing::{Picker, balancer, endpoint, hinted, last, of_tier, service};
use crate::balance::{Attempt, Delayed, Reach};
use crate::model::RefuseReason;

/// Those that a client may get, and that what is picked is of them.
fn chosen(picker: &Picker, endpoints: &[Endpoint]) -> Vec<u8> {
    let service = service(endpoints.to_vec(), None);
    let listed: Vec<u8> = picker.candidates(&service).iter().map(last).collect();
    let mut balancer = balancer(0, Instant::now());
    let mut picked: Vec<u8> = (0..20 * endpoints.len())
        .filter_map(|_| {
            let attempt = (&mut Attempt::default(), Instant::now());
            picker.pick(&mut balancer, &service, attempt)
        })
        .collect();
    picked.sort_unstable();
    picked.dedup();
    assert_eq!(listed, picked);
    listed
}

/// 1 on n1 in a, 2 on n2 in a, 3 on n3 in b; each with such hints.
fn three(hints: [(&[&str], &[&str]); 3]) -> Vec<Endpoint> {
    let nodes = ["n1", "n2", "n3"];
    let all = (1..).zip(nodes).zip(hints);
    all.map(|((n, node), (nodes, zones))| hinted(endpoint(n, &n.to_string(), node), nodes, zones))
        .collect()
}

#[test]
fn hints_for_zones_keep_a_client_in_its_zone_and_fall_back_as_kube_proxy_does() {
    let zones = three([(&[], &["a"]), (&[], &["a"]), (&[], &["b"])]);
    assert_eq!(chosen(&Picker::on("n9", Some("a")), &zones), [1, 2]);
    assert_eq!(chosen(&Picker::on("n9", Some("b")), &zones), [3]);
    // No endpoint is hinted for the zone, or nobody says which one it is.
    assert_eq!(chosen(&Picker::on("n9", Some("c")), &zones), [1, 2, 3]);
    assert_eq!(chosen(&Picker::on("n9", None), &zones), [1, 2, 3]);
    // One ready endpoint without: none counts.
    let one_without = three([(&[], &["a"]), (&[], &[]), (&[], &["b"])]);
    assert_eq!(
        chosen(&Picker::on("n9", Some("a")), &one_without),
        [1, 2, 3]
    );
    // A hint may be for several zones.
    let several = three([(&[], &["a", "c"]), (&[], &["a"]), (&[], &["b"])]);
    assert_eq!(chosen(&Picker::on("n9", Some("c")), &several), [1]);
}

#[test]
fn hints_for_nodes_go_before_those_for_zones() {
    let both = three([(&["n1"], &["a"]), (&["n2"], &["a"]), (&["n3"], &["b"])]);
    assert_eq!(chosen(&Picker::on("n2", Some("a")), &both), [2]);
    assert_eq!(chosen(&Picker::on("n9", Some("a")), &both), [1, 2]);
    assert_eq!(chosen(&Picker::on("n9", Some("c")), &both), [1, 2, 3]);
    let one_without = three([(&["n1"], &["a"]), (&[], &["a"]), (&["n3"], &["b"])]);
    assert_eq!(chosen(&Picker::on("n1", Some("a")), &one_without), [1, 2]);
}

#[test]
fn endpoints_that_end_have_no_say_about_hints_and_serve_last() {
    let mut endpoints = three([(&[], &["a"]), (&[], &["a"]), (&[], &[])]);
    endpoints[2].tier = Tier::Terminating;
    assert_eq!(chosen(&Picker::on("n9", Some("a")), &endpoints), [1, 2]);
    let ending: Vec<_> = endpoints
        .into_iter()
        .map(|endpoint| of_tier(endpoint, Tier::Terminating))
        .collect();
    assert_eq!(chosen(&Picker::on("n9", Some("b")), &ending), [1, 2, 3]);
}

#[test]
fn a_service_that_keeps_to_the_node_has_the_nodes_endpoints_only() {
    let local = |node| Picker {
        reach: Reach::Node,
        ..Picker::on(node, Some("b"))
    };
    // Hints are not asked.
    let mut endpoints = three([(&[], &["a"]), (&[], &["a"]), (&[], &["b"])]);
    assert_eq!(chosen(&local("n1"), &endpoints), [1]);
    assert_eq!(chosen(&local("n9"), &endpoints), Vec::<u8>::new());
    let service = service(endpoints.clone(), None);
    assert!(local("n9").candidates(&service).has_others());
    // The node's last one serves while it ends, though others are ready elsewhere.
    endpoints[0].tier = Tier::Terminating;
    assert_eq!(chosen(&local("n1"), &endpoints), [1]);
    assert_eq!(chosen(&Picker::on("n1", None), &endpoints), [2, 3]);
}

#[test]
fn a_second_attempt_goes_on_beyond_what_hints_say() {
    let zones = three([(&[], &["a"]), (&[], &["b"]), (&[], &["b"])]);
    let (service, picker) = (service(zones, None), Picker::on("n9", Some("a")));
    let (mut balancer, mut attempt) = (balancer(0, Instant::now()), Attempt::default());
    let mut pick = || picker.pick(&mut balancer, &service, (&mut attempt, Instant::now()));
    assert_eq!(pick(), Some(1));
    assert_ne!(pick(), Some(1));
}

#[test]
fn a_fault_is_drawn_once_and_what_waits_for_it_is_told_once() {
    let mut attempt = Attempt::default();
    assert_eq!(attempt.has_waited(), None);
    assert!(attempt.draws() && !attempt.draws());
    let delayed = Delayed {
        lasts: Duration::from_secs(1),
        then: Some((RefuseReason::FaultInjected.into(), SystemTime::UNIX_EPOCH)),
    };
    attempt.delay(delayed.clone());
    assert_eq!(attempt.delayed(), Some(delayed.lasts));
    assert_eq!(attempt.has_waited(), delayed.then);
    assert_eq!((attempt.delayed(), attempt.has_waited()), (None, None));
    assert!(!attempt.draws(), "it was drawn before it waited");
    assert!(!Attempt::of_copy().draws());
}

#[test]
fn what_nobody_took_is_decided_anew_and_is_no_new_request() {
    let (service, picker) = (
        service(vec![endpoint(1, "1", "n1")], None),
        Picker::on("n1", None),
    );
    let (mut balancer, mut attempt) = (balancer(0, Instant::now()), Attempt::default());
    assert!(attempt.is_new());
    picker.pick(&mut balancer, &service, (&mut attempt, Instant::now()));
    assert!(!attempt.is_new());
    attempt.was_not_taken();
    assert!(
        !attempt.is_new(),
        "what is done once for a request was done"
    );
    assert!(!attempt.draws());
    picker.pick(&mut balancer, &service, (&mut attempt, Instant::now()));
    assert!(!attempt.is_repeated(), "it goes where it went");
}
