//! Entry points of the kernel programs: each reads its context, asks
//! `mesh-common` and returns the verdict.
#![no_std]
#![no_main]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a map's key by value is a copy on the kernel's 512 bytes of stack"
)]

mod abi;
mod connect;
mod link_guard;
mod lookup;
mod maps;
mod sockops;

use aya_ebpf::macros::{cgroup_sock_addr, classifier, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext, TcContext};

#[cgroup_sock_addr(connect4)]
pub fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    connect::v4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    connect::v6(&ctx)
}

#[sk_lookup]
pub fn mesh_lookup(ctx: SkLookupContext) -> u32 {
    lookup::steer(&ctx)
}

#[sock_ops]
pub fn mesh_sockops(ctx: SockOpsContext) -> u32 {
    sockops::record(&ctx)
}

#[sock_ops]
pub fn mesh_probes(ctx: SockOpsContext) -> u32 {
    sockops::record_probe(&ctx)
}

#[classifier]
pub fn mesh_leave(ctx: TcContext) -> i32 {
    link_guard::leave(&ctx)
}

#[classifier]
pub fn mesh_enter(ctx: TcContext) -> i32 {
    link_guard::enter(&ctx)
}

// On a host the standard library has one: checks of the whole workspace link it.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier admits no program that can reach this.
    loop {}
}

// Several helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
