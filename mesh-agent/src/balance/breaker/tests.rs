use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

fn middle(limit: u64) -> u64 {
    limit / 2
}

fn nothing(_: u64) -> u64 {
    0
}

const FAILED: Failure = Failure::Status;

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
                failure: FAILED,
                lasts: Duration::from_secs(1)
            })
        );
    }
}

#[test]
fn less_than_four_of_five_requests_of_at_least_twenty_within_ten_seconds() {
    let (of, breaker) = (OutlierDetection::default(), Breaker::new(0));
    let by = (&of, Kind::Request, false);
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
    assert!(breaker.probe(&of, now));
    breaker.succeeded((&of, Kind::Request, true), now);
    // For long enough it worked.
    let change = fail(7, now + 10_001);
    assert!(
        matches!(change, Some(Change::Ejected { lasts, .. }) if lasts.as_secs() == 1),
        "{change:?}"
    );
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
    in_a_row: u32,
    told: Vec<(u64, bool)>,
}

impl Model {
    fn lasts(&self, times: u32) -> u64 {
        let base = self.of.base_ejection_time.as_millis() as u64;
        let most = self.of.max_ejection_time.as_millis() as u64;
        base.saturating_mul(1 << (times.max(1) - 1).min(40))
            .min(most.max(base))
    }

    fn request(&mut self, ok: bool, now: u64) {
        let is_probe = std::mem::take(&mut self.is_probed);
        self.told.push((now, ok));
        self.in_a_row = if ok { 0 } else { self.in_a_row + 1 };
        match (self.open_until, is_probe, ok) {
            (Some(_), true, true) => {
                self.open_until = None;
                self.closed_since = now;
                self.told.clear();
            }
            (Some(_), true, false) => {
                self.times += 1;
                self.open_until = Some(now + self.lasts(self.times));
                self.in_a_row = 0;
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
                let in_a_row = self.in_a_row >= self.of.consecutive_errors.expect("some").get();
                let too_few = all >= volume && good * 100 < all * rate.threshold_percent;
                if in_a_row || too_few {
                    let well = closed > (2 * self.lasts(self.times)).max(10_000);
                    self.times = if well { 1 } else { self.times + 1 };
                    self.open_until = Some(now + self.lasts(self.times));
                    self.in_a_row = 0;
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn it_does_what_the_documentation_says(
        steps in prop::collection::vec((0_u64..3_000, 0_u8..10), 1..400),
        share in 0_u8..10,
        most in 2_u32..9,
    ) {
        let of = OutlierDetection {
            consecutive_errors: NonZeroU32::new(most),
            ..OutlierDetection::default()
        };
        let breaker = Breaker::new(0);
        let mut model = Model {
            of, closed_since: 0, times: 0, open_until: None, is_probed: false,
            in_a_row: 0, told: vec![],
        };
        let mut now = 0;
        for (pause, luck) in steps {
            now += pause / 10;
            let expected = model.open_until.is_some_and(|until| now >= until);
            let is_probe = breaker.probe(&of, now);
            prop_assert_eq!(is_probe, expected);
            model.is_probed = is_probe;
            let (ok, by) = (luck >= share, (&of, Kind::Request, is_probe));
            if ok {
                breaker.succeeded(by, now);
            } else {
                breaker.failed(by, FAILED, now, &nothing);
            }
            model.request(ok, now);
            prop_assert_eq!(!breaker.is_closed(), model.open_until.is_some());
            if let Some(until) = model.open_until {
                prop_assert_eq!(breaker.word().at, until);
            }
        }
    }
}
