//! `sk_lookup` of a pod's namespace: hands SYNs to the agent's listener.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::helpers::generated::bpf_sk_assign;
use aya_ebpf::programs::SkLookupContext;
use core::ptr::{addr_of, read_volatile};
use mesh_common::abi::{Addr, NETNS_PLACEHOLDER, PodAddr, TUPLE_THROUGH, Tuple};
use mesh_common::counter::Counter;
use mesh_common::decide::{self, Steer};

use crate::maps::{ENROLLED, EXCLUDED, TUPLES, count, is_listening, is_probe_port, with_listener};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
const AF_INET: u32 = 2;
/// `BPF_SK_LOOKUP_F_REPLACE`.
const REPLACE: u64 = 1;

pub fn steer(ctx: &SkLookupContext) -> u32 {
    let Some(packet) = read(ctx.lookup) else {
        // Not TCP.
        return SK_PASS;
    };
    let netns_cookie = own_netns();
    let tuple = TUPLES.get_ptr_mut(&packet.tuple);
    let recorded = match tuple {
        // SAFETY: an aligned word of a map value, which lives through the program.
        Some(value) => unsafe { *value },
        None => TUPLE_THROUGH,
    };
    let probed = is_probe_port(recorded, netns_cookie, packet.tuple.destination_port);
    let tuple = tuple.filter(|_| decide::is_known(recorded, probed));
    if decide::is_probe(recorded) && !probed {
        count(Counter::SteerProbeElsewhere);
    }
    let (remote, local) = (&packet.tuple.source, &packet.tuple.destination);
    let (address, counter) = match decide::steer(remote, local, packet.ifindex, tuple.is_some()) {
        Steer::Pass => {
            if let Some(value) = tuple {
                if decide::proves_entry(recorded, packet.ifindex) {
                    // SAFETY: as above.
                    unsafe { *value = decide::entered(*value, netns_cookie) };
                }
                count(match probed {
                    true => Counter::SteerPassedProbe,
                    false => Counter::SteerPassedTuple,
                });
            }
            return SK_PASS;
        }
        Steer::Outbound => (remote, Counter::SteeredOutbound),
        Steer::Inbound => (local, Counter::SteeredInbound),
    };
    let key = PodAddr {
        netns_cookie,
        address: *address,
    };
    if assign(ctx, &key) {
        count(counter);
        return SK_PASS;
    }
    let (pass, counter) = unassigned(&key, counter);
    count(counter);
    if pass { SK_PASS } else { SK_DROP }
}

/// What becomes of a SYN for an address that has no listener.
#[inline(always)]
fn unassigned(key: &PodAddr, steered: Counter) -> (bool, Counter) {
    // SAFETY: presence only.
    if steered == Counter::SteeredInbound && unsafe { EXCLUDED.get(key) }.is_some() {
        return (true, Counter::SteerExcluded);
    }
    // SAFETY: read at once; the agent replaces values whole.
    let Some(pod) = (unsafe { ENROLLED.get(&key.netns_cookie) }) else {
        return decide::without_listener(0, false);
    };
    let listening = decide::fails_open(pod.flags) && is_listening(key.netns_cookie, pod);
    decide::without_listener(pod.flags, listening)
}

/// Cookie of the namespace that this copy of the program is attached to.
#[inline(always)]
fn own_netns() -> u64 {
    // Opaque, so that the constant stays whole in one instruction, where the
    // agent finds it.
    let cookie = core::hint::black_box(NETNS_PLACEHOLDER) as *const u64;
    // SAFETY: in each copy that is loaded it is the address of a map's value of eight
    // bytes, which lives as long as the program.
    unsafe { read_volatile(cookie) }
}

struct Packet {
    tuple: Tuple,
    ifindex: u32,
}

#[inline(always)]
fn read(ctx: *mut bpf_sk_lookup) -> Option<Packet> {
    // Both families are read always: reads in branches are merged into one
    // through a computed context pointer, which the verifier refuses. The other
    // family's fields read as zero.
    // SAFETY: fields of this program type's context.
    unsafe {
        if read_volatile(addr_of!((*ctx).protocol)) != 6 {
            return None;
        }
        let v4 = (
            read_volatile(addr_of!((*ctx).remote_ip4)),
            read_volatile(addr_of!((*ctx).local_ip4)),
        );
        let mut tuple = Tuple {
            source: Addr::UNSET,
            destination: Addr::UNSET,
            source_port: u32::from(u16::from_be(read_volatile(addr_of!((*ctx).remote_port)))),
            destination_port: read_volatile(addr_of!((*ctx).local_port)),
        };
        tuple.source.words_be[0] = read_volatile(addr_of!((*ctx).remote_ip6[0]));
        tuple.source.words_be[1] = read_volatile(addr_of!((*ctx).remote_ip6[1]));
        tuple.source.words_be[2] = read_volatile(addr_of!((*ctx).remote_ip6[2]));
        tuple.source.words_be[3] = read_volatile(addr_of!((*ctx).remote_ip6[3]));
        tuple.destination.words_be[0] = read_volatile(addr_of!((*ctx).local_ip6[0]));
        tuple.destination.words_be[1] = read_volatile(addr_of!((*ctx).local_ip6[1]));
        tuple.destination.words_be[2] = read_volatile(addr_of!((*ctx).local_ip6[2]));
        tuple.destination.words_be[3] = read_volatile(addr_of!((*ctx).local_ip6[3]));
        if read_volatile(addr_of!((*ctx).family)) == AF_INET {
            tuple.source = Addr::from_v4_be(v4.0);
            tuple.destination = Addr::from_v4_be(v4.1);
        }
        let ifindex = read_volatile(addr_of!((*ctx).ingress_ifindex));
        Some(Packet { tuple, ifindex })
    }
}

/// Gives the packet to the listener of that address here; false where there is none.
/// Also where another program has chosen a socket, as that of an agent of another
/// version does which this one takes over from.
#[inline(always)]
fn assign(ctx: &SkLookupContext, key: &PodAddr) -> bool {
    // SAFETY: the context is an sk_lookup's, and the socket is there until it is released.
    let assigned = with_listener(key, |sk| unsafe {
        bpf_sk_assign(ctx.as_ptr(), sk, REPLACE)
    });
    assigned == Some(0)
}
