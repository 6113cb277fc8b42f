//! `cgroup/connect4` and `connect6`: marks the connects of enrolled pods.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
    bpf_setsockopt,
};
use aya_ebpf::programs::SockAddrContext;
use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, read_volatile};
use mesh_common::abi::{Addr, Enrolled, MARK, MAX_CGROUP_DEPTH, PodAddr, RefusalEvent};
use mesh_common::counter::Counter;
use mesh_common::decide::{self, Connect, Guarded, Listening};

use crate::maps::{AGENTS, ENROLLED, GUARDED, count, is_listening, listener_exists, refuse};

const ALLOW: i32 = 1;
/// The caller sees EPERM.
const DENY: i32 = 0;

const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
const SO_MARK: i32 = 36;

pub fn v4(ctx: &SockAddrContext) -> i32 {
    // SAFETY: a field of this program type's context; volatile keeps the access whole.
    let ip_be = unsafe { read_volatile(addr_of!((*ctx.sock_addr).user_ip4)) };
    verdict(ctx, &Addr::from_v4_be(ip_be), bound_v4)
}

pub fn v6(ctx: &SockAddrContext) -> i32 {
    let mut destination = Addr::UNSET;
    // One volatile read per word: a wider or computed access is refused by the verifier.
    // SAFETY: fields of this program type's context.
    unsafe {
        destination.words_be[0] = read_volatile(addr_of!((*ctx.sock_addr).user_ip6[0]));
        destination.words_be[1] = read_volatile(addr_of!((*ctx.sock_addr).user_ip6[1]));
        destination.words_be[2] = read_volatile(addr_of!((*ctx.sock_addr).user_ip6[2]));
        destination.words_be[3] = read_volatile(addr_of!((*ctx.sock_addr).user_ip6[3]));
    }
    verdict(ctx, &destination, bound_v6)
}

#[inline(always)]
fn verdict(
    ctx: &SockAddrContext,
    destination: &Addr,
    bound: impl Fn(&SockAddrContext) -> Option<Addr>,
) -> i32 {
    // SAFETY: a field of this program type's context.
    let protocol = unsafe { read_volatile(addr_of!((*ctx.sock_addr).protocol)) };
    if !decide::is_tcp(protocol) {
        return ALLOW;
    }
    // SAFETY: the context is a sock_addr's, which this helper takes.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: plain helper without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // Before all else: an agent below a guarded cgroup is never refused.
    // SAFETY: presence only.
    if unsafe { AGENTS.get(&cgroup) }.is_some() {
        return ALLOW;
    }
    let guards = guards();
    // SAFETY: the value is copied at once; the agent replaces values whole.
    let Some(pod) = (unsafe { ENROLLED.get(&cookie) }) else {
        let verdict = decide::connect_unknown(guards.refuses_unknown(cookie), destination);
        return finish(ctx, verdict, destination, cookie, cgroup);
    };
    if guards.is_foreign(cookie) {
        let verdict = Connect::Refuse(Counter::ConnectRefusedForeignSocket);
        return finish(ctx, verdict, destination, cookie, cgroup);
    }
    let mut verdict = decide::connect(pod, destination, listening(cookie, pod, destination));
    if verdict == Connect::Capture {
        verdict = match bound(ctx) {
            Some(source) => decide::from_source(pod, destination, &source),
            None => Connect::Refuse(Counter::ConnectRefusedSource),
        };
    }
    finish(ctx, verdict, destination, cookie, cgroup)
}

#[inline(always)]
fn listening(netns_cookie: u64, pod: &Enrolled, destination: &Addr) -> Listening {
    if !decide::needs_listener(pod, destination) {
        return Listening::default();
    }
    let here = listener_exists(&PodAddr {
        netns_cookie,
        address: *decide::own_address(pod, destination),
    });
    // Asked only where it decides.
    let any = here || (decide::fails_open(pod.flags) && is_listening(netns_cookie, pod));
    Listening { here, any }
}

/// The address that the socket is bound to; none where the kernel gives no socket.
#[inline(always)]
fn bound_v4(ctx: &SockAddrContext) -> Option<Addr> {
    // SAFETY: the context's socket, which the verifier lets be read once it is not null.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            return None;
        }
        Some(Addr::from_v4_be(read_volatile(addr_of!((*sk).src_ip4))))
    }
}

