//! Addresses by family: what is known of each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Index;

use super::Sharded;

/// A map by address of which copies share what they have in common.
///
/// Each family has its own: a key that may be of either is as large as an IPv6 address
/// and its padding, which nearly all pods of a cluster would pay for.
pub(crate) struct ByIp<V> {
    v4: Sharded<Ipv4Addr, V>,
    v6: Sharded<Ipv6Addr, V>,
}

impl<V> Clone for ByIp<V> {
    fn clone(&self) -> Self {
        Self {
            v4: self.v4.clone(),
            v6: self.v6.clone(),
        }
    }
}

impl<V> Default for ByIp<V> {
    fn default() -> Self {
        Self {
            v4: Sharded::default(),
            v6: Sharded::default(),
        }
    }
}

impl<V> ByIp<V> {
    #[must_use]
    pub(crate) fn get(&self, ip: &IpAddr) -> Option<&V> {
        match ip {
            IpAddr::V4(ip) => self.v4.get(ip),
            IpAddr::V6(ip) => self.v6.get(ip),
        }
    }

    #[must_use]
    pub(crate) fn contains_key(&self, ip: &IpAddr) -> bool {
        self.get(ip).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &V)> {
        let v4 = self.v4.iter().map(|(ip, value)| (IpAddr::V4(*ip), value));
        let v6 = self.v6.iter().map(|(ip, value)| (IpAddr::V6(*ip), value));
        v4.chain(v6)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    #[must_use]
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    #[must_use]
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<V: Clone> ByIp<V> {
    /// `None` takes it out.
    pub(crate) fn set(&mut self, ip: IpAddr, value: Option<V>) -> Option<V> {
        match ip {
            IpAddr::V4(ip) => self.v4.set(ip, value),
            IpAddr::V6(ip) => self.v6.set(ip, value),
        }
    }
}

impl<V> Index<&IpAddr> for ByIp<V> {
    type Output = V;

    fn index(&self, ip: &IpAddr) -> &V {
        match ip {
            IpAddr::V4(ip) => &self.v4[ip],
            IpAddr::V6(ip) => &self.v6[ip],
        }
    }
}

impl<V: PartialEq> PartialEq for ByIp<V> {
    fn eq(&self, other: &Self) -> bool {
        self.v4 == other.v4 && self.v6 == other.v6
    }
}

impl<V: fmt::Debug> fmt::Debug for ByIp<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<V: Clone> Extend<(IpAddr, V)> for ByIp<V> {
    fn extend<I: IntoIterator<Item = (IpAddr, V)>>(&mut self, entries: I) {
        for (ip, value) in entries {
            self.set(ip, Some(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_one_family_is_not_the_same_of_the_other() {
        let ips = ["10.0.0.1", "::ffff:10.0.0.1", "::10.0.0.1", "fd00::1"];
        let ips = ips.map(|ip| ip.parse::<IpAddr>().expect("address"));
        let mut map = ByIp::default();
        map.extend(ips.into_iter().zip(0..));
        assert_eq!(map.len(), 4);
        for (n, ip) in (0..).zip(&ips) {
            assert_eq!((map.get(ip), map[ip]), (Some(&n), n));
        }
        let before = map.clone();
        assert_eq!(map.set(ips[1], None), Some(1));
        assert_eq!((map.get(&ips[0]), map.get(&ips[1])), (Some(&0), None));
        assert!(before.contains_key(&ips[1]) && before != map);
    }
}
