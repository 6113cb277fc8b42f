//! Layout of everything that crosses the border between kernel and agent.
//!
//! `repr(C)`, fixed width, explicit padding, byte order in the name. Any
//! change of a map or a type here must raise the number in [`ABI_NAME`]: that is the
//! directory of pins, so two versions never read each other's maps, but for what an agent
//! that takes over from one of another version must know. Of every version are the same:
//! - the names `maps`, `links`, `links/netns-COOKIE`, `links/sockops-agent-CGROUP`,
//!   `links/sockops-probe-NAME` (what begins with `sockops-` stays while an agent of the
//!   version runs) and `links/mesh_connect4` (it captures and refuses while that is there);
//! - the map `AGENTS`, cgroup id (`u64`) to a byte: each makes itself known to the other;
//! - the map `GUARDED`, cgroup id (`u64`) to [`Guard`] with [`GUARD_POD`]: who holds a pod;
//! - the map `LINKS`, interface (`u32`) to cookie (`u64`), and the place of a classifier at
//!   an interface: these outlive pins.
//!
//! What else a version has is its own. `capture/versions.rs` has a test of each.

/// The bpffs directory that all pins of this layout live in.
pub const ABI_NAME: &str = "abi-7";

/// Mark of captured sockets and of deliveries, meaningful only inside a pod's
/// network namespace (marks do not cross a veth). ASCII "mesh".
pub const MARK: u32 = 0x6d65_7368;
/// Mark of an agent's dial that the destination's agent must take, also on this
/// node: its tuple is recorded as such. No rule matches it, so it routes as unmarked.
pub const MARK_THROUGH: u32 = 0x6d65_7369;
/// Routing table that loops marked packets back through `lo`.
pub const TABLE: u32 = 0x6d65;
/// Priority of the `fwmark` rule; after the local table (0), before main (32766).
pub const RULE_PRIORITY: u32 = 100;

/// First (most exposed) interface of every namespace: `lo`.
pub const LOOPBACK_IFINDEX: u32 = 1;

/// Levels of cgroups, the root's included, that are looked at for a guarded ancestor.
pub const MAX_CGROUP_DEPTH: u32 = 32;

/// Enrolled namespaces and pod addresses, bounded per node.
pub const MAX_PODS: u32 = 4096;
/// Live tuples of agent dials and probes. Above the number of sockets that the
/// agent may hold, so that a full map cannot happen before fds run out.
pub const MAX_TUPLES: u32 = 262_144;
/// SYN-ACKs of the agent's listeners: needed from being made until they have left
/// the pod, and until their repetitions have; the oldest go.
pub const MAX_ANSWERS: u32 = 65_536;
/// Links of pods whose node's side is guarded.
pub const MAX_LINKS: u32 = MAX_PODS * 2;
/// Addresses of pods that are left alone.
pub const MAX_EXCLUDED: u32 = MAX_PODS * 2;
pub const MAX_CGROUPS: u32 = 4096;
/// Ports of pods that their own probes name.
pub const MAX_PROBE_PORTS: u32 = MAX_PODS * 4;
/// Bytes of the ring of refusal events; a power of two of pages.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;

/// Value of a tuple that was recorded at connect. Once its SYN came, from
/// outside, to the program of an enrolled namespace: that namespace's cookie.
pub const TUPLE_DIALLED: u64 = 0;
/// Its SYN came to several: it proves nothing. No namespace has this cookie.
pub const TUPLE_AMBIGUOUS: u64 = u64::MAX;
/// An agent's dial that the destination's agent must take: it may leave its pod,
/// and is steered like any other. No namespace has this cookie.
pub const TUPLE_THROUGH: u64 = u64::MAX - 1;

/// A prober's: it reaches the application only at a port that the pod's own probes
/// name. No namespace has this cookie.
pub const TUPLE_PROBED: u64 = u64::MAX - 2;

/// Stands in `mesh_lookup` for the address of the cookie of the namespace that a copy of
/// the program is attached to: that program type has no helper that tells. The agent
/// loads a copy for each pod, with a map in its place that holds the cookie alone.
pub const NETNS_PLACEHOLDER: u64 = 0x6d65_7368_206e_6574;

/// Set for a pod's own cgroup: processes in it may connect from that pod's
/// namespace only. Without it the cgroup only refuses unknown namespaces.
pub const GUARD_POD: u32 = 1;

/// New connections pass in plaintext while no agent runs.
pub const FLAG_FAIL_OPEN: u32 = 1;

/// What the kernel knows of an enrolled namespace (map `ENROLLED`, key: netns cookie).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enrolled {
    /// `FLAG_*`.
    pub flags: u32,
    /// Unused, zero; keeps the addresses aligned to four bytes.
    pub reserved: u32,
    /// The pod's addresses as IPv6, IPv4 mapped; all zero where it has none.
    pub v4: Addr,
    pub v6: Addr,
    /// Its link-local address, at which it may talk to itself; zero likewise.
    pub v6_link_local: Addr,
}

