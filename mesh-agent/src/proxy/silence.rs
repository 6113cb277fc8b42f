//! How long nothing has passed on what is carried.

use std::time::Duration;

/// Looked at now and then: what passes costs nothing.
pub(super) struct Silence<B> {
    /// `None`: for ever.
    longest: Option<Duration>,
    lasts: Duration,
    /// Bytes at the last look.
    before: B,
}

impl<B: PartialEq> Silence<B> {
    pub(super) fn new(longest: Option<Duration>, bytes: B) -> Self {
        Self {
            longest,
            lasts: Duration::ZERO,
            before: bytes,
        }
    }

    /// How long until the next look, which is due after `pause`.
    pub(super) fn wait(&self, pause: Duration) -> Duration {
        let left = |longest: Duration| longest.saturating_sub(self.lasts);
        self.longest
            .map_or(pause, |longest| pause.min(left(longest)))
    }

    /// So long after the last look. Is it too long?
    pub(super) fn is_too_long(&mut self, waited: Duration, bytes: B) -> bool {
        self.lasts = match bytes == self.before {
            true => self.lasts + waited,
            false => Duration::ZERO,
        };
        self.before = bytes;
        self.longest.is_some_and(|longest| self.lasts >= longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn what_passes_ends_a_silence() {
        let mut silence = Silence::new(Some(25 * S), 0);
        assert_eq!(silence.wait(10 * S), 10 * S);
        assert!(!silence.is_too_long(10 * S, 0));
        assert!(!silence.is_too_long(10 * S, 0));
        assert_eq!(silence.wait(10 * S), 5 * S);
        assert!(!silence.is_too_long(5 * S, 1));
        assert!(!silence.is_too_long(10 * S, 1));
        assert!(!silence.is_too_long(10 * S, 1));
        assert!(silence.is_too_long(5 * S, 1));
        let mut endless = Silence::new(None, 0);
        assert!(!endless.is_too_long(1_000_000 * S, 0));
    }
}
