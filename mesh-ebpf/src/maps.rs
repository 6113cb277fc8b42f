//! The maps, by the names that the agent knows them under.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash};
use core::ffi::c_void;
use core::ptr::addr_of;
use mesh_common::abi::{
    Addr, EVENT_RING_BYTES, Enrolled, Guard, MAX_ANSWERS, MAX_CGROUPS, MAX_EXCLUDED, MAX_LINKS,
    MAX_PODS, MAX_PROBE_PORTS, MAX_TUPLES, PodAddr, ProbePort, RefusalEvent, Tuple,
};
use mesh_common::counter::Counter;
use mesh_common::decide;

/// netns cookie -> pod.
#[map]
pub static ENROLLED: HashMap<u64, Enrolled> = HashMap::pinned(MAX_PODS, 0);
/// Pod's namespace and address -> one member of the agent's listener group for it.
#[map]
pub static LISTENERS: SockHash<PodAddr> = SockHash::pinned(MAX_PODS * 2, 0);
/// Connections that the agent or a probe opened, until they close; the cookie
/// of the namespace that they came to, or `TUPLE_*`.
#[map]
pub static TUPLES: HashMap<Tuple, u64> = HashMap::pinned(MAX_TUPLES, 1);
/// SYN-ACKs that the agent's listeners made for connections from elsewhere, by
/// those; see `mesh_common::link_guard::made`.
#[map]
pub static ANSWERS: LruHashMap<Tuple, u64> = LruHashMap::pinned(MAX_ANSWERS, 0);
/// Interface on the node -> namespace of the pod at the other end of that link.
#[map]
pub static LINKS: HashMap<u32, u64> = HashMap::pinned(MAX_LINKS, 0);
/// Addresses of pods that are left alone: connections to them are nobody's business.
#[map]
pub static EXCLUDED: HashMap<PodAddr, u8> = HashMap::pinned(MAX_EXCLUDED, 0);
/// Ports of pods that their own probes name.
#[map]
pub static PROBE_PORTS: HashMap<ProbePort, u8> = HashMap::pinned(MAX_PROBE_PORTS, 1);
/// cgroup ids of agents: more than one during a hand-over.
#[map]
pub static AGENTS: HashMap<u64, u8> = HashMap::pinned(16, 0);
/// cgroup id -> whose cgroup it is; below it unknown and foreign namespaces are refused.
#[map]
pub static GUARDED: HashMap<u64, Guard> = HashMap::pinned(MAX_CGROUPS, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(Counter::ALL.len() as u32, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::pinned(EVENT_RING_BYTES, 0);

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is to this CPU's slot, and programs on a CPU do not nest here.
        unsafe { *value += 1 };
    }
}

/// Counts a refusal and tells the agent of it; a full ring loses only the event.
#[inline(always)]
pub fn refuse(event: RefusalEvent, counter: Counter) {
    count(counter);
    if EVENTS
        .output::<RefusalEvent>(&event, u64::from(BPF_RB_NO_WAKEUP))
        .is_err()
    {
        count(Counter::EventLost);
    }
}

/// What `with` makes of the agent's listener for that address there; `None` where
/// there is none.
#[inline(always)]
pub fn with_listener<T>(key: &PodAddr, with: impl FnOnce(*mut c_void) -> T) -> Option<T> {
    // SAFETY: map and key are valid; a socket found is released, as the verifier demands.
    unsafe {
        let sk = bpf_map_lookup_elem(
            addr_of!(LISTENERS).cast_mut().cast::<c_void>(),
            addr_of!(*key).cast::<c_void>(),
        );
        if sk.is_null() {
            return None;
        }
        let made = with(sk);
        bpf_sk_release(sk);
        Some(made)
    }
}

/// Do the pod's own probes name the port? Asked only of what is a prober's.
#[inline(always)]
pub fn is_probe_port(value: u64, netns_cookie: u64, port: u32) -> bool {
    let key = ProbePort {
        netns_cookie,
        port,
        reserved: 0,
    };
    // SAFETY: presence only.
    decide::is_probe(value) && unsafe { PROBE_PORTS.get(&key) }.is_some()
}

/// Does the agent listen for that address there?
#[inline(always)]
pub fn listener_exists(key: &PodAddr) -> bool {
    with_listener(key, |_| ()).is_some()
}

/// Does the agent listen for any address of the pod?
#[inline(always)]
pub fn is_listening(netns_cookie: u64, pod: &Enrolled) -> bool {
    let exists = |address: Addr| {
        listener_exists(&PodAddr {
            netns_cookie,
            address,
        })
    };
    exists(pod.v4) || exists(pod.v6)
}
