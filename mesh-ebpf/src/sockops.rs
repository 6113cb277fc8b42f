//! `sock_ops` of the agent's and the probers' cgroups: records the tuples of
//! the connections they open, from before the SYN until the socket closes, and
//! the SYN-ACKs that their listeners make, each before it is sent.
//!
//! Until close, not until established: under SYN cookies the ACK runs
//! sk_lookup once more.
//!
//! The kernel tells of a SYN-ACK where the listener's program may add options to
//! it; none are added. Accepted sockets inherit that, and are freed of it before
//! they send.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_getsockopt, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::programs::SockOpsContext;
use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, read_volatile};
use mesh_common::abi::{Addr, TUPLE_PROBED, Tuple};
use mesh_common::counter::Counter;
use mesh_common::{decide, link_guard};

use crate::maps::{ANSWERS, ENROLLED, TUPLES, count};

const TCP_CONNECT_CB: u32 = 3;
const PASSIVE_ESTABLISHED_CB: u32 = 5;
const STATE_CB: u32 = 10;
const TCP_LISTEN_CB: u32 = 11;
const HDR_OPT_LEN_CB: u32 = 14;
const SOL_TCP: i32 = 6;
/// The SYN's TCP header.
const TCP_BPF_SYN: i32 = 1005;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;

pub fn record(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        TCP_CONNECT_CB => note(ctx, decide::recorded(mark(ctx.ops))),
        STATE_CB => forget(ctx),
        TCP_LISTEN_CB => set_flags(ctx, flags(ctx) | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG),
        PASSIVE_ESTABLISHED_CB => {
            set_flags(ctx, flags(ctx) & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
        }
        // Of a full socket it is no SYN-ACK.
        HDR_OPT_LEN_CB if !is_fullsock(ctx) => answer(ctx),
        _ => {}
    }
    1
}

/// The same for a prober, of which only the connections matter.
pub fn record_probe(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        TCP_CONNECT_CB => note(ctx, TUPLE_PROBED),
        STATE_CB => forget(ctx),
        _ => {}
    }
    1
}

#[inline(always)]
fn note(ctx: &SockOpsContext, value: u64) {
    set_flags(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    if TUPLES.insert(&tuple(ctx.ops), &value, 0).is_err() {
        count(Counter::TupleInsertFailed);
    }
}

#[inline(always)]
fn forget(ctx: &SockOpsContext) {
    if ctx.arg(1) == TCP_CLOSE {
        // An accepted socket's tuple is not in the map: nothing to remove is fine.
        let _ = TUPLES.remove(&tuple(ctx.ops));
    }
}

/// Notes a SYN-ACK to elsewhere: it may leave the pod. One that could not be noted
/// is refused there, and noted when it is repeated, a second later: the agent's
/// listeners keep the SYN that they answer (`TCP_SAVE_SYN`), which else is at hand
/// only the first time.
#[inline(always)]
fn answer(ctx: &SockOpsContext) {
    let own = tuple(ctx.ops);
    // SAFETY: the context is a sock_ops', which this helper takes.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // To the pod itself, which was captured on its way out, it does not leave.
    // SAFETY: read at once; the agent replaces values whole.
    if !link_guard::syn_enters(unsafe { ENROLLED.get(&cookie) }, &own.source) {
        return;
    }
    let asked = own.reversed();
    let Some(sequence) = sequence(ctx) else {
        // Repeated, and there was no memory to keep the SYN.
        if let Some(value) = ANSWERS.get_ptr_mut(&asked) {
            // SAFETY: an aligned word of a map value, which lives through the program.
            unsafe { *value = link_guard::made_again(*value) };
        }
        return;
    };
    let made = link_guard::made(sequence);
    // In its place where there is one: an insertion would make another entry.
    if let Some(value) = ANSWERS.get_ptr_mut(&asked) {
        // SAFETY: as above.
        unsafe { *value = made };
    } else if ANSWERS.insert(&asked, &made, 0).is_err() {
        count(Counter::TupleInsertFailed);
    }
}

/// Sequence number of the SYN that is answered.
#[inline(always)]
fn sequence(ctx: &SockOpsContext) -> Option<u32> {
    // Ports, then the number; the header is longer, which the kernel calls an error.
    const NO_SPACE: i64 = -28;
    let mut begin = [0_u32; 2];
    // SAFETY: the helper writes at most eight bytes to this stack, and takes this context.
    let got = unsafe {
        bpf_getsockopt(
            ctx.as_ptr(),
            SOL_TCP,
            TCP_BPF_SYN,
            addr_of_mut!(begin).cast::<c_void>(),
            8,
        )
    } as i64;
    (got == NO_SPACE || got >= 8).then(|| u32::from_be(begin[1]))
}

#[inline(always)]
fn flags(ctx: &SockOpsContext) -> u32 {
    // SAFETY: a field of this program type's context.
    unsafe { read_volatile(addr_of!((*ctx.ops).bpf_sock_ops_cb_flags)) }
}

#[inline(always)]
fn set_flags(ctx: &SockOpsContext, flags: u32) {
    // SAFETY: the context is a sock_ops', which this helper takes.
    unsafe {
        bpf_sock_ops_cb_flags_set(ctx.as_ptr().cast(), flags as i32);
    }
}

#[inline(always)]
fn is_fullsock(ctx: &SockOpsContext) -> bool {
    // SAFETY: a field of this program type's context.
    unsafe { read_volatile(addr_of!((*ctx.ops).is_fullsock)) != 0 }
}

/// The socket's mark; none where the kernel gives no full socket.
#[inline(always)]
fn mark(ctx: *mut bpf_sock_ops) -> Option<u32> {
    // SAFETY: the context's socket, which the verifier lets be read once it is not null.
    unsafe {
        let sk = (*ctx).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        Some(read_volatile(addr_of!((*sk).mark)))
    }
}

#[inline(always)]
fn tuple(ctx: *mut bpf_sock_ops) -> Tuple {
    // Both families are read always, as in `lookup`.
    // SAFETY: fields of this program type's context.
    unsafe {
        let v4 = (
            read_volatile(addr_of!((*ctx).local_ip4)),
            read_volatile(addr_of!((*ctx).remote_ip4)),
        );
        let mut tuple = Tuple {
            source: Addr::UNSET,
            destination: Addr::UNSET,
            source_port: read_volatile(addr_of!((*ctx).local_port)),
            // The kernel gives the port in network order in the word's upper half.
            destination_port: u32::from_be(read_volatile(addr_of!((*ctx).remote_port))) & 0xffff,
        };
        tuple.source.words_be[0] = read_volatile(addr_of!((*ctx).local_ip6[0]));
        tuple.source.words_be[1] = read_volatile(addr_of!((*ctx).local_ip6[1]));
        tuple.source.words_be[2] = read_volatile(addr_of!((*ctx).local_ip6[2]));
        tuple.source.words_be[3] = read_volatile(addr_of!((*ctx).local_ip6[3]));
        tuple.destination.words_be[0] = read_volatile(addr_of!((*ctx).remote_ip6[0]));
        tuple.destination.words_be[1] = read_volatile(addr_of!((*ctx).remote_ip6[1]));
        tuple.destination.words_be[2] = read_volatile(addr_of!((*ctx).remote_ip6[2]));
        tuple.destination.words_be[3] = read_volatile(addr_of!((*ctx).remote_ip6[3]));
        if read_volatile(addr_of!((*ctx).family)) == AF_INET {
            tuple.source = Addr::from_v4_be(v4.0);
            tuple.destination = Addr::from_v4_be(v4.1);
        }
        tuple
    }
}
