//! Whether a pod's own ports collide with deliveries in its name.

use std::fmt;
use std::ops::RangeInclusive;

use crate::sys::netns::Netns;

// The one range counts for IPv6 too.
const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ports that the pod's kernel takes for its connections and that agents take
/// for deliveries in the pod's name: where both meet at a server, the new
/// connection finds the delivery's instead, and fails.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    own: RangeInclusive<u16>,
    delivery: RangeInclusive<u16>,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its net.ipv4.ip_local_port_range {}-{} overlaps the delivery ports {}-{}: \
             some of its connections will fail; change either (--delivery-ports, on all nodes)",
            self.own.start(),
            self.own.end(),
            self.delivery.start(),
            self.delivery.end(),
        )
    }
}

/// `None` also where the range cannot be read: then nothing is known against it.
pub(super) fn overlap(netns: &Netns, delivery: &RangeInclusive<u16>) -> Option<Overlap> {
    // /proc/sys/net shows the calling thread's namespace.
    let text = netns.run(|| std::fs::read_to_string(FILE)).ok()?.ok()?;
    between(parse(&text)?, delivery)
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

fn between(own: RangeInclusive<u16>, delivery: &RangeInclusive<u16>) -> Option<Overlap> {
    let meet = own.start() <= delivery.end() && delivery.start() <= own.end();
    meet.then(|| Overlap {
        own,
        delivery: delivery.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_share_a_port_overlap() {
        let meets = |text, delivery| between(parse(text).expect("a range"), &delivery).is_some();
        assert!(!meets("32768\t60999\n", 10_000..=32_000));
        assert!(meets("32000\t60999\n", 10_000..=32_000));
        assert!(meets("1024\t65535\n", 10_000..=32_000));
        assert!(meets("1024\t10000\n", 10_000..=32_000));
        assert!(!meets("1024\t9999\n", 10_000..=32_000));
        assert!(meets("20000\t20001\n", 10_000..=32_000));
        assert_eq!(parse("32768"), None);
    }
}
