mod ends;
mod failing;
mod hedges;
mod locality;
mod refusing;
mod simulation;
mod switched_off;

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::balance::testing::{
    CALLED, Picker, answered, chance, endpoint, only, service, snapshot,
};
use crate::balance::{Change, Client, Failure, Outcome, Reach};
use crate::model::Service;
use crate::model::traffic::Traffic;

fn balancer(index: usize) -> Balancer {
    crate::balance::testing::balancer(index, Instant::now())
}

fn random(limit: u64) -> u64 {
    chance(limit)
}

fn draw(now: Instant) -> Draw<'static> {
    Draw {
        kind: Kind::Request,
        now,
        random: &random,
    }
}

fn begin(balancer: &mut Balancer, service: &Arc<Service>, now: Instant) -> (u8, InFlight) {
    let attempt = (&mut Attempt::default(), draw(now));
    let picked = Picker::on("n1", None).begin(balancer, service, attempt);
    picked.expect("one")
}

fn fail(balancer: &mut Balancer, service: &Arc<Service>, which: u8, now: Instant) -> Vec<Change> {
    let mut changes = Vec::new();
    for _ in 0..1_000 {
        let (picked, mut load) = begin(balancer, service, now);
        let outcome = match picked == which {
            true => Outcome::Failure(Failure::Status),
            false => Outcome::Success,
        };
        changes.extend(load.end(outcome, now, &random));
    }
    changes
}

fn shares(balancer: &mut Balancer, service: &Arc<Service>, now: Instant) -> [usize; 4] {
    let mut shares = [0; 4];
    for _ in 0..1_000 {
        shares[usize::from(begin(balancer, service, now).0)] += 1;
    }
    shares
}

#[test]
fn endpoints_that_are_as_good_get_as_much() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
    let [_, shares @ ..] = shares(&mut balancer(0), only(&snapshot), Instant::now());
    assert!(shares.iter().all(|n| (280..390).contains(n)), "{shares:?}");
}

#[test]
fn a_slow_one_gets_little_and_what_is_under_way_counts() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, now) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let mut held = Vec::new();
    for _ in 0..20 {
        let (which, mut load) = begin(&mut balancer, service, now);
        let took = if which == 1 { 100 } else { 5 };
        answered(&mut load, now + Duration::from_millis(took));
        held.push(load);
    }
    drop(held);
    let [_, slow, quick, _] = shares(&mut balancer, service, now + Duration::from_secs(1));
    assert!(slow < 10 && quick > 990, "{slow} {quick}");
    // Twenty at once make the quick one as dear.
    let held: Vec<_> = (0..60)
        .map(|_| begin(&mut balancer, service, now + Duration::from_secs(1)))
        .collect();
    let slow = held.iter().filter(|(which, _)| *which == 1).count();
    assert!((1..10).contains(&slow), "{slow}");
}

#[test]
fn one_slow_answer_keeps_an_endpoint_out_for_a_moment_only() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let mut used = [0; 3];
    // A client that asks again when it has its answer, for two seconds.
    let mut now = start;
    while now < start + Duration::from_secs(2) {
        let (which, mut load) = begin(&mut balancer, service, now);
        used[usize::from(which)] += 1;
        let is_first = which == 1 && used[1] == 1;
        now += Duration::from_millis(if is_first { 50 } else { 1 });
        answered(&mut load, now);
    }
    assert!(used[1] > 500 && used[2] > 500, "{used:?}");
}

#[test]
fn a_slow_one_is_looked_at_by_few_requests() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let (mut used, mut held, mut now) = ([0; 3], Vec::new(), start);
    // A thousand requests a second, whatever comes of them.
    while now < start + Duration::from_secs(10) {
        let is_over = |(_, ends): &(InFlight, Instant)| *ends <= now;
        for (mut load, ends) in held.extract_if(.., |of| is_over(of)) {
            answered(&mut load, ends);
        }
        let (which, load) = begin(&mut balancer, service, now);
        used[usize::from(which)] += 1;
        let took = if which == 1 { 20 } else { 2 };
        held.push((load, now + Duration::from_millis(took)));
        now += Duration::from_millis(1);
    }
    assert!((10..100).contains(&used[1]), "{used:?}");
}

#[test]
fn one_that_swallows_connections_is_avoided_after_the_first() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let (mut used, mut now) = ([0; 3], start);
    for _ in 0..1_000 {
        let (which, mut load) = begin(&mut balancer, service, now);
        used[usize::from(which)] += 1;
        now += Duration::from_millis(if which == 1 { 5_000 } else { 2 });
        match which {
            1 => drop(load.end(Outcome::Failure(Failure::Connect), now, &random)),
            _ => answered(&mut load, now),
        }
    }
    assert_eq!(used[1], 1, "{used:?}");
}

