//! Addresses that a network gives a pod to leave by, and for nothing else.
//!
//! In an IPv6 cluster of EKS a pod has one IPv6 address, and beside it one that is the same
//! on each node, by which its IPv4 is translated on its way out of the node; in an IPv4
//! cluster it may be so for IPv6. No `status.podIPs` names them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::Netns;
use crate::model::PodIps;

/// `fd00::ac:0/118`.
const V6_EGRESS: u128 = 0xfd00_0000_0000_0000_0000_0000_00ac_0000;
const V6_EGRESS_BITS: u32 = 118;

impl Netns {
    /// Of the families that `ips` lacks, the address that whoever is in the namespace speaks
    /// to the outside as, where it is of those that are no pod's to be reached at.
    pub(crate) fn egress(&self, ips: PodIps) -> io::Result<PodIps> {
        if ips.v4.is_some() && ips.v6.is_some() {
            return Ok(PodIps::default());
        }
        self.run(|| {
            let mut egress = PodIps::default();
            if ips.v4.is_none()
                && let Some(IpAddr::V4(ip)) = source_to(NOBODY_V4)?
            {
                egress.v4 = Some(ip).filter(Ipv4Addr::is_link_local);
            }
            if ips.v6.is_none()
                && let Some(IpAddr::V6(ip)) = source_to(NOBODY_V6)?
            {
                egress.v6 = Some(ip).filter(is_v6_egress);
            }
            Ok(egress)
        })?
    }
}

fn is_v6_egress(ip: &Ipv6Addr) -> bool {
    let beside = u128::BITS - V6_EGRESS_BITS;
    u128::from(*ip) >> beside == V6_EGRESS >> beside
}

/// RFC 5737, RFC 3849.
const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// What the calling thread's namespace would speak to an address as. Nothing is sent. `None`:
/// it has no way there.
fn source_to(to: IpAddr) -> io::Result<Option<IpAddr>> {
    const DISCARD: u16 = 9;
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(SocketAddr::new(to, DISCARD))?;
        socket.local_addr()
    });
    match source {
        Ok(source) => Ok(Some(source.ip())),
        Err(error) => match error.raw_os_error() {
            // Of a kernel, or a namespace, without the family the last three.
            Some(
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EACCES
                | libc::EINVAL
                | libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(netns: &Netns, lines: &[&str]) {
        for line in lines {
            let run = || {
                let mut ip = std::process::Command::new("ip");
                ip.args(line.split(' ')).status()
            };
            let done = netns.run(run).expect("entered").expect("ip runs");
            assert!(done.success(), "{line}");
        }
    }

    /// As with the plugin `egress-cni` of EKS.
    #[test]
    fn the_address_that_a_pod_leaves_by_is_of_a_family_that_it_lacks_and_nobodys_to_be_reached_at()
    {
        let Ok(netns) = Netns::fresh() else {
            // Making one needs privileges.
            return;
        };
        let lacks_v4 = PodIps::from("fd77::1".parse::<IpAddr>().expect("an address"));
        let egress = |ips: PodIps| netns.egress(ips).expect("looked at");
        assert_eq!(egress(lacks_v4), PodIps::default(), "no way there");
        ip(
            &netns,
            &[
                "link set lo up",
                "link add v4if0 type veth peer name outside",
                "link set outside up",
                "link set v4if0 up",
                "addr add 169.254.172.5/22 dev v4if0",
                "route add default dev v4if0",
            ],
        );
        let found = PodIps::from(IpAddr::from([169, 254, 172, 5]));
        assert_eq!(egress(lacks_v4), found);
        let has_v4 = PodIps::from(IpAddr::from([10, 0, 0, 5]));
        assert_eq!(egress(has_v4), PodIps::default());
        // As of a second network: it may be another pod's.
        ip(
            &netns,
            &[
                "addr add 10.9.0.5/24 dev v4if0",
                "route replace default dev v4if0 src 10.9.0.5",
            ],
        );
        assert_eq!(egress(lacks_v4), PodIps::default());
    }

    #[test]
    fn of_ipv6_the_range_alone_is_taken_that_eks_keeps_for_it() {
        for (ip, is_it) in [
            ("fd00::ac:0", true),
            ("fd00::ac:3ff", true),
            ("fd00::ac:400", false),
            ("fd00::ab:1", false),
            ("2001:db8::1", false),
        ] {
            let ip: Ipv6Addr = ip.parse().expect("an address");
            assert_eq!(is_v6_egress(&ip), is_it, "{ip}");
        }
    }
}
