//! A try beside another one of the same request.

use super::*;
use crate::model::{RefuseReason, Snapshot};

const MS: Duration = Duration::from_millis(1);

/// The first try of a request, and where it went.
fn first(balancer: &mut Balancer, service: &Arc<Service>, now: Instant) -> (Attempt, u8, InFlight) {
    let mut attempt = Attempt::default();
    let picked = Picker::on("n1", None).begin(balancer, service, (&mut attempt, draw(now)));
    let (at, load) = picked.expect("one");
    (attempt, at, load)
}

fn beside(
    balancer: &mut Balancer,
    service: &Arc<Service>,
    (attempt, now): (&mut Attempt, Instant),
) -> Option<(u8, InFlight)> {
    Picker::on("n1", None).begin(balancer, service, (attempt, draw(now)))
}

#[test]
fn it_goes_elsewhere_by_leave_of_the_budget_and_has_a_place_of_its_own() {
    let (mut balancer, now) = (balancer(0), Instant::now());
    let service = limited(2, 1);
    let (attempt, at, load) = first(&mut balancer, &service, now);
    assert!(attempt.may_be_hedged());
    let mut second = attempt.beside();
    let leave = second.ask_beside(now).expect("one is left");
    assert!(attempt.beside().ask_beside(now).is_none(), "of one");
    let (other, its_load) =
        beside(&mut balancer, &service, (&mut second, now)).expect("a place is left");
    assert_ne!(other, at);
    assert!(!second.is_repeated() && leave.goes_to(&its_load));
    // A third would be a try beside a second, and has no place.
    assert!(!second.may_be_hedged());
    let third = Picker::on("n1", None);
    let candidates = third.candidates(&service);
    let mut asked = attempt.beside();
    let _over = asked.ask_beside(now);
    let picked = balancer.pick(&candidates, &mut asked, draw(now));
    assert_eq!(
        picked.err(),
        Some(Unpicked::Over(RefuseReason::MaxRequests)),
        "it does not wait"
    );
    drop((its_load, load));
    let again = first(&mut balancer, &service, now);
    let both = first(&mut balancer, &service, now);
    drop((again, both));
}

#[test]
fn where_there_is_one_endpoint_there_is_no_other_to_ask() {
    let snapshot = snapshot(1, &[(1, "a")]);
    let (mut balancer, now) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let (attempt, _, _load) = first(&mut balancer, service, now);
    let mut second = attempt.beside();
    let leave = second.ask_beside(now);
    let _picked = beside(&mut balancer, service, (&mut second, now));
    assert!(leave.is_some() && second.is_repeated());
}

/// However often that is, and however long it would have taken.
#[test]
fn one_that_is_cancelled_has_neither_failed_nor_worked_and_is_known_to_be_slow() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let (mut slow, mut now) = (0, start);
    for _ in 0..1_000 {
        let (_, which, mut load) = first(&mut balancer, service, now);
        if which == 1 {
            slow += 1;
            now += 50 * MS;
            load.gave_way(now);
            // Whatever is told of it then.
            assert_eq!(
                load.end(Outcome::Failure(Failure::Reset), now, &random),
                None
            );
        } else {
            now += MS;
            load.took(now);
            assert_eq!(load.end(Outcome::Success, now, &random), None);
        }
    }
    // It is avoided, and looked at again now and then.
    assert!((1..20).contains(&slow), "{slow}");
}

/// One that gave way at once was not quick.
#[test]
fn a_cancelled_one_is_no_quicker_for_that() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let mut both = [(); 2].map(|()| first(&mut balancer, service, start));
    assert_ne!(both[0].1, both[1].1);
    both.iter_mut()
        .for_each(|(_, _, load)| answered(load, start + 100 * MS));
    drop(both);
    for _ in 0..100 {
        let (_, which, mut load) = first(&mut balancer, service, start + 100 * MS);
        match which {
            1 => load.gave_way(start + 101 * MS),
            _ => load.took(start + 200 * MS),
        }
    }
    let [_, one, other, _] = shares(&mut balancer, service, start + 101 * MS);
    assert!((300..700).contains(&one), "{one} {other}");
}

/// Whose client was quicker served elsewhere for another reason than its silence.
#[test]
fn a_probe_that_is_cancelled_is_followed_by_another() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    assert!(
        !fail(&mut balancer, service, 1, start).is_empty(),
        "it is ejected"
    );
    let now = start + Duration::from_secs(2);
    let (_, which, mut probe) = first(&mut balancer, service, now);
    assert!(which == 1 && probe.is_probe());
    let (_, other, _) = first(&mut balancer, service, now);
    assert_eq!(other, 2, "one at a time");
    probe.gave_way(now + 50 * MS);
    let (_, which, next) = first(&mut balancer, service, now + 50 * MS);
    assert!(which == 1 && next.is_probe());
}

