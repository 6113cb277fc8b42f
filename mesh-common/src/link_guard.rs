//! The second line, on the node's side of a pod's link: what a frame may be, and
//! whether it may pass.
//!
//! A TCP connection needs a SYN one way and a SYN-ACK the other. Of a closed pod
//! the first leaves only from a socket of the agent, and the second only from a
//! listener of the agent, or as the answer to a SYN that the agent or a probe
//! sent: then nothing inside the pod, whatever it may change there, opens a
//! connection past the agent. All other packets pass unseen.

use crate::abi::{Addr, Enrolled, FLAG_FAIL_OPEN, Tuple};
use crate::counter::Counter;
use crate::decide;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
/// Ethernet header; a VLAN tag that the kernel did not take off makes it longer.
const L2: u32 = 14;
const VLAN_TAG: u32 = 4;

const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// More fragments, or an offset.
const V4_FRAGMENT: u16 = 0x3fff;
/// The same in an IPv6 fragment header, whose lowest bits are others.
const V6_FRAGMENT: u16 = 0xfff9;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const SCTP: u8 = 132;
/// Extension headers before TCP that are followed; more are nobody's.
const MAX_EXTENSIONS: usize = 6;

/// A TCP header up to its flags.
const TCP_TO_FLAGS: usize = 14;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The bytes of a frame.
pub trait Frame {
    /// `N` bytes from `offset`; `None` where the frame has fewer.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// What a frame does to a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Opens none: another protocol, or a segment without SYN.
    Other,
    /// Asks for one.
    Syn(Tuple),
    /// Answers the SYN of this tuple (its initiator's view), and acknowledges this.
    Answer(Tuple, u32),
    /// May be one of the two: a fragment, or headers that are not understood.
    Unclear,
}

/// `ethertype`: the kernel's, in host byte order, a first VLAN tag already taken off.
#[inline(always)]
#[must_use]
pub fn read(frame: &impl Frame, ethertype: u16) -> Segment {
    if ethertype != ETH_P_8021Q && ethertype != ETH_P_8021AD {
        return network(frame, ethertype, L2);
    }
    let Some(inner) = frame.load::<2>(L2 + 2) else {
        return Segment::Unclear;
    };
    match u16::from_be_bytes(inner) {
        ETH_P_8021Q | ETH_P_8021AD => Segment::Unclear,
        inner => network(frame, inner, L2 + VLAN_TAG),
    }
}

#[inline(always)]
fn network(frame: &impl Frame, ethertype: u16, at: u32) -> Segment {
    match ethertype {
        ETH_P_IP => ipv4(frame, at),
        ETH_P_IPV6 => ipv6(frame, at),
        _ => Segment::Other,
    }
}

#[inline(always)]
fn ipv4(frame: &impl Frame, at: u32) -> Segment {
    let Some(header) = frame.load::<{ IPV4_HEADER as usize }>(at) else {
        return Segment::Unclear;
    };
    if header[9] != TCP {
        return Segment::Other;
    }
    let length = u32::from(header[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & V4_FRAGMENT;
    if length < IPV4_HEADER || fragment != 0 {
        return Segment::Unclear;
    }
    let ip = |i: usize| {
        Addr::from_v4_be(u32::from_ne_bytes([
            header[i],
            header[i + 1],
            header[i + 2],
            header[i + 3],
        ]))
    };
    tcp(frame, at + length, ip(12), ip(16))
}

#[inline(always)]
fn ipv6(frame: &impl Frame, at: u32) -> Segment {
    let Some(header) = frame.load::<{ IPV6_HEADER as usize }>(at) else {
        return Segment::Unclear;
    };
    let mut next = header[6];
    let mut offset = at + IPV6_HEADER;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            TCP => return tcp(frame, offset, v6(&header, 8), v6(&header, 24)),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let Some([then, words]) = frame.load::<2>(offset) else {
                    return Segment::Unclear;
                };
                next = then;
                offset += (u32::from(words) + 1) * 8;
            }
            FRAGMENT => {
                let Some([then, _, high, low]) = frame.load::<4>(offset) else {
                    return Segment::Unclear;
                };
                if u16::from_be_bytes([high, low]) & V6_FRAGMENT != 0 {
                    return fragment(then);
                }
                next = then;
                offset += 8;
            }
            _ => return Segment::Other,
        }
    }
    Segment::Unclear
}

