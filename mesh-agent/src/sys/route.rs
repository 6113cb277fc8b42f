//! The rule and the table that loop marked packets back into the pod.
//!
//! Per family: `ip rule add fwmark MARK lookup TABLE` and
//! `ip route add local default dev lo src POD_IP table TABLE`. Set over
//! netlink from inside the namespace (about 0.1 ms); all calls may be repeated.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::abi::{LOOPBACK_IFINDEX, MARK, RULE_PRIORITY, TABLE};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::errno::remedy;
use super::netns::Netns;
use super::sysctl;
use crate::model::PodIps;

const AGAIN: &str = "it is tried again";

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("cannot enter the pod's network namespace: {}; {}", .0, remedy(.0, AGAIN))]
    Enter(#[source] io::Error),
    #[error(
        "cannot {verb} the {what} in the pod's network namespace: {source}; {}",
        remedy(.source, AGAIN)
    )]
    Netlink {
        verb: &'static str,
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "a rule or route in the pod's network namespace leads captured connections elsewhere: remove it there"
    )]
    Elsewhere,
    #[error("cannot look at {what} in the pod's network namespace: {source}; {}", remedy(.source, AGAIN))]
    Look {
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "cannot set {name} in the pod's network namespace: {source}; {}",
        remedy(.source, "is /proc/sys writable?")
    )]
    Sysctl {
        name: &'static str,
        source: io::Error,
    },
}

impl RouteError {
    /// Is it no answer? What is there was not seen, and nothing was changed.
    #[must_use]
    pub(crate) fn is_unasked(&self) -> bool {
        matches!(self, Self::Enter(_) | Self::Look { .. })
    }
}

/// What the application answers to a delivery follows the mark of its SYN.
const ACCEPT: &str = "net.ipv4.tcp_fwmark_accept";
/// And so does what the pod's kernel answers in its place, RST and ICMP: to the
/// agent, over `lo`. Otherwise it would leave the pod, towards the client.
const REFLECT: [&str; 2] = ["net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"];
/// Every value but 0 switches a setting on. Ours is a bit beside what was
/// there, which can so be restored, whoever set it and whichever agent does it.
const OURS: u8 = 2;

/// Sets rule, table and settings for each family that the pod has.
pub(crate) fn install(netns: &Netns, ips: PodIps) -> Result<(), RouteError> {
    in_netns(netns, || {
        change_settings(ips, |value| value | OURS)?;
        let mut netlink = Netlink::open()?;
        ips.iter().try_for_each(|ip| netlink.loop_back(ip))
    })
}

/// Looks whether all of it is there, and puts back what is not: how many.
///
/// Asks where a marked packet would go, so that it also finds a rule in front
/// of ours; that one is not ours to remove, and is an error.
pub(crate) fn restore(netns: &Netns, ips: PodIps) -> Result<usize, RouteError> {
    in_netns(netns, || {
        let mut missing = change_settings(ips, |value| value | OURS)?;
        let mut netlink = Netlink::open()?;
        for ip in ips.iter() {
            if netlink.is_looped_back(ip)? {
                continue;
            }
            netlink.loop_back(ip)?;
            if !netlink.is_looped_back(ip)? {
                return Err(RouteError::Elsewhere);
            }
            missing += 1;
        }
        Ok(missing)
    })
}

/// Takes all of it away again; what is not there is fine, and a part that fails
/// keeps no other from going.
pub(crate) fn remove(netns: &Netns) -> Result<(), RouteError> {
    in_netns(netns, || {
        let mut result = Ok(());
        match Netlink::open() {
            Ok(mut netlink) => {
                for ip in BOTH.iter() {
                    result = result.and(netlink.forget(ip));
                }
            }
            Err(error) => result = Err(error),
        }
        result.and(change_settings(BOTH, |value| value & !OURS).map(drop))
    })
}

fn in_netns<T>(netns: &Netns, f: impl FnOnce() -> Result<T, RouteError>) -> Result<T, RouteError> {
    netns.run(f).map_err(RouteError::Enter)?
}

/// Of either family, whatever the pod has.
const BOTH: PodIps = PodIps {
    v4: Some(Ipv4Addr::UNSPECIFIED),
    v6: Some(Ipv6Addr::UNSPECIFIED),
};