/// An address in network byte order, IPv4 as `::ffff:a.b.c.d`.
///
/// Four words rather than bytes: the programs read and compare words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Addr {
    pub words_be: [u32; 4],
}

impl Addr {
    pub const UNSET: Self = Self { words_be: [0; 4] };

    /// `ip_be` as it stands in memory in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_be(ip_be: u32) -> Self {
        Self {
            words_be: [0, 0, 0xffff_u32.to_be(), ip_be],
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.words_be[0] == 0 && self.words_be[1] == 0 && self.words_be[2] == 0xffff_u32.to_be()
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_set(&self) -> bool {
        (self.words_be[0] | self.words_be[1] | self.words_be[2] | self.words_be[3]) != 0
    }

    /// `0.0.0.0` or `::`, of a socket that is not bound to an address.
    #[inline(always)]
    #[must_use]
    pub const fn is_any(&self) -> bool {
        !self.is_set() || (self.is_v4() && self.words_be[3] == 0)
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return (u32::from_be(self.words_be[3]) >> 24) == 127;
        }
        self.words_be[0] == 0
            && self.words_be[1] == 0
            && self.words_be[2] == 0
            && self.words_be[3] == 1_u32.to_be()
    }

    /// `fe80::/10`: only meaningful with an interface, which a looped packet lost.
    #[inline(always)]
    #[must_use]
    pub const fn is_v6_link_local(&self) -> bool {
        (u32::from_be(self.words_be[0]) >> 22) == (0xfe80_0000 >> 22)
    }
}

/// One direction of a TCP connection as its initiator sees it (maps `TUPLES`, `ANSWERS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: Addr,
    pub destination: Addr,
    /// Both ports in host byte order.
    pub source_port: u32,
    pub destination_port: u32,
}

impl Tuple {
    /// As the other end sees it.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// An address inside one namespace (map `LISTENERS`): while addresses move
/// between pods, two of a node may have the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodAddr {
    pub netns_cookie: u64,
    pub address: Addr,
}

/// A port of a pod that its own probes name (map `PROBE_PORTS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProbePort {
    pub netns_cookie: u64,
    /// Host byte order.
    pub port: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// What is known of a cgroup whose processes are watched (map `GUARDED`, key: cgroup id).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// With `GUARD_POD`: cookie of the pod's namespace, 0 until it is enrolled.
    /// Without: cookie of the node's own, which is known; 0 where none is.
    pub netns_cookie: u64,
    /// `GUARD_*`.
    pub flags: u32,
    /// Unused, zero.
    pub reserved: u32,
}

/// A refusal, for the agent's log (ring `EVENTS`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalEvent {
    pub netns_cookie: u64,
    pub cgroup_id: u64,
    pub destination: Addr,
    /// Host byte order.
    pub destination_port: u32,
    /// [`crate::counter::Counter`] as a number.
    pub counter: u32,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Addr>() == 16);
    assert!(size_of::<Enrolled>() == 56);
    assert!(offset_of!(Enrolled, v4) == 8);
    assert!(offset_of!(Enrolled, v6) == 24);
    assert!(offset_of!(Enrolled, v6_link_local) == 40);
    assert!(size_of::<Tuple>() == 40);
    assert!(offset_of!(Tuple, destination) == 16);
    assert!(offset_of!(Tuple, source_port) == 32);
    assert!(size_of::<PodAddr>() == 24);
    assert!(offset_of!(PodAddr, address) == 8);
    assert!(size_of::<ProbePort>() == 16);
    assert!(offset_of!(ProbePort, port) == 8);
    assert!(size_of::<Guard>() == 16);
    assert!(offset_of!(Guard, flags) == 8);
    assert!(size_of::<RefusalEvent>() == 40);
    assert!(offset_of!(RefusalEvent, destination) == 16);
    assert!(offset_of!(RefusalEvent, destination_port) == 32);
};

#[cfg(feature = "user")]
mod user {
    use super::{Addr, Enrolled, Guard, PodAddr, ProbePort, RefusalEvent, Tuple};
    use core::net::{IpAddr, SocketAddr};

    // SAFETY: repr(C), integers only, no padding (asserted above): every bit pattern is valid.
    unsafe impl aya::Pod for Addr {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Enrolled {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Tuple {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PodAddr {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ProbePort {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Guard {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RefusalEvent {}

    impl Tuple {
        #[must_use]
        pub fn between(source: SocketAddr, destination: SocketAddr) -> Self {
            Self {
                source: source.ip().into(),
                destination: destination.ip().into(),
                source_port: source.port().into(),
                destination_port: destination.port().into(),
            }
        }
    }

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            let bytes = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let word =
                |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
            Self {
                words_be: [word(0), word(4), word(8), word(12)],
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            let mut bytes = [0_u8; 16];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip(addr.words_be) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::V6(bytes.into()).to_canonical()
        }
    }
}
