//! When memory that events took is given back to the system.

use std::time::{Duration, Instant};

/// Fewer leave too little behind.
const MUCH: usize = 1_000;
/// It is done while none come: it holds up who asks for memory.
const QUIET: Duration = Duration::from_secs(1);
/// In a large cluster something changes each second.
const AT_THE_LATEST: Duration = Duration::from_secs(60);

/// Events since it was done last.
#[derive(Debug, Default)]
pub(super) struct Taken {
    count: usize,
    first_and_last: Option<(Instant, Instant)>,
}

impl Taken {
    pub(super) fn add(&mut self, now: Instant) {
        self.count += 1;
        let (_, last) = self.first_and_last.get_or_insert((now, now));
        *last = now;
    }

    /// `None` while there is not much to give.
    pub(super) fn gives_back(&self) -> Option<Instant> {
        let (first, last) = self.first_and_last?;
        (self.count >= MUCH).then(|| (last + QUIET).min(first + AT_THE_LATEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_when_many_events_have_come_to_an_end() {
        let (mut taken, start) = (Taken::default(), Instant::now());
        for n in 0..MUCH {
            assert_eq!(taken.gives_back(), None, "after {n}");
            taken.add(start + Duration::from_millis(n as u64));
        }
        let last = start + Duration::from_millis(MUCH as u64 - 1);
        assert_eq!(taken.gives_back(), Some(last + QUIET));
    }

    #[test]
    fn it_is_given_back_where_events_do_not_come_to_an_end() {
        let (mut taken, start) = (Taken::default(), Instant::now());
        for tenths in 0..10_000 {
            let now = start + Duration::from_millis(100 * tenths);
            if taken.gives_back().is_some_and(|due| due <= now) {
                assert!(now - start <= Duration::from_secs(101), "{:?}", now - start);
                return;
            }
            taken.add(now);
        }
        panic!("never");
    }
}
