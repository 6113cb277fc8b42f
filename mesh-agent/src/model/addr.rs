//! Addresses by role, so that mixing them up does not compile.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) struct $name(SocketAddr);

        impl $name {
            /// Wraps `addr`; IPv4-mapped IPv6 addresses become IPv4.
            #[must_use]
            pub(crate) fn new(addr: SocketAddr) -> Self {
                Self(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
            }

            #[must_use]
            pub(crate) fn get(self) -> SocketAddr {
                self.0
            }

            #[must_use]
            pub(crate) fn ip(self) -> IpAddr {
                self.0.ip()
            }

            #[allow(dead_code, reason = "not every role is asked for its port")]
            #[must_use]
            pub(crate) fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

role!(
    /// Where the application wanted to connect: the accepted socket's local address.
    OrigDst
);
role!(
    /// Who connected: the accepted socket's peer address.
    ClientAddr
);
role!(
    /// Where the agent dials: an endpoint, or the original destination itself.
    UpstreamAddr
);

/// The addresses of one pod, at most one per family (`status.podIPs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PodIps {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

/// One address and none of the other family.
impl From<IpAddr> for PodIps {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self {
                v4: Some(ip),
                v6: None,
            },
            IpAddr::V6(ip) => Self {
                v4: None,
                v6: Some(ip),
            },
        }
    }
}

impl PodIps {
    /// Of each family the first one.
    #[must_use]
    pub(crate) fn first_of_each(ips: &[IpAddr]) -> Self {
        let ips = || ips.iter().map(IpAddr::to_canonical);
        Self {
            v4: ips().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
            v6: ips().find_map(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
        }
    }

    #[must_use]
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4 == Some(ip),
            IpAddr::V6(ip) => self.v6 == Some(ip),
        }
    }

    /// The pod's own address of the same family as `peer`.
    #[must_use]
    pub(crate) fn same_family(&self, peer: IpAddr) -> Option<IpAddr> {
        match peer {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}