/// A part of a packet; what stands after the fragment header is told by the first
/// part only, as other headers may be between it and TCP.
#[inline(always)]
const fn fragment(next: u8) -> Segment {
    match next {
        UDP | ICMPV6 | SCTP => Segment::Other,
        _ => Segment::Unclear,
    }
}

#[inline(always)]
fn v6(header: &[u8; IPV6_HEADER as usize], at: usize) -> Addr {
    let word = |i: usize| {
        u32::from_ne_bytes([
            header[at + i],
            header[at + i + 1],
            header[at + i + 2],
            header[at + i + 3],
        ])
    };
    Addr {
        words_be: [word(0), word(4), word(8), word(12)],
    }
}

#[inline(always)]
fn tcp(frame: &impl Frame, at: u32, from: Addr, to: Addr) -> Segment {
    let Some(header) = frame.load::<TCP_TO_FLAGS>(at) else {
        return Segment::Unclear;
    };
    let port = |i: usize| u32::from(u16::from_be_bytes([header[i], header[i + 1]]));
    match header[13] & (SYN | ACK) {
        SYN => Segment::Syn(Tuple {
            source: from,
            destination: to,
            source_port: port(0),
            destination_port: port(2),
        }),
        flags if flags == SYN | ACK => Segment::Answer(
            Tuple {
                source: from,
                destination: to,
                source_port: port(0),
                destination_port: port(2),
            }
            .reversed(),
            u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        ),
        _ => Segment::Other,
    }
}

/// May a SYN leave? `tuple`: what is recorded of its connection.
#[inline(always)]
#[must_use]
pub const fn syn_leaves(tuple: Option<u64>) -> bool {
    // Also one that the destination's agent must take; no prober is in a pod.
    matches!(tuple, Some(value) if !decide::is_probe(value))
}

/// May a SYN-ACK leave as the application's own? `tuple`: what is recorded of the
/// connection, by who sent the SYN; `probed`: as for [`decide::is_known`].
#[inline(always)]
#[must_use]
pub const fn application_answers(tuple: Option<u64>, probed: bool) -> bool {
    matches!(tuple, Some(value) if decide::is_known(value, probed))
}

/// Of a SYN-ACK that is made and has not left.
const WAITS: u64 = 1 << 32;

/// What is noted of a SYN-ACK that a listener of the agent's made for a SYN with
/// this sequence number: what it acknowledges, so that it proves nothing for
/// another SYN of the same tuple, and that it waits.
#[inline(always)]
#[must_use]
pub const fn made(sequence: u32) -> u64 {
    WAITS | sequence.wrapping_add(1) as u64
}

/// The same when it is repeated.
#[inline(always)]
#[must_use]
pub const fn made_again(value: u64) -> u64 {
    value | WAITS
}

/// The same when one with this acknowledgement number wants to leave; `None` for
/// one that is not the one that was made.
#[inline(always)]
#[must_use]
pub const fn leaves(value: u64, acknowledged: u32) -> Option<u64> {
    if value == WAITS | acknowledged as u64 {
        Some(value & !WAITS)
    } else {
        None
    }
}

/// May a SYN for `address` enter? To the pod's own it is steered.
#[inline(always)]
#[must_use]
pub fn syn_enters(pod: Option<&Enrolled>, address: &Addr) -> bool {
    pod.is_some_and(|pod| address.is_set() && (*address == pod.v4 || *address == pod.v6))
}

/// What becomes of a frame that may not pass: `pod` is what is known of its pod,
/// `listening` whether the agent has any listener there.
///
/// A link is guarded only for a pod that is wanted, so a pod of which nothing is
/// known is closed.
#[inline(always)]
#[must_use]
pub const fn otherwise(
    pod: Option<&Enrolled>,
    listening: bool,
    refused: Counter,
) -> (bool, Counter) {
    match pod {
        Some(pod) if pod.flags & FLAG_FAIL_OPEN != 0 && !listening => {
            (true, Counter::GuardFailedOpen)
        }
        _ => (false, refused),
    }
}

#[cfg(test)]
mod tests;
