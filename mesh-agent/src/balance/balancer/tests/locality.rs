//! Endpoints that are near, and others where these are not enough.

use proptest::prelude::*;

use super::*;
use crate::balance::testing::{hinted, in_zone};
use crate::model::traffic::{HashOn, Locality, Prefer};

const BY: [BalanceBy; 4] = [
    BalanceBy::PeakEwma,
    BalanceBy::LeastRequest,
    BalanceBy::RoundRobin,
    BalanceBy::Random,
];

/// Number, node and zone of each.
type Pods<'p> = [(u8, &'p str, &'p str)];

const PODS: [(u8, &str, &str); 4] = [
    (1, "n1", "a"),
    (2, "n2", "a"),
    (3, "n3", "b"),
    (4, "n4", "b"),
];

fn preferring(prefer: Prefer, by: BalanceBy, pods: &Pods<'_>) -> Arc<Service> {
    let one = |(n, node, zone): &(u8, &str, &str)| {
        let plain = endpoint(*n, &n.to_string(), node);
        match prefer {
            // As the controller has it for `PreferSameZone`.
            Prefer::Hinted => hinted(plain, &[], &[zone]),
            Prefer::Nothing | Prefer::Zone | Prefer::Node => in_zone(plain, zone),
        }
    };
    let mut service = Service::clone(&service(pods.iter().map(one).collect(), None));
    let mut traffic = Traffic::default();
    traffic.load_balancer.by = by;
    traffic.load_balancer.locality = Locality {
        prefer,
        ..Locality::default()
    };
    service.traffic = Arc::new(traffic);
    Arc::new(service)
}

/// What came of ten seconds.
struct Came {
    shares: [f64; 10],
    longest: Duration,
}

/// A client of n1 in zone a asks so many times a second; each endpoint serves one after the
/// other, so long each. What comes in the seconds before counts not.
fn ask(
    service: &Arc<Service>,
    (rate, before): (u64, u64),
    takes: &dyn Fn(u8, Duration) -> Duration,
) -> Came {
    let (start, picker) = (Instant::now(), Picker::on("n1", Some("a")));
    let mut balancer = crate::balance::testing::balancer(0, start);
    let (mut free, mut counts) = ([start; 10], [0_u64; 10]);
    let (mut under_way, mut longest) = (Vec::<(Instant, InFlight)>::new(), Duration::ZERO);
    let count = rate * (before + 10);
    for turn in 0..count {
        let now = start + Duration::from_micros(turn * 1_000_000 / rate);
        for (ends, mut load) in under_way.extract_if(.., |(ends, _)| *ends <= now) {
            load.took(ends);
            load.end(Outcome::Success, ends, &random);
        }
        let attempt = (&mut Attempt::default(), draw(now));
        let (which, load) = picker.begin(&mut balancer, service, attempt).expect("one");
        let at = usize::from(which);
        free[at] = free[at].max(now) + takes(which, now - start);
        under_way.push((free[at], load));
        if turn >= rate * before {
            counts[at] += 1;
            longest = longest.max(free[at] - now);
        }
    }
    let all = (rate * 10) as f64;
    Came {
        shares: counts.map(|n| n as f64 / all),
        longest,
    }
}

#[test]
fn the_nearest_have_all_while_they_are_enough() {
    for milliseconds in [1, 10, 80] {
        let quick = |_: u8, _: Duration| Duration::from_millis(milliseconds);
        for by in BY {
            let rate = 400 / milliseconds;
            // Of fifty chance may make much.
            let is_even = |shares: &[f64], part: f64| {
                let is_part = |n: &f64| (n - part).abs() < part * 0.4;
                rate < 10 || shares.iter().all(is_part)
            };
            let of = |prefer| ask(&preferring(prefer, by.clone(), &PODS), (rate, 1), &quick).shares;
            let node = of(Prefer::Node);
            assert!(node[1] > 0.8, "{by:?} {milliseconds} ms: {node:?}");
            for prefer in [Prefer::Zone, Prefer::Hinted] {
                let zone = of(prefer);
                assert!(
                    zone[1] + zone[2] > 0.8,
                    "{by:?} {milliseconds} ms: {zone:?}"
                );
                assert!(is_even(&zone[1..3], 0.5), "{by:?}: {zone:?}");
            }
            let none = of(Prefer::Nothing);
            assert!(is_even(&none[1..5], 0.25), "{by:?}: {none:?}");
        }
    }
}