/// It was given a hundred times what the other takes, and the other has answered the same.
#[test]
fn a_probe_that_is_outrun_has_failed_and_one_of_a_slow_request_has_not() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    assert!(!fail(&mut balancer, service, 1, start).is_empty());
    let mut now = start + Duration::from_secs(2);
    let (_, which, mut probe) = first(&mut balancer, service, now);
    assert!(which == 1 && probe.is_probe());
    let given = probe.patience().expect("it is waited for");
    assert_eq!(probe.timeouts().connect, Some(given));
    // As long as it was given the other one took as well: it is another kind of request.
    now += given * 2 + MS;
    assert_eq!(probe.was_outrun(now, &random), None);
    let (_, which, mut probe) = first(&mut balancer, service, now);
    assert!(which == 1 && probe.is_probe());
    let given = probe.patience().expect("it is waited for");
    now += given + MS;
    let change = probe.was_outrun(now, &random);
    assert!(
        matches!(
            change,
            Some(Change::StillFailing {
                failure: Failure::Silent,
                ..
            })
        ),
        "{change:?}"
    );
    let (_, which, other) = first(&mut balancer, service, now);
    assert_eq!((which, other.patience()), (2, None));
}

/// Two that have answered, and of each of `silent` somebody lost what it asked after a second.
fn doubted(silent: &[u8], start: Instant) -> (Balancer, Snapshot, Instant) {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, service) = (balancer(0), only(&snapshot).clone());
    let mut both = [(); 2].map(|()| first(&mut balancer, &service, start));
    for (_, _, load) in &mut both {
        load.took(start + 2 * MS);
        assert_eq!(load.end(Outcome::Success, start + 2 * MS, &random), None);
    }
    drop(both);
    let (asked, now) = (start + 100 * MS, start + 1_200 * MS);
    let both = [(); 2].map(|()| first(&mut balancer, &service, asked));
    for (_, which, mut load) in both {
        if silent.contains(&which) {
            let lost = Outcome::Failure(Failure::Reset);
            assert_eq!(load.end(lost, now, &random), None);
        }
    }
    (balancer, snapshot, now)
}

/// As where an agent starts anew that has all of them: nobody else is known to answer.
#[test]
fn where_others_are_as_doubtful_nobody_is_given_up_sooner() {
    let (mut balancer, snapshot, now) = doubted(&[1, 2], Instant::now());
    let (_, _, load) = first(&mut balancer, only(&snapshot), now);
    assert_eq!((load.patience(), load.timeouts().connect), (None, None));
}

/// It may be far away: it is not ejected, and a session would move for good.
#[test]
fn a_connection_to_one_that_is_not_ejected_is_waited_for_as_the_policy_says() {
    let (mut balancer, snapshot, now) = doubted(&[1], Instant::now());
    for kind in [Kind::Request, Kind::Connection] {
        let mut seen = 0;
        for second in 0..200 {
            let draw = Draw {
                kind,
                ..draw(now + Duration::from_secs(second))
            };
            let attempt = (&mut Attempt::default(), draw);
            let picked = Picker::on("n1", None).begin(&mut balancer, only(&snapshot), attempt);
            let (which, mut load) = picked.expect("one");
            if which == 1 {
                seen += 1;
                assert_eq!(load.timeouts().connect, None, "{kind:?}");
                assert!(load.patience().is_some(), "{kind:?}");
            } else {
                load.took(draw.now + 2 * MS);
            }
        }
        assert!(seen > 0, "{kind:?}");
    }
}

/// Their deadline is shorter than what counts as long.
#[test]
fn one_that_hangs_is_avoided_however_soon_its_clients_leave() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, mut now) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    let mut hung = 0;
    for _ in 0..100 {
        let (_, which, mut load) = first(&mut balancer, service, now);
        let (took, outcome) = match which {
            1 => (900 * MS, Outcome::Abandoned),
            _ => (2 * MS, Outcome::Success),
        };
        now += took;
        hung += usize::from(which == 1);
        if which == 2 {
            load.took(now);
        }
        assert_eq!(load.end(outcome, now, &random), None);
    }
    assert!((1..10).contains(&hung), "{hung} of 100");
}

/// Else the next one would be its probe at once, and lose as much.
#[test]
fn a_probe_whose_client_has_little_time_has_failed_when_that_is_over() {
    let snapshot = snapshot(1, &[(1, "a"), (2, "b")]);
    let (mut balancer, start) = (balancer(0), Instant::now());
    let service = only(&snapshot);
    assert!(!fail(&mut balancer, service, 1, start).is_empty());
    let now = start + Duration::from_secs(2);
    let (_, which, mut probe) = first(&mut balancer, service, now);
    assert!(which == 1 && probe.is_probe());
    // It left before anybody could tell.
    let (left, then) = (Outcome::Abandoned, now + 50 * MS);
    assert_eq!(probe.end(left, then, &random), None);
    let (_, which, mut probe) = first(&mut balancer, service, then);
    assert!(which == 1 && probe.is_probe());
    let change = probe.end(left, then + 900 * MS, &random);
    assert!(
        matches!(change, Some(Change::StillFailing { .. })),
        "{change:?}"
    );
}