#[test]
fn how_long_a_connection_takes_says_nothing_of_a_requests_endpoint() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, now) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    for _ in 0..20 {
        let (which, mut load) = begin(&mut balancer, service, now);
        let there = now + Duration::from_millis(if which == 1 { 500 } else { 0 });
        load.goes(there);
        answered(&mut load, there + Duration::from_millis(1));
    }
    let [_, one, other, _] = shares(&mut balancer, service, now);
    assert!(one > 400 && other > 400, "{one} {other}");
}

#[test]
fn one_that_fails_is_left_out_and_comes_back_by_one_request() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
    let (service, now) = (only(&snapshot), Instant::now());
    let mut one = balancer(0);
    let mut other = Balancer::new(1, Arc::default(), one.health.clone());
    let changes = fail(&mut one, service, 2, now);
    assert!(
        matches!(changes[..], [Change::Ejected { lasts, .. }] if lasts >= Duration::from_secs(1)),
        "{changes:?}"
    );
    for balancer in [&mut one, &mut other] {
        assert_eq!(shares(balancer, service, now)[2], 0, "on each worker");
    }
    let later = now + Duration::from_secs(2);
    let (which, mut probe) = begin(&mut other, service, later);
    assert!(which == 2 && probe.is_probe());
    for balancer in [&mut one, &mut other] {
        assert_eq!(shares(balancer, service, later)[2], 0, "one request alone");
    }
    let ended = probe.end(Outcome::Success, later, &random);
    assert_eq!(ended, Some(Change::Returned));
    drop(probe);
    for balancer in [&mut one, &mut other] {
        assert!(shares(balancer, service, later)[2] > 100);
    }
}

#[test]
fn a_probe_that_shows_nothing_is_followed_by_another() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (service, now) = (only(&snapshot), Instant::now());
    let mut balancer = balancer(0);
    fail(&mut balancer, service, 1, now);
    let later = now + Duration::from_secs(2);
    for _ in 0..3 {
        let (which, probe) = begin(&mut balancer, service, later);
        assert!(which == 1 && probe.is_probe());
    }
    let (which, probe) = begin(&mut balancer, service, later);
    assert_eq!(which, 1);
    assert_eq!(begin(&mut balancer, service, later).0, 2, "{probe:?}");
}

#[test]
fn a_copy_of_a_request_is_no_probe() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (service, now) = (only(&snapshot), Instant::now());
    let mut balancer = balancer(0);
    fail(&mut balancer, service, 1, now);
    let later = now + Duration::from_secs(2);
    for _ in 0..100 {
        let attempt = (&mut Attempt::of_copy(), draw(later));
        let picked = Picker::on("n1", None).begin(&mut balancer, service, attempt);
        let (which, copy) = picked.expect("one");
        assert!(which == 2 && !copy.is_probe());
    }
    let (which, probe) = begin(&mut balancer, service, later);
    assert!(which == 1 && probe.is_probe());
}

#[test]
fn half_are_left_out_at_most_and_the_only_one_never() {
    let pods: Vec<(u8, String)> = (1..=9).map(|n| (n, format!("uid-{n}"))).collect();
    for count in 1..=9 {
        let pods: Vec<(u8, &str)> = pods[..count].iter().map(|(n, uid)| (*n, &**uid)).collect();
        let (snapshot, now) = (snapshot(1, &pods), Instant::now());
        let (service, mut balancer) = (only(&snapshot), balancer(0));
        let (mut used, mut ejected) = (std::collections::BTreeSet::new(), 0);
        for turn in 0..2_000 {
            let (which, mut load) = begin(&mut balancer, service, now);
            let failed = Outcome::Failure(Failure::Connect);
            ejected += usize::from(load.end(failed, now, &random).is_some());
            if turn > 1_000 {
                used.insert(which);
            }
        }
        assert_eq!(used.len(), count - count / 2, "of {count}");
        assert!(ejected >= used.len());
    }
}

