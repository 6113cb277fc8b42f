//! The second line, on the node's side of a pod's link: refuses what opens a TCP
//! connection past the agent. All else goes on to the next program.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{addr_of, read_volatile};
use mesh_common::abi::{Addr, Enrolled, PodAddr, RefusalEvent, Tuple};
use mesh_common::counter::Counter;
use mesh_common::decide;
use mesh_common::link_guard::{self, Frame, Segment};

use crate::maps::{
    ANSWERS, ENROLLED, EXCLUDED, LINKS, TUPLES, count, is_listening, is_probe_port, refuse,
};

/// `TCX_NEXT`, which is `TC_ACT_UNSPEC`: other programs, a policy's for example, still run.
const NEXT: i32 = -1;
/// `TCX_DROP`, which is `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Frames from the pod, which this end of the link receives.
pub fn leave(ctx: &TcContext) -> i32 {
    match read(ctx) {
        Segment::Other => NEXT,
        Segment::Syn(tuple) => {
            if link_guard::syn_leaves(recorded(&tuple)) {
                return NEXT;
            }
            refuse_unless_open(ctx, &tuple, Counter::GuardRefusedSyn)
        }
        Segment::Answer(tuple, acknowledged) => {
            if is_agents(&tuple, acknowledged) {
                return NEXT;
            }
            let cookie = pod(ctx).0;
            let value = recorded(&tuple);
            let probed =
                value.is_some_and(|value| is_probe_port(value, cookie, tuple.destination_port));
            if link_guard::application_answers(value, probed)
                || is_excluded(cookie, &tuple.destination)
            {
                return NEXT;
            }
            refuse_unless_open(ctx, &tuple, Counter::GuardRefusedAnswer)
        }
        Segment::Unclear => {
            refuse_unless_open(ctx, &Tuple::default(), Counter::GuardRefusedUnclear)
        }
    }
}

/// Frames to the pod, which this end of the link sends. What is unclear here is
/// put together, and answered, on the other side: the answer is looked at.
pub fn enter(ctx: &TcContext) -> i32 {
    let Segment::Syn(tuple) = read(ctx) else {
        return NEXT;
    };
    let (cookie, pod) = pod(ctx);
    let address = &tuple.destination;
    if link_guard::syn_enters(pod, address) || is_excluded(cookie, address) {
        return NEXT;
    }
    refuse_unless_open(ctx, &tuple, Counter::GuardRefusedAddress)
}

struct Skb(*mut __sk_buff);

impl Frame for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes `N` bytes to this stack, also where it fails.
        unsafe {
            let failed = bpf_skb_load_bytes(
                self.0.cast::<c_void>(),
                offset,
                bytes.as_mut_ptr().cast::<c_void>(),
                N as u32,
            );
            if failed != 0 {
                return None;
            }
            Some(bytes.assume_init())
        }
    }
}

#[inline(always)]
fn read(ctx: &TcContext) -> Segment {
    // SAFETY: a field of this program type's context.
    let protocol_be = unsafe { read_volatile(addr_of!((*ctx.skb.skb).protocol)) };
    link_guard::read(&Skb(ctx.skb.skb), u16::from_be(protocol_be as u16))
}

#[inline(always)]
fn recorded(tuple: &Tuple) -> Option<u64> {
    // SAFETY: a copied integer.
    unsafe { TUPLES.get(tuple) }.copied()
}

/// Did a listener of the agent's make this SYN-ACK? Each of them leaves once.
#[inline(always)]
fn is_agents(tuple: &Tuple, acknowledged: u32) -> bool {
    let Some(value) = ANSWERS.get_ptr_mut(tuple) else {
        return false;
    };
    // SAFETY: an aligned word of a map value, which lives through the program.
    unsafe {
        let Some(left) = link_guard::leaves(*value, acknowledged) else {
            return false;
        };
        *value = left;
    }
    true
}

/// Whose link this is; no cookie is 0.
#[inline(always)]
fn pod<'m>(ctx: &TcContext) -> (u64, Option<&'m Enrolled>) {
    // SAFETY: a field of this program type's context.
    let ifindex = unsafe { read_volatile(addr_of!((*ctx.skb.skb).ifindex)) };
    // SAFETY: a copied integer.
    let Some(cookie) = unsafe { LINKS.get(&ifindex) }.copied() else {
        return (0, None);
    };
    // SAFETY: read at once; the agent replaces values whole.
    (cookie, unsafe { ENROLLED.get(&cookie) })
}

#[inline(always)]
fn is_excluded(netns_cookie: u64, address: &Addr) -> bool {
    let key = PodAddr {
        netns_cookie,
        address: *address,
    };
    // SAFETY: presence only.
    unsafe { EXCLUDED.get(&key) }.is_some()
}

/// Off the way of what passes.
#[inline(never)]
fn refuse_unless_open(ctx: &TcContext, tuple: &Tuple, refused: Counter) -> i32 {
    let (cookie, pod) = pod(ctx);
    let listening =
        pod.is_some_and(|pod| decide::fails_open(pod.flags) && is_listening(cookie, pod));
    let (pass, counter) = link_guard::otherwise(pod, listening, refused);
    if pass {
        count(counter);
        return NEXT;
    }
    let event = RefusalEvent {
        netns_cookie: cookie,
        cgroup_id: 0,
        destination: tuple.destination,
        destination_port: tuple.destination_port,
        counter: counter as u32,
    };
    refuse(event, counter);
    DROP
}
