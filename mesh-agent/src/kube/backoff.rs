//! How long to wait before the next try.

use std::time::Duration;

use rand::RngExt as _;

/// Doubles up to a bound; half of each pause is chance, so that the nodes of a
/// cluster do not come back as one.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.most);
        jittered(whole)
    }

    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Between half of it and all of it.
pub(super) fn jittered(whole: Duration) -> Duration {
    let half = whole / 2;
    half + rand::rng().random_range(Duration::ZERO..=half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_to_its_bound_and_is_never_none() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(600));
        for whole in [100, 200, 400, 600, 600] {
            let pause = backoff.pause();
            assert!((ms(whole / 2)..=ms(whole)).contains(&pause), "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= ms(100));
    }
}