#[test]
fn what_is_known_outlives_changes_and_goes_with_the_pod() {
    let (mut balancer, now) = (balancer(0), Instant::now());
    let before = snapshot(1, &[(1, "a"), (2, "b")]);
    fail(&mut balancer, only(&before), 1, now);
    let after = snapshot(2, &[(1, "a"), (2, "b"), (3, "c")]);
    balancer.hear(&after);
    assert_eq!(balancer.health.count(), 2);
    assert_eq!(shares(&mut balancer, only(&after), now)[1], 0);
    // Made anew it is another one.
    let anew = snapshot(3, &[(1, "another"), (2, "b"), (3, "c")]);
    balancer.hear(&anew);
    assert_eq!(balancer.health.count(), 2, "b and c");
    assert!(shares(&mut balancer, only(&anew), now)[1] > 200);
    balancer.hear(&after);
    assert_eq!(balancer.health.count(), 3, "an older one says nothing");
    balancer.hear(&snapshot(4, &[]));
    assert!(balancer.health.count() == 0 && balancer.lists.is_empty());
}

#[test]
fn a_second_attempt_goes_elsewhere_and_again_where_there_is_nobody_else() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let mut balancer = balancer(0);
    let mut attempt = Attempt::default();
    let mut pick = || {
        let at = (&mut attempt, Instant::now());
        Picker::on("n1", None).pick(&mut balancer, only(&snapshot), at)
    };
    let (first, second) = (pick(), pick());
    assert!(first != second && second.is_some());
    assert!(pick().is_some());
}

#[test]
fn a_session_goes_on_at_its_endpoint_while_that_may_be_picked() {
    let pods = snapshot(1, &[(1, "a"), (2, "b"), (3, "c")]);
    let (mut balancer, now) = (balancer(0), Instant::now());
    let ask = |balancer: &mut Balancer, wanted| {
        let mut attempt = Attempt::default();
        attempt.of_session(wanted);
        let at = (&mut attempt, now);
        let picked = Picker::on("n1", None).pick(balancer, only(&pods), at);
        (
            picked.expect("one"),
            attempt.session_at().expect("a session"),
        )
    };
    let (first, at) = ask(&mut balancer, None);
    for _ in 0..100 {
        assert_eq!(ask(&mut balancer, Some(at)), (first, at));
    }
    fail(&mut balancer, only(&pods), first, now);
    let (other, elsewhere) = ask(&mut balancer, Some(at));
    assert!(other != first && elsewhere != at);
    let mut attempt = Attempt::default();
    Picker::on("n1", None).pick(&mut balancer, only(&pods), (&mut attempt, now));
    assert_eq!(attempt.session_at(), None, "it is of none");
}

#[test]
fn where_the_hinted_ones_fail_others_are_used() {
    let pods: Vec<_> = [(1, "z"), (2, "y"), (3, "y")]
        .map(|(n, zone)| crate::balance::testing::hinted(endpoint(n, zone, "n2"), &[], &[zone]))
        .into();
    let (service, now) = (service(pods, None), Instant::now());
    let (picker, mut balancer) = (Picker::on("n1", Some("z")), balancer(0));
    let mut pick = |outcome| {
        let attempt = (&mut Attempt::default(), draw(now));
        let (which, mut load) = picker.begin(&mut balancer, &service, attempt).expect("one");
        load.end(outcome, now, &random);
        which
    };
    let failed = Outcome::Failure(Failure::Status);
    let before: Vec<u8> = (0..7).map(|_| pick(failed)).collect();
    assert_eq!(before, [1; 7]);
    let after: Vec<u8> = (0..20).map(|_| pick(Outcome::Success)).collect();
    assert!(!after.contains(&1), "{after:?}");
}

#[test]
fn who_gives_up_on_what_others_do_at_once_was_failed() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (service, mut now, mut balancer) = (only(&snapshot), Instant::now(), balancer(0));
    let mut changes = Vec::new();
    for _ in 0..2_000 {
        now += Duration::from_millis(10);
        let (which, mut load) = begin(&mut balancer, service, now);
        // The first one hangs, and its client waits for 2 s.
        let (after, outcome) = match which {
            1 => (Duration::from_secs(2), Outcome::Abandoned),
            _ => (Duration::from_millis(1), Outcome::Success),
        };
        if outcome == Outcome::Success {
            load.took(now + after);
        }
        changes.extend(load.end(outcome, now + after, &random));
    }
    // It is avoided so soon that it takes long to have seven.
    let hung = Outcome::Abandoned;
    assert!(changes.is_empty(), "{changes:?}");
    for _ in 0..200 {
        now += Duration::from_secs(60);
        let (which, mut load) = begin(&mut balancer, service, now);
        let outcome = if which == 1 { hung } else { Outcome::Success };
        if which != 1 {
            load.took(now + Duration::from_millis(1));
        }
        changes.extend(load.end(outcome, now + Duration::from_secs(2), &random));
    }
    assert!(!changes.is_empty());
}