/// Changes the settings of the namespace that the calling thread is in; how many were otherwise.
fn change_settings(ips: PodIps, change: impl Fn(u8) -> u8) -> Result<usize, RouteError> {
    let mut count = 0;
    let [v4, v6] = REFLECT;
    let reflect = ips.iter().map(|ip| if ip.is_ipv4() { v4 } else { v6 });
    for name in std::iter::once(ACCEPT).chain(reflect) {
        let read = sysctl::read(name);
        let read = read.and_then(|text| text.trim().parse().map_err(io::Error::other));
        let value = match read {
            // A kernel without that family has nothing to take back.
            Err(e) if e.kind() == io::ErrorKind::NotFound && change(0) == 0 => continue,
            read => read.map_err(|source| RouteError::Look { what: name, source })?,
        };
        let wanted = change(value);
        if wanted != value {
            let written = sysctl::write(name, &wanted.to_string());
            written.map_err(|source| RouteError::Sysctl { name, source })?;
            count += 1;
        }
    }
    Ok(count)
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn rule(ip: IpAddr) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(ip);
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::FwMark(MARK),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::Table(TABLE),
    ];
    rule
}

fn route(ip: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: family(ip),
        table: 0,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    route.attributes = vec![
        RouteAttribute::Oif(LOOPBACK_IFINDEX),
        RouteAttribute::Table(TABLE),
        RouteAttribute::PrefSource(ip.into()),
    ];
    route
}

/// Of a packet as captured ones are, to an address that is nobody's (RFC 5737, RFC 3849).
fn lookup(family_of: IpAddr) -> RouteMessage {
    let to: IpAddr = match family_of {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let mut route = RouteMessage::default();
    route.header.address_family = family(family_of);
    route.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    // Else IPv4 answers with the main table, whichever it was.
    route.header.flags = RouteFlags::LookupTable;
    route.attributes = vec![
        RouteAttribute::Destination(to.into()),
        RouteAttribute::Mark(MARK),
    ];
    route
}

struct Netlink(Socket);

impl Netlink {
    fn open() -> Result<Self, RouteError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self(socket))
        };
        let what = "the rules and routes";
        open().map_err(|source| RouteError::Look { what, source })
    }

    fn loop_back(&mut self, ip: IpAddr) -> Result<(), RouteError> {
        let new = NLM_F_CREATE;
        let route = RouteNetlinkMessage::NewRoute(route(ip));
        self.change("add", "route", route, new | NLM_F_REPLACE)?;
        let rule = RouteNetlinkMessage::NewRule(rule(ip));
        self.change("add", "rule", rule, new | NLM_F_EXCL)
    }

    fn forget(&mut self, ip: IpAddr) -> Result<(), RouteError> {
        let rule = RouteNetlinkMessage::DelRule(rule(ip));
        let rule = self.change("delete", "rule", rule, 0);
        let mut route = route(ip);
        route
            .attributes
            .retain(|a| !matches!(a, RouteAttribute::PrefSource(_)));
        let route = RouteNetlinkMessage::DelRoute(route);
        rule.and(self.change("delete", "route", route, 0))
    }

    /// Does a marked packet of this family come back over `lo`, by our table?
    fn is_looped_back(&mut self, ip: IpAddr) -> Result<bool, RouteError> {
        let what = "the rules and routes";
        let failed = |source| RouteError::Look { what, source };
        let request = RouteNetlinkMessage::GetRoute(lookup(ip));
        match self.ask(request, 0).map_err(failed)?.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(found)) => {
                let lo = RouteAttribute::Oif(LOOPBACK_IFINDEX);
                let ours = found.attributes.contains(&RouteAttribute::Table(TABLE));
                Ok(ours && found.attributes.contains(&lo))
            }
            NetlinkPayload::Error(error) => match error.code.map_or(0, |code| -code.get()) {
                // There is no route at all, or a rule or route says so: unreachable,
                // prohibit, blackhole. (Who may not ask is told by the call itself.)
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::ESRCH
                | libc::EACCES
                | libc::EINVAL => Ok(false),
                errno => Err(failed(io::Error::from_raw_os_error(errno))),
            },
            _ => Err(failed(io::Error::from(io::ErrorKind::InvalidData))),
        }
    }

    /// One request and its acknowledgement. "Exists" on add and "absent" on
    /// delete are the wanted state already.
    fn change(
        &mut self,
        verb: &'static str,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), RouteError> {
        let failed = |source| RouteError::Netlink { verb, what, source };
        match self
            .ask(message, NLM_F_ACK | flags)
            .map_err(failed)?
            .payload
        {
            NetlinkPayload::Error(error) => match error.code {
                None => Ok(()),
                Some(code) => match -code.get() {
                    libc::EEXIST | libc::ENOENT | libc::ESRCH => Ok(()),
                    // A kernel without IPv6 has no rules and routes of it.
                    libc::EAFNOSUPPORT | libc::EOPNOTSUPP if verb == "delete" => Ok(()),
                    errno => Err(failed(io::Error::from_raw_os_error(errno))),
                },
            },
            _ => Err(failed(io::Error::from(io::ErrorKind::InvalidData))),
        }
    }

    /// One request and the first message of its answer.
    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let (answer, _) = self.0.recv_from_full()?;
        NetlinkMessage::deserialize(&answer).map_err(io::Error::other)
    }
}
