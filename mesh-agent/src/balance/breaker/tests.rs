use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

fn middle(limit: u64) -> u64 {
    limit / 2
}

fn nothing(_: u64) -> u64 {
    0
}

const FAILED: (Failure, bool) = (Failure::Status, false);

#[test]
fn seven_failures_of_requests_in_a_row_and_five_of_connections() {
    for (kind, most) in [(Kind::Request, 7), (Kind::Connection, 5)] {
        let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
        let by = (&of, kind, false);
        for _ in 1..most {
            assert_eq!(breaker.failed(by, FAILED, 0, &nothing), None);
        }
        breaker.succeeded(by, 0);
        for _ in 1..most {
            assert_eq!(breaker.failed(by, FAILED, 0, &nothing), None);
        }
        assert_eq!(
            breaker.failed(by, FAILED, 0, &nothing),
            Some(Change::Ejected {
                cause: Cause::InARow,
                failure: FAILED.0,
                lasts: Duration::from_secs(1)
            })
        );
    }
}

/// Why who picks does not spare an endpoint before its breaker is open: what it did well
/// before goes out of the window, and fewer failures are too large a share.
#[test]
fn one_that_fails_and_is_hardly_asked_is_ejected_after_fewer_failures() {
    let failures = |pause: u64| {
        let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
        let by = (&of, Kind::Request, false);
        for request in 0..50 {
            breaker.succeeded(by, 800 + request * 6);
        }
        let mut now = 1_100;
        for failures in 1.. {
            if let Some(Change::Ejected { cause, .. }) = breaker.failed(by, FAILED, now, &nothing) {
                return (failures, cause);
            }
            now += pause;
        }
        unreachable!()
    };
    assert_eq!(failures(2), (7, Cause::InARow));
    let (seldom, cause) = failures(1_800);
    assert!(seldom < 7 && cause == Cause::SuccessRate, "{seldom}");
}

#[test]
fn a_probe_that_nobody_had_room_for_is_put_off_and_is_no_failure() {
    let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
    let by = (&of, Kind::Request, false);
    assert!(!breaker.put_off(&of, 0, &nothing), "it is closed");
    for _ in 0..7 {
        breaker.failed(by, FAILED, 0, &nothing);
    }
    assert!(breaker.probe(&of, 1_000));
    assert!(breaker.put_off(&of, 1_200, &nothing));
    assert_eq!(
        (breaker.word().phase, breaker.word().at),
        (Phase::Open, 2_200)
    );
    assert_eq!(breaker.failed_probes(), 0);
    assert!(!breaker.probe(&of, 2_199) && breaker.probe(&of, 2_200));
    let back = breaker.succeeded((&of, Kind::Request, true), 2_201);
    assert_eq!(back, Some(Change::Returned));
}

#[test]
fn less_than_four_of_five_of_at_least_twenty_within_ten_seconds() {
    less_than_four_of_five(Kind::Request);
    less_than_four_of_five(Kind::Connection);
}

fn less_than_four_of_five(kind: Kind) {
    let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
    let by = (&of, kind, false);
    // 3 of 4: too few, but nothing is concluded of 19.
    let mut change = None;
    for request in 1..=20 {
        assert_eq!(change, None, "after {request}");
        change = match request % 4 {
            0 => breaker.failed(by, FAILED, request * 100, &nothing),
            _ => breaker.succeeded(by, request * 100),
        };
    }
    assert!(
        matches!(
            change,
            Some(Change::Ejected {
                cause: Cause::SuccessRate,
                ..
            })
        ),
        "{change:?}"
    );
    // The same, but slower: never 20 within the interval.
    let breaker = Breaker::new(0);
    for request in 1..=100 {
        let at = request * 1_000;
        let change = match request % 4 {
            0 => breaker.failed(by, FAILED, at, &nothing),
            _ => breaker.succeeded(by, at),
        };
        assert_eq!(change, None, "after {request}");
    }
}