/// The same of an IPv6 socket; one bound to `::ffff:a.b.c.d` gives that.
#[inline(always)]
fn bound_v6(ctx: &SockAddrContext) -> Option<Addr> {
    let mut source = Addr::UNSET;
    // SAFETY: as above.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            return None;
        }
        source.words_be[0] = read_volatile(addr_of!((*sk).src_ip6[0]));
        source.words_be[1] = read_volatile(addr_of!((*sk).src_ip6[1]));
        source.words_be[2] = read_volatile(addr_of!((*sk).src_ip6[2]));
        source.words_be[3] = read_volatile(addr_of!((*sk).src_ip6[3]));
    }
    Some(source)
}

#[inline(always)]
fn finish(
    ctx: &SockAddrContext,
    verdict: Connect,
    to: &Addr,
    netns_cookie: u64,
    cgroup_id: u64,
) -> i32 {
    #[cfg(feature = "debug-log")]
    log(ctx, &verdict, netns_cookie, cgroup_id);
    let counter = match verdict {
        Connect::Pass => return ALLOW,
        Connect::PassFailOpen => {
            count(Counter::ConnectFailedOpen);
            return ALLOW;
        }
        Connect::Capture => match capture(ctx) {
            Ok(()) => {
                count(Counter::ConnectCaptured);
                return ALLOW;
            }
            Err(counter) => counter,
        },
        Connect::Refuse(counter) => counter,
    };
    // SAFETY: a field of this program type's context.
    let port_be = unsafe { read_volatile(addr_of!((*ctx.sock_addr).user_port)) };
    let event = RefusalEvent {
        netns_cookie,
        cgroup_id,
        destination: *to,
        destination_port: u32::from(u16::from_be(port_be as u16)),
        counter: counter as u32,
    };
    refuse(event, counter);
    DENY
}

#[cfg(feature = "debug-log")]
#[inline(always)]
fn log(ctx: &SockAddrContext, verdict: &Connect, netns_cookie: u64, cgroup_id: u64) {
    let verdict = match verdict {
        Connect::Pass => "pass",
        Connect::PassFailOpen => "pass, fail open",
        Connect::Capture => "capture",
        Connect::Refuse(_) => "refuse",
    };
    aya_log_ebpf::debug!(
        ctx,
        "connect netns {} cgroup {}: {}",
        netns_cookie,
        cgroup_id,
        verdict
    );
}

/// Unbinds the socket from its device, for a looped SYN leaves through `lo`, and marks it.
#[inline(always)]
fn capture(ctx: &SockAddrContext) -> Result<(), Counter> {
    if bound_device(ctx) != 0 {
        let mut none = 0_u32;
        if set(ctx, SO_BINDTODEVICE, &mut none) != 0 {
            return Err(Counter::ConnectRefusedDevice);
        }
    }
    let mut mark = MARK;
    if set(ctx, SO_MARK, &mut mark) != 0 {
        return Err(Counter::ConnectRefusedMark);
    }
    Ok(())
}

#[inline(always)]
fn bound_device(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context's socket; the verifier knows it as a bpf_sock, never null here.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            return 0;
        }
        read_volatile(addr_of!((*sk).bound_dev_if))
    }
}

#[inline(always)]
fn set(ctx: &SockAddrContext, option: i32, value: &mut u32) -> i64 {
    // SAFETY: the value lives on this stack for the call and is four bytes long.
    unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_SOCKET,
            option,
            addr_of_mut!(*value).cast::<c_void>(),
            4,
        ) as i64
    }
}

/// What the caller's cgroups are known as.
#[inline(always)]
fn guards() -> Guarded {
    let mut guarded = Guarded::default();
    for level in 0..MAX_CGROUP_DEPTH {
        // SAFETY: plain helper; 0 past the caller's own level.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        // SAFETY: the value is read at once; the agent replaces values whole.
        if let Some(guard) = unsafe { GUARDED.get(&id) } {
            guarded.add(guard);
        }
    }
    guarded
}
