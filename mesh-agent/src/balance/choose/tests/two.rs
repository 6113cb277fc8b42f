//! Of two that are drawn: compared with what the documentation says, told once more in the
//! plainest way, with the same draws.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::balance::outcome::Failure;
use crate::model::traffic::OutlierDetection;

/// An endpoint as a case has it; times in ms.
#[derive(Clone, Debug)]
struct One {
    /// What it last took, in us, and how long ago that was. `None`: nobody has asked it.
    told: Option<(u32, u64)>,
    in_flight: u32,
    age: u64,
    /// It failed seven times in a row just now, and is used all the same.
    is_open: bool,
    /// How long ago it last refused what it was asked.
    refused: Option<u64>,
}

impl One {
    fn state(&self, endpoint: &Endpoint) -> Arc<State> {
        let state = State::new(endpoint, NOW - self.age);
        if let Some((took, ago)) = self.told {
            state.latency.note(took as f32 / 1e6, NOW - ago);
        }
        state.pending.store(self.in_flight, Ordering::Relaxed);
        if self.is_open {
            let of = OutlierDetection::default();
            let by = (&of, Kind::Request, false);
            for _ in 0..7 {
                let _change = state
                    .breaker
                    .failed(by, (Failure::Status, false), NOW, &|_| 0);
            }
        }
        if let Some(ago) = self.refused {
            state.aside.refused(NOW - ago);
        }
        Arc::new(state)
    }

    /// What is supposed to be its latency, in seconds, and how old that is, in ms. What
    /// nobody has asked is taken for 30 ms when it comes.
    fn known(&self) -> (f64, u64) {
        let told = self.told.map(|(took, ago)| (f64::from(took) / 1e6, ago));
        told.unwrap_or((0.03, self.age))
    }

    /// What is quicker than 2 ms (a connection: 100 ms) is as good.
    fn cost(&self, by: &BalanceBy, kind: Kind) -> f64 {
        let one = match (by, kind) {
            (BalanceBy::LeastRequest, _) => 1.0,
            (_, Kind::Request) => self.late().max(0.002),
            (_, Kind::Connection) => self.late().max(0.1),
        };
        one * f64::from(self.in_flight + 1)
    }

    /// About a third of it is left after ten seconds without news.
    fn late(&self) -> f64 {
        let (seconds, age) = self.known();
        seconds * (-(age as f64) / 10_000.0).exp()
    }

    /// Others are asked first: it fails, or it refused within the last second.
    fn is_passed_by(&self) -> bool {
        self.is_open || self.refused.is_some_and(|ago| ago < 1_000)
    }

    /// One that came, or opened, just now is to be warmed up.
    fn warms_for(&self) -> u64 {
        if self.is_open { 0 } else { self.age }
    }

    /// One more request is to look at it: there was none, or none for ten times as long
    /// as that took (0.1 s to 10 s), and none is under way.
    fn is_to_be_looked_at(&self, by: &BalanceBy) -> bool {
        let (seconds, age) = self.known();
        let is_old = age as f64 >= (seconds * 10_000.0).clamp(100.0, 10_000.0);
        *by == BalanceBy::PeakEwma && self.in_flight == 0 && (self.told.is_none() || is_old)
    }
}

/// So near to a border that rounding decides.
fn is_close(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-3 * one.abs().max(other.abs())
}

