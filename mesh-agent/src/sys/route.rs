//! The rule and the table that loop marked packets back into the pod.
//!
//! Per family: `ip rule add fwmark MARK lookup TABLE` and
//! `ip route add local default dev lo src POD_IP table TABLE`. Set over
//! netlink from inside the namespace (about 0.1 ms); both calls may be repeated.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_common::abi::{LOOPBACK_IFINDEX, MARK, RULE_PRIORITY, TABLE};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netns::Netns;
use crate::model::PodIps;

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("cannot enter the pod's network namespace: {0}")]
    Enter(io::Error),
    #[error(
        "cannot {verb} the {what} in the pod's network namespace: {source}; the agent needs CAP_NET_ADMIN"
    )]
    Netlink {
        verb: &'static str,
        what: &'static str,
        source: io::Error,
    },
    #[error("cannot set {name} in the pod's network namespace: {source}; is /proc/sys writable?")]
    Sysctl {
        name: &'static str,
        source: io::Error,
    },
}

/// What the application answers to a delivery follows the mark of its SYN.
const ACCEPT: &str = "net.ipv4.tcp_fwmark_accept";
/// And so does what the pod's kernel answers in its place, RST and ICMP: to the
/// agent, over `lo`. Otherwise it would leave the pod, towards the client.
const REFLECT: [&str; 2] = ["net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"];
/// Every value but 0 switches a setting on. Ours is a bit beside what was
/// there, which can so be restored, whoever set it and whichever agent does it.
const OURS: u8 = 2;

/// Sets rule, table and sysctls for each family that the pod has.
pub fn install(netns: &Netns, ips: PodIps) -> Result<(), RouteError> {
    netns
        .run(|| {
            change_settings(ips, |value| value | OURS)?;
            let mut netlink = Netlink::open("open", "netlink socket")?;
            for ip in ips.iter() {
                netlink.change(
                    "add",
                    "route",
                    RouteNetlinkMessage::NewRoute(route(ip)),
                    NLM_F_CREATE | NLM_F_REPLACE,
                )?;
                netlink.change(
                    "add",
                    "rule",
                    RouteNetlinkMessage::NewRule(rule(ip)),
                    NLM_F_CREATE | NLM_F_EXCL,
                )?;
            }
            Ok(())
        })
        .map_err(RouteError::Enter)?
}

/// Takes all of it away again; what is not there is fine.
pub fn remove(netns: &Netns) -> Result<(), RouteError> {
    netns
        .run(|| {
            let mut netlink = Netlink::open("open", "netlink socket")?;
            for ip in BOTH.iter() {
                netlink.change("delete", "rule", RouteNetlinkMessage::DelRule(rule(ip)), 0)?;
                let mut route = route(ip);
                route
                    .attributes
                    .retain(|a| !matches!(a, RouteAttribute::PrefSource(_)));
                netlink.change("delete", "route", RouteNetlinkMessage::DelRoute(route), 0)?;
            }
            change_settings(BOTH, |value| value & !OURS)
        })
        .map_err(RouteError::Enter)?
}

/// Of either family, whatever the pod has.
const BOTH: PodIps = PodIps {
    v4: Some(Ipv4Addr::UNSPECIFIED),
    v6: Some(Ipv6Addr::UNSPECIFIED),
};

/// Changes the settings of the namespace that the calling thread is in.
fn change_settings(ips: PodIps, change: impl Fn(u8) -> u8) -> Result<(), RouteError> {
    let [v4, v6] = REFLECT;
    let reflect = ips.iter().map(|ip| if ip.is_ipv4() { v4 } else { v6 });
    for name in std::iter::once(ACCEPT).chain(reflect) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let changed = std::fs::read_to_string(&path).and_then(|text| {
            let value = text.trim().parse().map_err(io::Error::other)?;
            match change(value) {
                same if same == value => Ok(()),
                other => std::fs::write(&path, other.to_string()),
            }
        });
        match changed {
            // A kernel without that family has nothing to take back.
            Err(e) if e.kind() == io::ErrorKind::NotFound && change(0) == 0 => {}
            changed => changed.map_err(|source| RouteError::Sysctl { name, source })?,
        }
    }
    Ok(())
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

struct Netlink(Socket);

impl Netlink {
    fn open(verb: &'static str, what: &'static str) -> Result<Self, RouteError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self(socket))
        };
        open().map_err(|source| RouteError::Netlink { verb, what, source })
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
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.0.send(&bytes, 0).map_err(failed)?;
        let (answer, _) = self.0.recv_from_full().map_err(failed)?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|e| failed(io::Error::other(e)))?;
        match answer.payload {
            NetlinkPayload::Error(error) => match error.code {
                None => Ok(()),
                Some(code) => match -code.get() {
                    libc::EEXIST | libc::ENOENT | libc::ESRCH => Ok(()),
                    errno => Err(failed(io::Error::from_raw_os_error(errno))),
                },
            },
            _ => Err(failed(io::Error::from(io::ErrorKind::InvalidData))),
        }
    }
}
