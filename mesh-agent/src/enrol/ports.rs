//! Whether a pod's own ports collide with deliveries in its name.

use std::ops::RangeInclusive;
use std::{fmt, io};

use crate::sys::netns::Netns;
use crate::sys::{socket, sysctl};

// The one range counts for IPv6 too.
const RANGE: &str = "net.ipv4.ip_local_port_range";
/// Dials are not held to fewer ports than this.
const FEWEST: u16 = 1_000;

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

impl Overlap {
    /// The larger part of the pod's own ports that no delivery has, if it will
    /// do: the agent's dials, which are all that leaves the pod, are held to it.
    pub(super) fn clear(&self) -> Option<RangeInclusive<u16>> {
        let below = *self.own.start()..=self.delivery.start().saturating_sub(1);
        let above = self.delivery.end().saturating_add(1)..=*self.own.end();
        let larger = if below.len() > above.len() {
            below
        } else {
            above
        };
        let serves = larger.len() >= usize::from(FEWEST) && socket::can_narrow_ports();
        serves.then_some(larger)
    }
}

/// An error is not "they do not".
pub(super) fn overlap(
    netns: &Netns,
    delivery: &RangeInclusive<u16>,
) -> io::Result<Option<Overlap>> {
    let text = netns.run(|| sysctl::read(RANGE))??;
    Ok(parse(&text).and_then(|own| between(own, delivery)))
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

    #[test]
    fn dials_are_held_to_the_larger_part_that_no_delivery_has() {
        let clear = |text, delivery| {
            let overlap = between(parse(text).expect("a range"), &delivery);
            overlap.expect("they overlap").clear()
        };
        let ports = 10_000..=32_000;
        assert_eq!(clear("20000 29999", ports.clone()), None);
        assert_eq!(clear("9500 32500", ports.clone()), None, "too few");
        if socket::can_narrow_ports() {
            assert_eq!(clear("1024 65535", ports.clone()), Some(32_001..=65_535));
            assert_eq!(clear("5000 20000", ports), Some(5_000..=9_999));
        }
    }
}
