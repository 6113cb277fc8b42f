//! What is seen of a shared connection now and then: whether its peer is there, and whether it
//! is used. Decides by what it is given, time included.

use std::time::{Duration, Instant};

/// Nothing new begins on one that has not acknowledged what it was sent for so long.
const SILENT: Duration = Duration::from_secs(3);
/// Nor on one whose peer's kernel may acknowledge, and whose agent has said nothing for so long
/// though channels have begun: it accepts each within milliseconds.
pub(in crate::tunnel) const UNHEARD: Duration = Duration::from_secs(5);
/// And who has asked on one that acknowledges nothing is told then: it carries small requests,
/// and others may be asked.
pub(in crate::tunnel) const GONE: Duration = Duration::from_secs(20);

/// The peer, at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// What it was sent is sent once more, for it was not acknowledged.
    pub(super) is_unanswered: bool,
    /// Bytes of it that were acknowledged in all.
    pub(super) acknowledged: u64,
    /// Channels have begun since its agent last said something.
    pub(super) is_asked: bool,
    /// That is so long ago.
    pub(super) unheard: Duration,
}

/// Since when it was seen like that, look after look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doubts {
    /// And how much was acknowledged by then.
    unanswered: Option<(Instant, u64)>,
    unheard: Option<Instant>,
}

impl Doubts {
    /// A pause is no silence: behind a quiet hour one packet that is lost says nothing. So what
    /// counts is how long it was left waiting, and what it acknowledges begins that anew. That
    /// something comes does not: it may be what the peer sends once more, for it hears nothing.
    pub(super) fn look(&mut self, seen: &Seen, now: Instant) {
        let goes_on = |(_, before): &(Instant, u64)| *before == seen.acknowledged;
        let since = self.unanswered.filter(goes_on);
        let since = since.unwrap_or((now, seen.acknowledged));
        self.unanswered = seen.is_unanswered.then_some(since);
        let goes_on = |since: &Instant| seen.unheard >= now.saturating_duration_since(*since);
        let since = self.unheard.filter(goes_on).unwrap_or(now);
        self.unheard = seen.is_asked.then_some(since);
    }

    /// May a channel begin on it?
    pub(super) fn is_good(&self, now: Instant) -> bool {
        !lasts(self.unanswered(), SILENT, now) && !lasts(self.unheard, UNHEARD, now)
    }

    /// Nobody is there any more.
    pub(super) fn is_gone(&self, now: Instant) -> bool {
        lasts(self.unanswered(), GONE, now)
    }

    fn unanswered(&self) -> Option<Instant> {
        self.unanswered.map(|(since, _)| since)
    }
}

fn lasts(since: Option<Instant>, longest: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= longest)
}

/// Whether channels begin on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    begun: u32,
    unused: Option<Instant>,
}

impl Use {
    /// No channel for `idle`, as far as looks tell; `begun`: how many have, ever. Those that begin
    /// and end between two looks are use as well.
    pub(super) fn is_over(
        &mut self,
        (open, begun): (usize, u32),
        idle: Duration,
        now: Instant,
    ) -> bool {
        let before = std::mem::replace(&mut self.begun, begun);
        let is_used = open > 0 || begun != before;
        self.unused = match is_used {
            true => None,
            false => self.unused.or(Some(now)),
        };
        lasts(self.unused, idle, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// Of the kernel.
    fn kernel(is_unanswered: bool, acknowledged: u64) -> Seen {
        Seen {
            is_unanswered,
            acknowledged,
            is_asked: false,
            unheard: Duration::ZERO,
        }
    }

    /// Of the agent.
    fn agent(is_asked: bool, unheard: Duration) -> Seen {
        Seen {
            is_unanswered: false,
            acknowledged: 0,
            is_asked,
            unheard,
        }
    }

    /// Whether channels may begin, and whether nobody is there, after a look at each time.
    fn looks(seen: &[(u32, Seen)]) -> Vec<(bool, bool)> {
        let (begin, mut doubts) = (Instant::now(), Doubts::default());
        let mut look = |(at, seen): &(u32, Seen)| {
            let now = begin + *at * S;
            doubts.look(seen, now);
            (doubts.is_good(now), doubts.is_gone(now))
        };
        seen.iter().map(&mut look).collect()
    }

    #[test]
    fn a_packet_that_is_lost_behind_a_long_pause_is_no_silence() {
        let lost = |at, acknowledged| (at, kernel(true, acknowledged));
        let in_order = |at, acknowledged| (at, kernel(false, acknowledged));
        let seen = [in_order(1, 9), lost(26, 9), in_order(31, 12), lost(36, 20)];
        assert_eq!(looks(&seen), [(true, false); 4]);
    }

    #[test]
    fn who_leaves_unanswered_what_it_was_sent_gets_no_channel_after_3_s_and_is_gone_after_20() {
        let lost = |at| (at, kernel(true, 9));
        let told = looks(&[0, 2, 3, 5, 10, 15, 19, 20].map(lost));
        let [good, doubted, gone] = [(true, false), (false, false), (false, true)];
        let expected = [
            good, good, doubted, doubted, doubted, doubted, doubted, gone,
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn an_acknowledgement_between_two_looks_begins_the_time_anew() {
        let lost = |(at, acknowledged)| (at, kernel(true, acknowledged));
        let seen = [
            (0, 9),
            (5, 9),
            (10, 9),
            (15, 10),
            (20, 10),
            (34, 10),
            (35, 10),
        ];
        let told = looks(&seen.map(lost));
        let gone: Vec<_> = told.iter().map(|(_, gone)| *gone).collect();
        assert_eq!(gone, [false, false, false, false, false, false, true]);
        assert!(told[3].0, "it was there just now");
    }

    #[test]
    fn an_agent_that_says_nothing_though_it_is_asked_gets_no_channel_after_5_s() {
        let frozen = |at| (at, agent(true, (at + 60) * S));
        let told = looks(&[0, 4, 5, 60].map(frozen));
        let [good, doubted] = [(true, false), (false, false)];
        assert_eq!(told, [good, good, doubted, doubted], "its kernel is there");
        let slow = |(at, unheard)| (at, agent(true, unheard * S));
        let told = looks(&[(0, 60), (4, 1), (8, 4), (9, 5)].map(slow));
        assert_eq!(told, [good, good, good, doubted], "it has said something");
        let unasked = looks(&[0, 5, 60].map(|at| (at, agent(false, at * S))));
        assert_eq!(unasked, [good; 3]);
    }

    #[test]
    fn what_begins_and_ends_between_two_looks_is_use() {
        let begin = Instant::now();
        let idle = 20 * S;
        let over = |seen: &[(u32, usize, u32)]| {
            let mut of = Use::default();
            let mut look = |(at, open, begun): &(u32, usize, u32)| {
                of.is_over((*open, *begun), idle, begin + *at * S)
            };
            seen.iter().map(&mut look).collect::<Vec<_>>()
        };
        let short: Vec<_> = (1..20).map(|look| (5 * look, 0, look)).collect();
        assert_eq!(over(&short), [false; 19]);
        let one_is_open = [(5, 1, 1), (10, 1, 1), (35, 1, 1)];
        assert_eq!(over(&one_is_open), [false; 3]);
        let unused = [(5, 0, 1), (10, 0, 1), (25, 0, 1), (30, 0, 1)];
        assert_eq!(over(&unused), [false, false, false, true]);
    }
}
