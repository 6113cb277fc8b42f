//! Source ports of deliveries.

use std::cell::Cell;
use std::ops::RangeInclusive;

/// Tries before a delivery is given up for want of a source port.
pub(super) const PORT_TRIES: usize = 64;
/// Prime, so that leaps come to every part of a range.
const LEAP: usize = 13;

/// A worker's own part of the delivery ports, used in turn.
#[derive(Debug)]
pub(super) struct PortRange {
    first: u16,
    count: u16,
    next: Cell<u16>,
}

impl PortRange {
    pub(super) fn part(all: &RangeInclusive<u16>, index: usize, parts: usize) -> Self {
        let total = usize::from(all.end().saturating_sub(*all.start())) + 1;
        let count = (total / parts.max(1)).max(1);
        let first = usize::from(*all.start()) + index * count;
        Self {
            first: u16::try_from(first).unwrap_or(*all.end()),
            count: u16::try_from(count).unwrap_or(u16::MAX),
            next: Cell::new(0),
        }
    }

    pub(super) fn take(&self) -> u16 {
        let next = self.next.get();
        self.next.set((next + 1) % self.count);
        self.first + next
    }

    /// Ports are taken in turn, so those of long streams stand side by side: each
    /// failure in a row leaps further, past runs of any length.
    pub(super) fn skip(&self, failures: usize) {
        let next = usize::from(self.next.get()) + failures * LEAP;
        let next = next % usize::from(self.count);
        self.next.set(u16::try_from(next).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_of_busy_ports_is_left_behind() {
        for (free, count) in [(250, 1_000_u16), (3_000, 11_000), (11_000, 22_000)] {
            let all = 10_000..=10_000 + count - 1;
            let part = PortRange::part(&all, 0, 1);
            let is_busy = |port: u16| port < 10_000 + count - free;
            let found = (0..PORT_TRIES).any(|attempt| {
                let busy = is_busy(part.take());
                part.skip(if busy { attempt } else { 0 });
                !busy
            });
            assert!(found, "{free} of {count} are free");
        }
    }

    #[test]
    fn workers_never_share_a_source_port() {
        let all = 10_000..=32_000;
        let ports = |index| {
            let part = PortRange::part(&all, index, 3);
            (0..part.count)
                .map(|_| part.take())
                .collect::<std::collections::HashSet<_>>()
        };
        let (a, b, c) = (ports(0), ports(1), ports(2));
        assert!(a.is_disjoint(&b) && b.is_disjoint(&c) && a.is_disjoint(&c));
        assert!(a.iter().chain(&b).chain(&c).all(|port| all.contains(port)));
    }
}