/// Requests to both endpoints: many to the first one, that nobody answers and whose client
/// leaves after a minute, and one in three that is `answered`.
fn client_that_leaves(streams: usize, answered: impl Fn(u8) -> bool) -> Vec<Change> {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (service, mut now, mut balancer) = (only(&snapshot), Instant::now(), balancer(0));
    let quick = |balancer: &mut Balancer, now: Instant, answered: &dyn Fn(u8) -> bool| {
        let (which, mut load) = begin(balancer, service, now);
        if answered(which) {
            load.took(now + Duration::from_millis(2));
            let _no_change = load.end(Outcome::Success, now, &random);
        }
    };
    for _ in 0..20 {
        quick(&mut balancer, now, &|_| true);
    }
    let mut silent = Vec::new();
    for _ in 0..streams {
        now += Duration::from_millis(10);
        silent.push(begin(&mut balancer, service, now));
        for _ in 0..2 {
            quick(&mut balancer, now, &answered);
        }
    }
    now += Duration::from_secs(60);
    let leave = |(_, mut load): (u8, InFlight)| load.end(Outcome::Abandoned, now, &random);
    silent.into_iter().filter_map(leave).collect()
}

#[test]
fn a_client_that_leaves_with_its_silent_streams_ejects_nobody() {
    // Each endpoint has answered others meanwhile.
    assert_eq!(client_that_leaves(100, |_| true), []);
    // Nobody else has asked: it left once, however many streams it had.
    assert_eq!(client_that_leaves(100, |_| false), []);
}

#[test]
fn who_gives_up_time_and_again_on_one_that_answers_nobody_was_failed() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (service, mut now, mut balancer) = (only(&snapshot), Instant::now(), balancer(0));
    let mut changes = Vec::new();
    for round in 0..200 {
        // Far apart, so that the first one is tried again.
        now += Duration::from_secs(60);
        let both: Vec<_> = (0..8).map(|_| begin(&mut balancer, service, now)).collect();
        for (which, mut load) in both {
            let hangs = which == 1 && round > 0;
            let (after, outcome) = match hangs {
                true => (Duration::from_secs(2), Outcome::Abandoned),
                false => (Duration::from_millis(1), Outcome::Success),
            };
            if !hangs {
                load.took(now + after);
            }
            changes.extend(load.end(outcome, now + after, &random));
        }
    }
    assert!(!changes.is_empty());
}

#[test]
fn what_becomes_of_a_request_behind_its_client_is_no_longer_wait() {
    let is_ejected = |left: Duration| {
        let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
        let (service, mut now, mut balancer) = (only(&snapshot), Instant::now(), balancer(0));
        let mut changes = Vec::new();
        for round in 0..200 {
            now += Duration::from_secs(60);
            let both: Vec<_> = (0..8).map(|_| begin(&mut balancer, service, now)).collect();
            for (which, mut load) in both {
                let over = now + Duration::from_secs(2);
                let outcome = if which == 1 && round > 0 {
                    load.left(Some(now + left));
                    Outcome::Abandoned
                } else {
                    load.took(now + Duration::from_millis(1));
                    Outcome::Success
                };
                changes.extend(load.end(outcome, over, &random));
            }
        }
        !changes.is_empty()
    };
    assert!(is_ejected(Duration::from_secs(2)));
    assert!(!is_ejected(Duration::from_millis(100)));
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
        let draw = draw(Instant::now());
        let picked = balancer.pick(&candidates, &mut Attempt::default(), draw);
        (picked.is_ok(), count)
    };
    assert_eq!(pick(&mut balancer, ipv6), (false, 0));
    assert_eq!(pick(&mut balancer, CALLED), (true, 1));
}

fn limited(max_requests: u32, retries: u32) -> Arc<Service> {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let mut service = Service::clone(only(&snapshot));
    let mut traffic = Traffic::default();
    traffic.limits.max_requests = max_requests;
    traffic.retry_budget.percent = 0;
    traffic.retry_budget.min_retries.count = retries;
    traffic.retry_budget.min_retries.per = traffic.retry_budget.interval;
    service.traffic = Arc::new(traffic);
    Arc::new(service)
}