/// The pick and the one that it was compared with, and how many draws it took. `None`:
/// rounding decides.
fn plain(
    by: &LoadBalancer,
    kind: Kind,
    (all, usable): (&[One], &[u32]),
    draws: &[u64],
) -> Option<((u32, u32), usize)> {
    let mut rest = usable.to_vec();
    let first = rest.remove((draws[0] % rest.len() as u64) as usize);
    let second = rest[(draws[1] % rest.len() as u64) as usize];
    let [a, b] = [first, second].map(|at| &all[at as usize]);
    if a.is_passed_by() != b.is_passed_by() {
        let (one, other) = if a.is_passed_by() {
            (second, first)
        } else {
            (first, second)
        };
        return Some(((one, other), 2));
    }
    let [cost_a, cost_b] = [a, b].map(|one| one.cost(&by.by, kind));
    let (cheap, dear) = (cost_a.min(cost_b), cost_a.max(cost_b));
    let patience = |one: &One| (one.known().0 * 10_000.0).clamp(100.0, 10_000.0);
    let is_unsure = |one: &One| is_close(patience(one), one.known().1 as f64);
    if is_close(dear, 2.0 * cheap) || is_unsure(a) || is_unsure(b) {
        return None;
    }
    let takes_first = if dear < 2.0 * cheap {
        a.in_flight <= b.in_flight
    } else if a.is_to_be_looked_at(&by.by) || b.is_to_be_looked_at(&by.by) {
        a.is_to_be_looked_at(&by.by)
    } else {
        cost_a < cost_b
    };
    let (one, other) = if takes_first {
        (first, second)
    } else {
        (second, first)
    };
    let Some(warmup) = by.warmup else {
        return Some(((one, other), 2));
    };
    // In thousandths of their whole shares: who has warmed up for longer gets what the other
    // one does not.
    let share = |at: u32| {
        let grown = all[at as usize].warms_for() * 1000 / warmup.duration.as_millis() as u64;
        let least = u64::from(warmup.minimum_percent) * 10;
        grown.clamp(least, 1000)
    };
    if share(one) >= share(other) {
        return Some(((one, other), 2));
    }
    let chosen = if draws[2] % share(other) < share(one) {
        (one, other)
    } else {
        (other, one)
    };
    Some((chosen, 3))
}

fn endpoint() -> impl Strategy<Value = One> {
    let took = prop_oneof![0..5_000_u32, 0..200_000_u32, 0..20_000_000_u32];
    let ago = prop_oneof![0..300_u64, 0..20_000_u64];
    let in_flight = prop_oneof![0..3_u32, 0..100_u32];
    let told = option::weighted(0.8, (took, ago));
    let fails = (
        prop::bool::weighted(0.2),
        option::weighted(0.2, 0..2_000_u64),
    );
    (told, in_flight, 0..40_000_u64, fails).prop_map(
        |(told, in_flight, older, (is_open, refused))| One {
            told,
            in_flight,
            // It was there before it was asked.
            age: told.map_or(0, |(_, ago)| ago) + older,
            is_open,
            refused,
        },
    )
}

fn by_two() -> impl Strategy<Value = LoadBalancer> {
    let warmup = (1..60_000_u64, 1..=100_u32).prop_map(|(duration, minimum_percent)| Warmup {
        duration: Duration::from_millis(duration),
        minimum_percent,
    });
    (any::<bool>(), option::of(warmup)).prop_map(|(is_least, warmup)| LoadBalancer {
        by: if is_least {
            BalanceBy::LeastRequest
        } else {
            BalanceBy::PeakEwma
        },
        warmup,
        ..LoadBalancer::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn of_two_the_one_is_taken_that_the_rules_say(
        by in by_two(),
        is_request in any::<bool>(),
        all in vec((endpoint(), prop::bool::weighted(0.8)), 2..12),
        draws in prop::array::uniform3(any::<u64>()),
    ) {
        let kind = if is_request { Kind::Request } else { Kind::Connection };
        let usable: Vec<u32> = (0..).zip(&all).filter(|(_, (_, is))| *is).map(|(at, _)| at).collect();
        prop_assume!(usable.len() > 1);
        let ones: Vec<One> = all.into_iter().map(|(one, _)| one).collect();
        let wanted = plain(&by, kind, (&ones, &usable), &draws);
        prop_assume!(wanted.is_some());

        let endpoints: Vec<Endpoint> = (1..=ones.len()).map(endpoint_at).collect();
        let states: Vec<_> = ones.iter().zip(&endpoints).map(|(one, at)| one.state(at)).collect();
        let (drawn, turn) = (Cell::new(0), Cell::new(0));
        let random = |limit: u64| {
            drawn.set(drawn.get() + 1);
            draws[drawn.get() - 1] % limit
        };
        let (hash, has_breakers) = (None, true);
        let choice = Choice { by: &by, kind, hash, has_breakers, now: NOW, random: &random };
        let field = Field { endpoints: &endpoints, states: &states, usable: &usable, turn: &turn };
        let chosen = choice.of(field).map(|(one, other)| ((one, other.expect("of two")), drawn.get()));
        prop_assert_eq!(chosen, wanted);
    }
}
