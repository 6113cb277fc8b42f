//! The maps, by the names that the agent knows them under.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf, SockHash};
use mesh_common::abi::{
    EVENT_RING_BYTES, Enrolled, Guard, MAX_CGROUPS, MAX_PODS, MAX_TUPLES, PodAddr, RefusalEvent,
    Tuple,
};
use mesh_common::counter::Counter;

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
