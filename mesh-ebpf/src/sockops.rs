//! `sock_ops` of the agent's and the probers' cgroups: records the tuples of
//! the connections they open, from before the SYN until the socket closes.
//!
//! Until close, not until established: under SYN cookies the ACK runs
//! sk_lookup once more.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops};
use aya_ebpf::helpers::generated::bpf_sock_ops_cb_flags_set;
use aya_ebpf::programs::SockOpsContext;
use core::ptr::{addr_of, read_volatile};
use mesh_common::abi::{Addr, Tuple};
use mesh_common::counter::Counter;
use mesh_common::decide;

use crate::maps::{TUPLES, count};

const TCP_CONNECT_CB: u32 = 3;
const STATE_CB: u32 = 10;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;

pub fn record(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        TCP_CONNECT_CB => {
            // SAFETY: the context is a sock_ops', which this helper takes.
            unsafe {
                bpf_sock_ops_cb_flags_set(ctx.as_ptr().cast(), BPF_SOCK_OPS_STATE_CB_FLAG as i32);
            }
            let value = decide::recorded(mark(ctx.ops));
            if TUPLES.insert(&tuple(ctx.ops), &value, 0).is_err() {
                count(Counter::TupleInsertFailed);
            }
        }
        STATE_CB if ctx.arg(1) == TCP_CLOSE => {
            // An accepted socket's tuple is not in the map: nothing to remove is fine.
            let _ = TUPLES.remove(&tuple(ctx.ops));
        }
        _ => {}
    }
    1
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