#[test]
fn a_request_that_is_tried_again_is_in_flight_once() {
    let (service, now) = (limited(1, 1), Instant::now());
    let (mut balancer, picker) = (balancer(0), Picker::on("n1", None));
    let mut attempt = Attempt::default();
    let mut begin = |attempt: &mut Attempt| {
        let begun = picker.begin(&mut balancer, &service, (attempt, draw(now)));
        Some(begun?.1)
    };
    let mut first = begin(&mut attempt).expect("a place");
    let mut second = begin(&mut attempt).expect("the same");
    second.takes_over(Some(&mut first));
    drop(first);
    // As another one sees it.
    assert!(begin(&mut Attempt::default()).is_none());
    drop(begin(&mut attempt).expect("the same"));
    assert!(begin(&mut Attempt::default()).is_none(), "it was not made");
    drop(second);
    let next = begin(&mut Attempt::default()).expect("a place");
    // Whoever it was: nobody counts for less than none.
    let mut late = begin(&mut attempt).expect("the same");
    drop(next);
    late.takes_over(None);
    assert!(begin(&mut Attempt::default()).is_none());
    drop(late);
    assert!(begin(&mut Attempt::default()).is_some());
}

/// Those of one destination and of another: a place is of the one that was waited for.
#[test]
fn who_waits_for_a_place_has_it_when_it_is_decided_on_anew() {
    let (service, other, now) = (limited(1, 1), limited(1, 1), Instant::now());
    let mut other = Service::clone(&other);
    other.key = crate::model::ServiceKey::new("shop", "other");
    let (other, picker) = (Arc::new(other), Picker::on("n1", None));
    let mut balancer = balancer(0);
    let mut begin = |service: &Arc<Service>, attempt: &mut Attempt| {
        let candidates = picker.candidates(service);
        let begun = balancer.pick(&candidates, attempt, draw(now));
        begun.map(|(_, load)| load)
    };
    let over = |begun: Result<InFlight, Unpicked>| begun.expect_err("it is full");
    let poll = |attempt: &mut Attempt| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        attempt.poll_place(&mut context).is_ready()
    };
    let full = Unpicked::Over(RefuseReason::MaxRequests);
    let first = begin(&service, &mut Attempt::default()).expect("a place");
    let [mut a, mut b, mut c, mut d] = [(); 4].map(|()| Attempt::default());
    for waits in [&mut a, &mut b, &mut c, &mut d] {
        assert_eq!(over(begin(&service, waits)), full);
        assert!(waits.queued().is_some() && waits.is_new() && !poll(waits));
    }
    assert_eq!(over(begin(&service, &mut Attempt::of_copy())), full);
    drop(b);
    drop(first);
    assert!(poll(&mut a) && !poll(&mut c), "in their order");
    assert!(!a.is_held_back() && a.is_decided_anew());
    let newcomer = over(begin(&service, &mut Attempt::default()));
    assert_eq!(newcomer, full, "who comes later does not overtake");
    let placed = begin(&service, &mut a).expect("its place");
    assert!(a.queued().is_none() && a.queued_since().is_some());
    drop(placed);
    // It goes elsewhere by now: its place is the next one's.
    assert!(poll(&mut c) && !poll(&mut d));
    let elsewhere = begin(&other, &mut c).expect("another place");
    assert!(poll(&mut d));
    drop(elsewhere);
    d.leave_queue();
    assert!(
        begin(&service, &mut Attempt::default()).is_ok(),
        "nobody has it"
    );
    // Nobody waits twice.
    let first = begin(&service, &mut Attempt::default()).expect("a place");
    assert_eq!(over(begin(&service, &mut d)), full);
    assert!(d.queued().is_none());
    drop(first);
}

#[test]
fn leave_to_try_again_is_given_back_where_it_does_not_go() {
    let (service, now) = (limited(10, 1), Instant::now());
    let (mut balancer, picker) = (balancer(0), Picker::on("n1", None));
    let mut attempt = Attempt::default();
    assert!(attempt.ask_again(now).is_none(), "it has gone nowhere");
    let begun = picker.begin(&mut balancer, &service, (&mut attempt, draw(now)));
    let (_, load) = begun.expect("one");
    drop(attempt.ask_again(now).expect("leave"));
    let leave = attempt.ask_again(now).expect("leave");
    assert!(attempt.ask_again(now).is_none(), "there is one");
    assert!(leave.goes_to(&load));
    assert!(attempt.ask_again(now).is_none(), "it was used");
    let mut other = Service::clone(&limited(10, 1));
    other.key = crate::model::ServiceKey::new("shop", "other");
    let (other, mut attempt) = (Arc::new(other), Attempt::default());
    let begun = picker.begin(&mut balancer, &other, (&mut attempt, draw(now)));
    let (_, elsewhere) = begun.expect("one");
    let leave = attempt.ask_again(now).expect("leave");
    assert!(!leave.goes_to(&load), "it is of another");
    assert!(
        attempt
            .ask_again(now)
            .is_some_and(|leave| leave.goes_to(&elsewhere))
    );
}
