//! Pods whose agent was not there lately, and since when.
//!
//! A stream waits for an agent that restarts. One that has been away for longer
//! than a restart takes is not waited for again: who comes then is told at once.
//! Time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Longer than an agent's restart takes, an upgrade included.
const RESTART: Duration = Duration::from_secs(30);
/// What nobody has asked for meanwhile may have been there.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// Pods that are remembered; others are waited for as if it were the first time.
const MAX_PODS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Instant,
    seen: Instant,
}

/// All that a worker knows of.
#[derive(Debug, Default)]
pub(super) struct Away {
    pods: HashMap<IpAddr, Outage, foldhash::fast::RandomState>,
}

impl Away {
    /// It was not there just now; until when it is worth another try.
    pub(super) fn missed(&mut self, pod: IpAddr, now: Instant) -> Instant {
        self.make_room(pod, now);
        let outage = Outage {
            since: now,
            seen: now,
        };
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&pod) {
            return now + RESTART;
        }
        let known = self.pods.entry(pod).or_insert(outage);
        if now.saturating_duration_since(known.seen) > FORGOTTEN {
            *known = outage;
        }
        known.seen = now;
        known.since + RESTART
    }

    pub(super) fn is_back(&mut self, pod: IpAddr) {
        self.pods.remove(&pod);
    }

    fn make_room(&mut self, pod: IpAddr, now: Instant) {
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&pod) {
            let remembered = |seen| now.saturating_duration_since(seen) <= FORGOTTEN;
            self.pods.retain(|_, outage| remembered(outage.seen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_restart_is_waited_for_and_a_longer_outage_only_once() {
        let (mut away, start) = (Away::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(away.missed(pod(1), start), start + RESTART);
        for seconds in 1..100 {
            let now = start + second * seconds;
            assert_eq!(away.missed(pod(1), now), start + RESTART);
        }
        // It was there in between: that is another restart.
        let later = start + second * 100;
        away.is_back(pod(1));
        assert_eq!(away.missed(pod(1), later), later + RESTART);
        // Or may have been.
        let later = later + FORGOTTEN + second;
        assert_eq!(away.missed(pod(1), later), later + RESTART);
    }

    #[test]
    fn no_more_pods_are_remembered_than_the_bound() {
        let (mut away, start) = (Away::default(), Instant::now());
        for number in 0..5_000 {
            assert_eq!(away.missed(pod(number), start), start + RESTART);
        }
        assert_eq!(away.pods.len(), MAX_PODS);
        let later = start + FORGOTTEN * 2;
        let until = away.missed(pod(9_999), later);
        assert_eq!((away.pods.len(), until), (1, later + RESTART));
    }
}