#[test]
fn a_near_one_that_has_too_much_to_do_gives_away_what_makes_it_slow() {
    let quick = |_: u8, _: Duration| Duration::from_millis(4);
    for by in BY {
        // It would need twice its time.
        let came = ask(
            &preferring(Prefer::Node, by.clone(), &PODS),
            (500, 5),
            &quick,
        );
        let shares = came.shares;
        assert!(
            came.longest < Duration::from_millis(100),
            "{by:?}: {:?}",
            came.longest
        );
        assert!((0.2..0.55).contains(&shares[1]), "{by:?}: {shares:?}");
        // The next are those of its zone.
        assert!(shares[2] > 0.1, "{by:?}: {shares:?}");
        assert!(shares[3] + shares[4] < 0.5, "{by:?}: {shares:?}");
    }
}

#[test]
fn a_near_one_that_is_clearly_slower_gets_little_and_all_when_it_is_quick_again() {
    for by in BY {
        let slow = |which: u8, _: Duration| Duration::from_millis(if which == 1 { 40 } else { 4 });
        let node = preferring(Prefer::Node, by.clone(), &PODS);
        let shares = ask(&node, (40, 5), &slow).shares;
        assert!(shares[1] < 0.1, "{by:?}: {shares:?}");
        let heals = |which: u8, at: Duration| {
            let is_slow = which == 1 && at < Duration::from_secs(1);
            Duration::from_millis(if is_slow { 40 } else { 4 })
        };
        // A peak is forgotten by and by.
        let shares = ask(&node, (40, 40), &heals).shares;
        assert!(shares[1] > 0.95, "{by:?}: {shares:?}");
    }
}

/// Of so many requests, how many went to the first `near` ones; those of `failing` fail.
fn near_share(
    (balancer, picker): (&mut Balancer, &Picker),
    service: &Arc<Service>,
    (near, failing): (u8, &[u8]),
    now: Instant,
) -> f64 {
    let mut count = 0;
    for _ in 0..4_000 {
        let attempt = (&mut Attempt::default(), draw(now));
        let (which, mut load) = picker.begin(balancer, service, attempt).expect("one");
        load.took(now + Duration::from_millis(1));
        let outcome = match failing.contains(&which) {
            true => Outcome::Failure(Failure::Status),
            false => Outcome::Success,
        };
        load.end(outcome, now, &random);
        count += usize::from(which <= near);
    }
    f64::from(u32::try_from(count).expect("few")) / 4_000.0
}

#[test]
fn where_few_of_the_near_ones_are_left_others_get_their_part() {
    let pods: Vec<(u8, &str, &str)> = (1..=8)
        .map(|n| (n, "n2", if n <= 4 { "a" } else { "b" }))
        .collect();
    for prefer in [Prefer::Zone, Prefer::Hinted] {
        let service = preferring(prefer, BalanceBy::PeakEwma, &pods);
        let (mut balancer, now) = (balancer(0), Instant::now());
        let mut picker = Picker::on("n1", Some("a"));
        let mut share = |picker: &Picker, failing: &[u8]| {
            near_share((&mut balancer, picker), &service, (4, failing), now)
        };
        assert!(share(&picker, &[]) > 0.999);
        share(&picker, &[1]);
        assert!(share(&picker, &[]) > 0.999, "three of four are enough");
        share(&picker, &[2]);
        let half = share(&picker, &[]);
        assert!((0.67..0.73).contains(&half), "{half}");
        share(&picker, &[3]);
        let one = share(&picker, &[]);
        assert!((0.32..0.38).contains(&one), "{one}");
        share(&picker, &[4]);
        assert!(
            share(&picker, &[]) < 0.001,
            "the zone is empty, the Service is not"
        );
        // Nobody knows where the client is: then all are alike.
        picker.zone = None;
        let mut anew = crate::balance::testing::balancer(0, now);
        let alike = near_share((&mut anew, &picker), &service, (4, &[]), now);
        assert!((0.45..0.55).contains(&alike), "{alike}");
    }
}

