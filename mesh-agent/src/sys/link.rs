//! A pod's links and their other ends on this node, over netlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::netns::Netns;

/// An interface of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Index of the other end, in the calling thread's namespace; `None` where it
    /// has none there (ipvlan, macvlan, a device of its own, tunnels).
    pub(crate) peer: Option<u32>,
    /// It is a device of its own, or on one outside of the namespace (SR-IOV,
    /// macvlan, ipvlan): what leaves by it passes no link of the pod's.
    pub(crate) leads_out: bool,
    /// A program at it may send on what leaves by it before the other end has it (netkit).
    pub(crate) redirects: bool,
}

/// What a namespace says of one of its interfaces.
struct Seen {
    index: u32,
    name: String,
    ether: bool,
    pair: bool,
    netkit: bool,
    /// It is of a kind that was made by software.
    kind: bool,
    /// Index of the other end, and the number that this namespace knows its namespace by.
    other: Option<(u32, Option<i32>)>,
}

/// The namespace's interfaces, beside loopback. An end is taken for a pod's only
/// where both sides say so: what a pod's namespace says is the pod's to choose.
pub(crate) fn of(netns: &Netns) -> io::Result<Vec<Link>> {
    let (inside, addresses) = netns.run(|| io::Result::Ok((all()?, addresses()?)))??;
    let mut links = Vec::new();
    for seen in inside {
        let peer = match seen.other {
            Some((index, Some(_))) if seen.pair && seen.ether => {
                confirmed(netns, index, seen.index)?
            }
            _ => None,
        };
        let own = addresses.iter().filter(|(index, _)| *index == seen.index);
        links.push(Link {
            addresses: own.map(|(_, ip)| *ip).collect(),
            name: seen.name,
            peer,
            redirects: seen.netkit,
            leads_out: seen.ether
                && match seen.other {
                    Some((_, outside)) => outside.is_some() && !seen.pair,
                    None => !seen.kind,
                },
        });
    }
    Ok(links)
}

/// Is the interface here one end of a pair whose other end is that one there?
fn confirmed(netns: &Netns, here: u32, there: u32) -> io::Result<Option<u32>> {
    let mut question = LinkMessage::default();
    question.header.index = here;
    let answers = match ask(RouteNetlinkMessage::GetLink(question), NLM_F_ACK) {
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        answers => answers?,
    };
    let number = number_of(netns)?;
    let is_pair = answers
        .into_iter()
        .filter_map(seen)
        .any(|seen| seen.index == here && seen.pair && seen.other == Some((there, Some(number))));
    Ok(is_pair.then_some(here))
}

/// The number that the calling thread's namespace knows `netns` by; it has one
/// once a link to there was asked for.
fn number_of(netns: &Netns) -> io::Result<i32> {
    let mut question = NsidMessage::default();
    let fd = netns.as_fd().as_raw_fd().unsigned_abs();
    question.attributes.push(NsidAttribute::Fd(fd));
    let answers = ask(RouteNetlinkMessage::GetNsId(question), NLM_F_ACK)?;
    let mut attributes = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNsId(message) => Some(message.attributes),
        _ => None,
    });
    let id = attributes.find_map(|list| {
        list.into_iter().find_map(|a| match a {
            NsidAttribute::Id(id) => Some(id),
            _ => None,
        })
    });
    id.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn all() -> io::Result<Vec<Seen>> {
    let answers = ask(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        NLM_F_DUMP,
    )?;
    Ok(answers.into_iter().filter_map(seen).collect())
}

fn addresses() -> io::Result<Vec<(u32, IpAddr)>> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut found = Vec::new();
    for answer in ask(question, NLM_F_DUMP)? {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        // `Local` is missing where it is the same.
        let mut ip = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(local) => ip = Some(*local),
                AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
                _ => {}
            }
        }
        found.extend(ip.map(|ip| (message.header.index, ip)));
    }
    Ok(found)
}

/// `None` for loopback, and for what is no interface.
fn seen(answer: RouteNetlinkMessage) -> Option<Seen> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let kind = message.header.link_layer_type;
    if kind == LinkLayerType::Loopback {
        return None;
    }
    let mut seen = Seen {
        index: message.header.index,
        name: String::new(),
        ether: kind == LinkLayerType::Ether,
        pair: false,
        netkit: false,
        kind: false,
        other: None,
    };
    let (mut peer, mut number) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => seen.name = name,
            LinkAttribute::Link(index) => peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => number = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                seen.kind = true;
                seen.netkit = infos.contains(&LinkInfo::Kind(InfoKind::Netkit));
                seen.pair = seen.netkit || infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    seen.other = peer.map(|peer| (peer, number));
    Some(seen)
}

/// The interface's name, in the calling thread's namespace.
pub(crate) fn name_of(ifindex: u32) -> io::Result<String> {
    let name = nix::net::if_::if_indextoname(ifindex)?;
    name.into_string().map_err(io::Error::other)
}

/// A classifier's place at an interface, for [`has_filter`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) ifindex: u32,
    /// Frames that it receives, or frames that it sends.
    pub(crate) ingress: bool,
    pub(crate) priority: u16,
    pub(crate) handle: u32,
}

/// Is there a bpf classifier at the place (`RTM_GETTFILTER`)?
pub(crate) fn has_filter(place: Place) -> io::Result<bool> {
    const ETH_P_ALL_BE: u32 = 0x0003_u16.to_be() as u32;
    let mut question = TcMessage::with_index(place.ifindex.cast_signed());
    question.header = TcHeader {
        handle: handle(place.handle),
        parent: TcHandle {
            major: u16::MAX,
            minor: if place.ingress { 0xfff2 } else { 0xfff3 },
        },
        info: u32::from(place.priority) << 16 | ETH_P_ALL_BE,
        ..question.header
    };
    question
        .attributes
        .push(TcAttribute::Kind("bpf".to_owned()));
    match ask(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_ACK) {
        Ok(_) => Ok(true),
        // No such filter; no such discipline; no such interface.
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
    )
}

fn handle(value: u32) -> TcHandle {
    let [a, b, c, d] = value.to_be_bytes();
    TcHandle {
        major: u16::from_be_bytes([a, b]),
        minor: u16::from_be_bytes([c, d]),
    }
}

/// One question in the calling thread's namespace, and all that is answered.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if read(&datagram, &mut answers)? {
            return Ok(answers);
        }
    }
}

/// True with the last part of the answer.
fn read(datagram: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
        // Padded to four bytes; never nothing, so this ends.
        let length = (message.header.length as usize).max(4).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                return match error.code {
                    None => Ok(true),
                    Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                };
            }
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            _ => {}
        }
    }
    Ok(false)
}