#[test]
fn a_probe_that_fails_doubles_the_time_up_to_a_minute() {
    let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
    let eject = || {
        let failing = (0..7)
            .filter_map(|_| breaker.failed((&of, Kind::Request, false), FAILED, 100, &middle));
        failing.last()
    };
    assert!(eject().is_some());
    let mut lasted = vec![];
    for _ in 0..9 {
        let at = breaker.word().at;
        assert!(!breaker.probe(&of, at - 1), "not before its time");
        assert!(breaker.probe(&of, at));
        assert!(!breaker.probe(&of, at), "one alone");
        let change = breaker.failed((&of, Kind::Request, true), FAILED, at, &nothing);
        match change {
            Some(Change::StillFailing { lasts, .. }) => lasted.push(lasts.as_secs()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lasted, [2, 4, 8, 16, 32, 60, 60, 60, 60]);
    let at = breaker.word().at;
    assert!(breaker.probe(&of, at));
    let back = breaker.succeeded((&of, Kind::Request, true), at);
    assert_eq!(back, Some(Change::Returned));
    assert!(breaker.is_closed());
}

#[test]
fn one_that_fails_soon_after_it_came_back_is_left_out_sooner_and_longer() {
    let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
    let by = (&of, Kind::Request, false);
    let mut now = 20_000;
    let fail = |times: usize, now| {
        (0..times)
            .filter_map(|_| breaker.failed(by, FAILED, now, &nothing))
            .last()
    };
    assert!(fail(7, now).is_some());
    now = breaker.word().at;
    assert!(breaker.probe(&of, now));
    breaker.succeeded((&of, Kind::Request, true), now);
    // Half of five.
    breaker.succeeded(by, now);
    breaker.succeeded(by, now);
    let change = fail(3, now + 1);
    assert!(
        matches!(change, Some(Change::Ejected { cause: Cause::SuccessRate, lasts, .. }) if lasts.as_secs() == 2),
        "{change:?}"
    );
    now = breaker.word().at;
    for more in [Some(4), Some(3), Some(2), Some(1), None] {
        assert!(breaker.probe(&of, now));
        assert!(!breaker.probe(&of, now), "one alone");
        let works = more.map_or(Change::Returned, |more| Change::Works { more });
        let change = breaker.succeeded((&of, Kind::Request, true), now);
        assert_eq!(change, Some(works));
    }
    assert!(breaker.is_closed());
    // For long enough it worked.
    let change = fail(7, now + 10_001);
    assert!(
        matches!(change, Some(Change::Ejected { lasts, .. }) if lasts.as_secs() == 1),
        "{change:?}"
    );
}

/// Nobody is asked twice of what may be seen once: it is asked less often.
#[test]
fn probes_that_are_their_clients_loss_are_fewer() {
    let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
    let by = |is_probe| (&of, Kind::Connection, is_probe);
    let lost = (Failure::Silent, true);
    for _ in 0..5 {
        breaker.failed(by(false), lost, 0, &nothing);
    }
    let mut lasted = vec![];
    for _ in 0..5 {
        lasted.push(breaker.lasts(&of).as_secs());
        let at = breaker.word().at;
        assert!(breaker.probe(&of, at));
        breaker.failed(by(true), lost, at, &nothing);
    }
    assert_eq!(lasted, [1, 4, 16, 32, 60]);
}

/// One that fails every second time, and one that does by chance.
#[test]
fn what_fails_in_part_does_not_come_back_by_luck() {
    let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
    let by = |is_probe| (&of, Kind::Request, is_probe);
    for turn in 0..20 {
        match turn % 2 {
            0 => breaker.succeeded(by(false), 0),
            _ => breaker.failed(by(false), FAILED, 0, &nothing),
        };
    }
    assert_eq!(breaker.cause().0, Cause::SuccessRate);
    let mut turn = 0;
    for _ in 0..20 {
        let now = breaker.word().at;
        assert!(breaker.probe(&of, now), "it is tried on");
        turn += 1;
        match turn % 2 {
            0 => breaker.failed(by(true), FAILED, now, &nothing),
            _ => breaker.succeeded(by(true), now),
        };
        assert!(!breaker.is_closed(), "after {turn}");
    }
}

#[test]
fn nothing_is_ejected_where_it_is_off() {
    let of = OutlierDetection {
        is_on: false,
        ..OutlierDetection::default()
    };
    let breaker = Breaker::new(0);
    for now in 0..1_000 {
        let by = (&of, Kind::Request, false);
        assert_eq!(breaker.failed(by, FAILED, now, &nothing), None);
    }
    assert!(breaker.is_closed());
}

/// As the documentation has it, with no word packed and nothing shared.
struct Model {
    of: OutlierDetection,
    /// Since when, and how often in a row.
    closed_since: u64,
    times: u32,
    open_until: Option<u64>,
    is_probed: bool,
    /// For a share of failures; and probes in a row that worked.
    by_share: bool,
    good: u32,
    /// Requests that failed, and what was not reached or lost.
    in_a_row: [u32; 2],
    told: Vec<(u64, bool)>,
}

/// What becomes of one that is asked.
#[derive(Clone, Copy)]
struct Asked {
    kind: Kind,
    /// `None`: it succeeds.
    failed: Option<(Failure, bool)>,
}

impl Model {
    fn lasts(&self, times: u32) -> u64 {
        let base = self.of.base_ejection_time.as_millis() as u64;
        let most = self.of.max_ejection_time.as_millis() as u64;
        base.saturating_mul(1 << (times.max(1) - 1).min(40))
            .min(most.max(base))
    }

    fn ask(&mut self, Asked { kind, failed }: Asked, now: u64) {
        let is_probe = std::mem::take(&mut self.is_probed);
        let ok = failed.is_none();
        self.told.push((now, ok));
        let is_request = kind == Kind::Request;
        let counts = match failed {
            None => [false; 2],
            Some((Failure::Status | Failure::Timeout | Failure::Silent, _)) => {
                [is_request, !is_request]
            }
            Some((Failure::Connect | Failure::Tls | Failure::Reset, _)) => [is_request, true],
        };
        for (row, counts) in self.in_a_row.iter_mut().zip(counts) {
            *row = if ok { 0 } else { *row + u32::from(counts) };
        }
        match (self.open_until, is_probe, ok) {
            (Some(_), true, true) if self.by_share && self.good < 4 => {
                self.good += 1;
                self.open_until = Some(now);
            }
            (Some(_), true, true) => {
                self.open_until = None;
                self.closed_since = now;
                self.told.clear();
            }
            (Some(_), true, false) => {
                let is_loss = failed.is_some_and(|(_, is_loss)| is_loss);
                let is_soon = self.lasts(self.times) < 8_000;
                self.times += if is_loss && is_soon { 2 } else { 1 };
                self.open_until = Some(now + self.lasts(self.times));
                (self.in_a_row, self.good) = ([0; 2], 0);
            }
            (Some(_), false, _) | (None, _, true) => {}
            (None, _, false) => {
                let rate = self.of.success_rate.expect("a rate");
                let slot = rate.interval.as_millis() as u64 / 10;
                let late = self
                    .told
                    .iter()
                    .filter(|(at, _)| now / slot - at / slot < 10);
                let (all, good) = late.fold((0, 0), |(all, good), (_, ok)| {
                    (all + 1, good + u32::from(*ok))
                });
                let closed = now - self.closed_since;
                let volume = match self.times > 0 && closed < 10_000 {
                    true => rate.request_volume.div_ceil(4),
                    false => rate.request_volume,
                };
                let most = [
                    self.of.consecutive_errors,
                    self.of.consecutive_local_origin_failures,
                ];
                let most = most.map(|most| most.expect("some").get());
                let in_a_row = [0, 1].iter().any(|of| self.in_a_row[*of] >= most[*of]);
                let too_few = all >= volume && good * 100 < all * rate.threshold_percent;
                if in_a_row || too_few {
                    let well = closed > (2 * self.lasts(self.times)).max(10_000);
                    self.times = if well { 1 } else { self.times + 1 };
                    self.open_until = Some(now + self.lasts(self.times));
                    (self.in_a_row, self.good) = ([0; 2], 0);
                    self.by_share = !in_a_row;
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_documentation_says(
        steps in prop::collection::vec(
            (0_u64..3_000, 0_u8..10, 0_u8..6, any::<[bool; 2]>()),
            1..400,
        ),
        share in 0_u8..10,
        [most, most_local] in prop::array::uniform2(2_u32..9),
    ) {
        let of = OutlierDetection {
            consecutive_errors: NonZeroU32::new(most),
            consecutive_local_origin_failures: NonZeroU32::new(most_local),
            ..OutlierDetection::default()
        };
        let breaker = Breaker::new(0);
        let mut model = Model {
            of, closed_since: 0, times: 0, open_until: None, is_probed: false,
            in_a_row: [0; 2], told: vec![], by_share: false, good: 0,
        };
        let mut now = 0;
        for (pause, luck, failure, [is_request, is_loss]) in steps {
            now += pause / 10;
            let expected = model.open_until.is_some_and(|until| now >= until);
            let is_probe = breaker.probe(&of, now);
            prop_assert_eq!(is_probe, expected);
            model.is_probed = is_probe;
            let kind = if is_request { Kind::Request } else { Kind::Connection };
            let failed = (luck < share).then(|| (Failure::of(failure), is_loss));
            let by = (&of, kind, is_probe);
            match failed {
                None => breaker.succeeded(by, now),
                Some(failed) => breaker.failed(by, failed, now, &nothing),
            };
            model.ask(Asked { kind, failed }, now);
            prop_assert_eq!(!breaker.is_closed(), model.open_until.is_some());
            if let Some(until) = model.open_until {
                prop_assert_eq!(breaker.word().at, until);
            }
        }
    }
}

/// What answers as many as it has to comes back as soon, whatever that share is.
#[test]
fn how_many_probes_have_to_succeed_goes_by_the_share_that_has_to() {
    for (threshold_percent, probes) in
        [(1, 1), (30, 1), (50, 1), (60, 2), (70, 3), (80, 5), (99, 5)]
    {
        let mut of = OutlierDetection::default();
        let rate = of.success_rate.as_mut().expect("it is on");
        rate.threshold_percent = threshold_percent;
        of.consecutive_errors = None;
        let breaker = Breaker::new(0);
        let failed =
            (0..20).find_map(|_| breaker.failed((&of, Kind::Request, false), FAILED, 0, &nothing));
        assert!(failed.is_some(), "{threshold_percent} %");
        let by = (&of, Kind::Request, true);
        let works = (0..probes).map(|n| {
            assert!(breaker.probe(&of, 1_000 + n));
            breaker.succeeded(by, 1_000 + n)
        });
        let last = works.last().flatten();
        assert_eq!(last, Some(Change::Returned), "{threshold_percent} %");
    }
}