/// No more than half may be left out, and yet none of it goes where it fails.
#[test]
fn a_zone_that_fails_beyond_what_may_be_left_out_is_left_for_one_that_works() {
    let pods = [(1, "n1", "a"), (2, "n2", "a"), (3, "n3", "b")];
    let service = preferring(Prefer::Zone, BalanceBy::PeakEwma, &pods);
    let (mut balancer, now) = (balancer(0), Instant::now());
    let picker = Picker::on("n1", Some("a"));
    let mut share =
        |failing: &[u8], now| near_share((&mut balancer, &picker), &service, (2, failing), now);
    share(&[1, 2], now);
    assert!(share(&[1, 2], now) < 0.001);
    // They heal: one request each shows it.
    let later = now + Duration::from_secs(60);
    share(&[], later);
    assert!(share(&[], later) > 0.999);
}

#[test]
fn a_limit_is_for_all_and_the_near_ones_have_their_share_of_it() {
    let mut service = Service::clone(&preferring(Prefer::Zone, BalanceBy::PeakEwma, &PODS));
    let mut traffic = Traffic::clone(&service.traffic);
    traffic.limits.max_requests = 40;
    service.traffic = Arc::new(traffic);
    let (service, mut balancer) = (Arc::new(service), balancer(0));
    let (picker, now) = (Picker::on("n1", Some("a")), Instant::now());
    let mut held = Vec::new();
    let mut counts = [0; 5];
    for _ in 0..40 {
        let attempt = (&mut Attempt::default(), draw(now));
        let (which, load) = picker.begin(&mut balancer, &service, attempt).expect("one");
        counts[usize::from(which)] += 1;
        held.push(load);
    }
    // One and a half times ten each, and the rest beyond.
    assert!(counts[1] + counts[2] <= 31, "{counts:?}");
    assert!(counts[1] + counts[2] >= 20, "{counts:?}");
}

/// A pool of connections, streams that are silent: who is answered waits for nothing.
#[test]
fn what_is_held_and_answered_sends_nobody_far() {
    for by in BY {
        for kind in [Kind::Connection, Kind::Request] {
            let service = preferring(Prefer::Zone, by.clone(), &PODS);
            let (mut balancer, now) = (balancer(0), Instant::now());
            let picker = Picker::on("n1", Some("a"));
            let (mut held, mut near) = (Vec::new(), 0);
            for _ in 0..400 {
                let draw = Draw { kind, ..draw(now) };
                let attempt = (&mut Attempt::default(), draw);
                let (which, mut load) =
                    picker.begin(&mut balancer, &service, attempt).expect("one");
                answered(&mut load, now + Duration::from_millis(1));
                near += usize::from(which <= 2);
                held.push(load);
            }
            assert!(near >= 390, "{by:?} {kind:?}: {near} of 400");
        }
    }
}

#[test]
fn a_key_keeps_its_endpoint_and_has_one_that_is_near() {
    let by = BalanceBy::ConsistentHash(HashOn::SourceIp);
    let pods: Vec<(u8, &str, &str)> = (1..=8)
        .map(|n| (n, "n2", if n <= 4 { "a" } else { "b" }))
        .collect();
    let service = preferring(Prefer::Zone, by, &pods);
    let (mut balancer, now) = (balancer(0), Instant::now());
    let of = |balancer: &mut Balancer| -> Vec<u8> {
        (0..200)
            .map(|n| {
                let picker = Picker::on("n1", Some("a")).pod(&format!("pod-{n}"));
                let attempt = (&mut Attempt::default(), draw(now));
                picker.begin(balancer, &service, attempt).expect("one").0
            })
            .collect()
    };
    let before = of(&mut balancer);
    assert!(before.iter().all(|which| *which <= 4), "{before:?}");
    // However much its endpoint has to do.
    let held: Vec<_> = (0..500)
        .map(|_| begin(&mut balancer, &service, now))
        .collect();
    assert_eq!(of(&mut balancer), before);
    drop(held);
}

