//! The shared types, named once in a global.
//!
//! Map definitions name their key and value types only as type parameters,
//! which BTF does not record. This global is never read: it is there so that
//! the object's BTF describes every shared type, for `cargo xtask check-abi`.

use mesh_common::abi::{Addr, Enrolled, Guard, PodAddr, ProbePort, RefusalEvent, Tuple};

#[repr(C)]
pub struct SharedTypes {
    addr: Addr,
    enrolled: Enrolled,
    tuple: Tuple,
    pod_addr: PodAddr,
    probe_port: ProbePort,
    guard: Guard,
    refusal_event: RefusalEvent,
}

// A section that no loader takes for a map.
#[unsafe(link_section = "abi")]
#[unsafe(no_mangle)]
static SHARED_TYPES: SharedTypes = SharedTypes {
    addr: Addr::UNSET,
    enrolled: Enrolled {
        flags: 0,
        reserved: 0,
        v4: Addr::UNSET,
        v6: Addr::UNSET,
        v6_link_local: Addr::UNSET,
    },
    tuple: Tuple {
        source: Addr::UNSET,
        destination: Addr::UNSET,
        source_port: 0,
        destination_port: 0,
    },
    pod_addr: PodAddr {
        netns_cookie: 0,
        address: Addr::UNSET,
    },
    probe_port: ProbePort {
        netns_cookie: 0,
        port: 0,
        reserved: 0,
    },
    guard: Guard {
        netns_cookie: 0,
        flags: 0,
        reserved: 0,
    },
    refusal_event: RefusalEvent {
        netns_cookie: 0,
        cgroup_id: 0,
        destination: Addr::UNSET,
        destination_port: 0,
        counter: 0,
    },
};