#[test]
fn what_a_place_earns_is_told_with_why() {
    let service = preferring(Prefer::Zone, BalanceBy::PeakEwma, &PODS);
    let (mut balancer, now) = (balancer(0), Instant::now());
    let picker = Picker::on("n1", Some("a"));
    let health = balancer.health.clone();
    let told = |now| -> Vec<String> {
        let portions = health.portions(&picker.candidates(&service), now);
        let one = |(at, of): &(usize, crate::balance::Portion)| {
            format!("{} {} {:.0} {}", at + 1, of.place, of.percent, of.why)
        };
        portions.iter().map(one).collect()
    };
    assert_eq!(told(now), [] as [&str; 0], "nobody has used it");
    near_share((&mut balancer, &picker), &service, (2, &[]), now);
    let enough = "nearer ones are enough";
    assert_eq!(
        told(now),
        [
            "1 zone 50 preferred".to_owned(),
            "2 zone 50 preferred".to_owned(),
            format!("3 farther 0 {enough}"),
            format!("4 farther 0 {enough}"),
        ]
    );
    near_share((&mut balancer, &picker), &service, (2, &[1]), now);
    assert_eq!(
        told(now),
        [
            "2 zone 70 preferred, and 1 of 2 work",
            "3 farther 15 1 of 2 nearer ones work",
            "4 farther 15 1 of 2 nearer ones work",
        ]
    );
    // The one that is left takes long.
    let slow = now + Duration::from_millis(200);
    for _ in 0..100 {
        let attempt = (&mut Attempt::default(), draw(now));
        let picked = picker.begin(&mut balancer, &service, attempt);
        let (which, mut load) = picked.expect("one");
        answered(&mut load, if which == 2 { slow } else { now });
    }
    let told = told(slow);
    assert!(
        told[0].contains("times the load of a farther one"),
        "{told:?}"
    );
    assert!(
        told[1].contains("nearer ones have too much to do"),
        "{told:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Whatever is near: somebody is picked, nobody that is farther than the nearest while that
    /// has little to do, and a retry goes to the nearest that was not tried.
    #[test]
    fn nobody_goes_far_for_nothing(
        places in prop::collection::vec((0_usize..3, 0_usize..3), 1..9),
        prefer in prop_oneof![
            Just(Prefer::Node), Just(Prefer::Zone), Just(Prefer::Nothing), Just(Prefer::Hinted)
        ],
        by in 0_usize..4,
    ) {
        let pods: Vec<(u8, &str, &str)> = (1..)
            .zip(&places)
            .map(|(n, (node, zone))| (n, ["n1", "n2", "n3"][*node], ["a", "b", "c"][*zone]))
            .collect();
        let service = preferring(prefer, BY[by].clone(), &pods);
        let (mut balancer, now) = (balancer(0), Instant::now());
        let picker = Picker::on("n1", Some("a"));
        let distance = |which: u8| {
            let candidates = picker.candidates(&service);
            candidates.distance(&service.ports[0].endpoints[usize::from(which) - 1])
        };
        let least = pods.iter().map(|(n, ..)| distance(*n)).min();
        for _ in 0..50 {
            let mut attempt = Attempt::default();
            let begun = picker.begin(&mut balancer, &service, (&mut attempt, draw(now)));
            let (first, mut load) = begun.expect("one");
            load.took(now + Duration::from_millis(1));
            prop_assert_eq!(Some(distance(first)), least);
            let second = picker.pick(&mut balancer, &service, (&mut attempt, now)).expect("one");
            let rest = pods.iter().map(|(n, ..)| *n).filter(|n| *n != first);
            let next = rest.map(distance).min();
            prop_assert_eq!(next.map(|_| distance(second)), next);
        }
    }
}
