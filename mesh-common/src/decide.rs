//! What the kernel decides, as pure functions of what the programs looked up.
//!
//! Small and branch-only, for the verifier. The rule behind each default: a
//! lookup that misses never ends in plaintext for a fail-closed pod.

use crate::abi::{
    Addr, Enrolled, FLAG_FAIL_OPEN, GUARD_POD, Guard, LOOPBACK_IFINDEX, MARK_THROUGH,
    TUPLE_AMBIGUOUS, TUPLE_DIALLED, TUPLE_PROBED, TUPLE_THROUGH,
};
use crate::counter::Counter;

const IPPROTO_TCP: u32 = 6;
/// `IPPROTO_MPTCP`: what the connect hook sees of an MPTCP socket.
const IPPROTO_MPTCP: u32 = 262;

/// Is this socket's protocol carried by the mesh?
#[inline(always)]
#[must_use]
pub const fn is_tcp(protocol: u32) -> bool {
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// What a connect hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// Not ours: leave the socket alone.
    Pass,
    /// Fail-open without an agent: leave it alone, and count.
    PassFailOpen,
    /// Mark the socket, so that its SYN loops back to the agent.
    Capture,
    Refuse(Counter),
}

/// Which of the agent's listeners a pod has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// For its address of the destination's family.
    pub here: bool,
    /// For any of its addresses. Matters to fail-open pods only: they are open
    /// where there is no agent, and not where it does not take a connection.
    pub any: bool,
}

#[inline(always)]
#[must_use]
pub const fn fails_open(flags: u32) -> bool {
    flags & FLAG_FAIL_OPEN != 0
}

/// A TCP connect in an enrolled namespace, not by the agent. Callers look for
/// listeners only for [`needs_listener`].
#[inline(always)]
#[must_use]
pub fn connect(pod: &Enrolled, destination: &Addr, listening: Listening) -> Connect {
    if !needs_listener(pod, destination) {
        return Connect::Pass;
    }
    let refused = if destination.is_v6_link_local() || !own_address(pod, destination).is_set() {
        Counter::ConnectRefusedFamily
    } else if listening.here {
        return Connect::Capture;
    } else {
        Counter::ConnectRefusedNoAgent
    };
    if fails_open(pod.flags) && !listening.any {
        Connect::PassFailOpen
    } else {
        Connect::Refuse(refused)
    }
}

/// A pod may not speak as another address than its own. Asked only of a connect
/// that is to be captured; `source`: what the socket is bound to.
#[inline(always)]
#[must_use]
pub fn from_source(pod: &Enrolled, destination: &Addr, source: &Addr) -> Connect {
    if source.is_any() || source == own_address(pod, destination) {
        Connect::Capture
    } else {
        Connect::Refuse(Counter::ConnectRefusedSource)
    }
}

/// False for the pod talking to itself, which is nobody's business: for the kernel
/// `0.0.0.0`, `::` and `::ffff:0.0.0.0` are the caller's own host.
#[inline(always)]
#[must_use]
pub fn needs_listener(pod: &Enrolled, destination: &Addr) -> bool {
    !(destination.is_loopback() || destination.is_any() || is_own(pod, destination))
}

#[inline(always)]
fn is_own(pod: &Enrolled, addr: &Addr) -> bool {
    addr.is_set() && (*addr == pod.v4 || *addr == pod.v6 || *addr == pod.v6_link_local)
}

/// The pod's address of the family of `peer`; unset where it has none.
#[inline(always)]
#[must_use]
pub fn own_address<'p>(pod: &'p Enrolled, peer: &Addr) -> &'p Addr {
    if peer.is_v4() { &pod.v4 } else { &pod.v6 }
}

/// A connect from a namespace that nobody enrolled.
#[inline(always)]
#[must_use]
pub const fn connect_unknown(guarded: bool, destination: &Addr) -> Connect {
    if guarded && !destination.is_loopback() && !destination.is_any() {
        Connect::Refuse(Counter::ConnectRefusedUnknownNetns)
    } else {
        Connect::Pass
    }
}

/// What the cgroups above a caller say, from the root down.
///
/// Of nested pods' cgroups the innermost counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    any: bool,
    pod: bool,
    netns_cookie: u64,
    node_cookie: u64,
}

impl Guarded {
    #[inline(always)]
    pub const fn add(&mut self, guard: &Guard) {
        self.any = true;
        if guard.flags & GUARD_POD != 0 {
            self.pod = true;
            self.netns_cookie = guard.netns_cookie;
        } else {
            self.node_cookie = guard.netns_cookie;
        }
    }

    /// May the caller not connect from the namespace, which nobody enrolled? From the
    /// node's own it may: pods on the host network are left alone.
    #[inline(always)]
    #[must_use]
    pub const fn refuses_unknown(&self, socket_cookie: u64) -> bool {
        self.any && (self.pod || self.node_cookie == 0 || self.node_cookie != socket_cookie)
    }

    /// May the caller not connect with a socket of the enrolled namespace
    /// `socket_cookie`? True for one received from another pod, for a process
    /// that went into another pod, and while the caller's own is not enrolled.
    #[inline(always)]
    #[must_use]
    pub const fn is_foreign(&self, socket_cookie: u64) -> bool {
        self.pod && self.netns_cookie != socket_cookie
    }
}

/// What is recorded of a connect in an agent's cgroup, by its mark.
/// One whose mark cannot be read is captured at its destination.
#[inline(always)]
#[must_use]
pub const fn recorded(mark: Option<u32>) -> u64 {
    match mark {
        Some(mark) if mark != MARK_THROUGH => TUPLE_DIALLED,
        _ => TUPLE_THROUGH,
    }
}

/// Is a SYN with this recorded value let through to the application? `probed`: its
/// pod's own probes name the port that it is for; asked for only of a [`is_probe`].
#[inline(always)]
#[must_use]
pub const fn is_known(value: u64, probed: bool) -> bool {
    if is_probe(value) {
        probed
    } else {
        value != TUPLE_THROUGH
    }
}

/// Is it a prober's? Anybody may have a prober connect to anything.
#[inline(always)]
#[must_use]
pub const fn is_probe(value: u64) -> bool {
    value == TUPLE_PROBED
}

/// Does a SYN with a known tuple prove that its connection reached an enrolled namespace?
/// Not over `lo`, where a pod could forge it.
#[inline(always)]
#[must_use]
pub const fn proves_entry(value: u64, ifindex: u32) -> bool {
    // A probe is no dial of the agent's, and stays what it is.
    ifindex != LOOPBACK_IFINDEX && !is_probe(value)
}

/// Value of a known tuple whose SYN proves its entry at the namespace `cookie`.
#[inline(always)]
#[must_use]
pub const fn entered(value: u64, cookie: u64) -> u64 {
    if value == TUPLE_DIALLED || value == cookie {
        cookie
    } else {
        TUPLE_AMBIGUOUS
    }
}

/// Whose listener a SYN inside a pod's namespace belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// The application's own sockets.
    Pass,
    /// The agent, as a connection that a local process makes: listener of the remote address.
    Outbound,
    /// The agent, as a connection from elsewhere: listener of the local address.
    Inbound,
}

/// `known_tuple`: the agent or a probe opened this very connection.
///
/// A looped SYN is told by its interface: the capture table's route has the
/// device `lo`. A pod's traffic to its own address reads its own device, and is
/// told by remote == local.
#[inline(always)]
#[must_use]
pub fn steer(remote: &Addr, local: &Addr, ifindex: u32, known_tuple: bool) -> Steer {
    let looped = ifindex == LOOPBACK_IFINDEX;
    // From elsewhere nothing is for loopback, unless a rule in the pod makes it so.
    if known_tuple || remote == local || (looped && local.is_loopback()) {
        return Steer::Pass;
    }
    if looped {
        Steer::Outbound
    } else {
        Steer::Inbound
    }
}

/// What happens to a SYN whose listener is not there. `listening`: the agent has
/// any listener in the namespace.
#[inline(always)]
#[must_use]
pub const fn without_listener(flags: u32, listening: bool) -> (bool, Counter) {
    if fails_open(flags) && !listening {
        (true, Counter::SteerFailedOpen)
    } else {
        (false, Counter::SteerDropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(text: &str) -> Addr {
        let ip: Ipv4Addr = text.parse().expect("an address");
        Addr::from_v4_be(u32::from_ne_bytes(ip.octets()))
    }

    fn v6(text: &str) -> Addr {
        let bytes = text.parse::<Ipv6Addr>().expect("an address").octets();
        let mut words_be = [0; 4];
        for (i, chunk) in bytes.chunks_exact(4).enumerate() {
            words_be[i] = u32::from_ne_bytes(chunk.try_into().expect("four bytes"));
        }
        Addr { words_be }
    }

    fn pod(flags: u32) -> Enrolled {
        Enrolled {
            flags,
            v4: v4("10.0.0.5"),
            v6: v6("fd00::5"),
            v6_link_local: v6("fe80::5"),
            ..Enrolled::default()
        }
    }

    const NONE: Listening = Listening {
        here: false,
        any: false,
    };
    const BOTH: Listening = Listening {
        here: true,
        any: true,
    };
    const OTHER_FAMILY: Listening = Listening {
        here: false,
        any: true,
    };

    #[test]
    fn a_dial_that_came_to_two_namespaces_proves_neither() {
        let first = entered(TUPLE_DIALLED, 7);
        assert_eq!(first, 7);
        assert_eq!(entered(first, 7), 7, "its SYN once more");
        assert_eq!(entered(first, 8), TUPLE_AMBIGUOUS);
        assert_eq!(entered(TUPLE_AMBIGUOUS, 7), TUPLE_AMBIGUOUS);
    }

    #[test]
    fn loopback_and_link_local_are_recognised() {
        assert!(v4("127.8.9.1").is_loopback());
        assert!(v6("::1").is_loopback());
        assert!(!v4("128.0.0.1").is_loopback());
        assert!(!v6("::2").is_loopback());
        assert!(v6("fe80::1").is_v6_link_local());
        assert!(v6("febf::1").is_v6_link_local());
        assert!(!v6("fec0::1").is_v6_link_local());
        assert!(!v4("169.254.1.1").is_v6_link_local());
    }

    #[test]
    fn a_pod_talking_to_itself_is_left_alone_even_without_an_agent() {
        for own in [
            v4("10.0.0.5"),
            v6("fd00::5"),
            v6("fe80::5"),
            v4("127.0.0.1"),
            v6("::1"),
            // What the kernel takes for loopback.
            v4("0.0.0.0"),
            v6("::"),
            v6("::ffff:0.0.0.0"),
        ] {
            for listening in [NONE, BOTH] {
                assert_eq!(connect(&pod(0), &own, listening), Connect::Pass);
            }
        }
    }

    #[test]
    fn a_pod_without_a_link_local_address_reaches_none() {
        let mut none = pod(0);
        none.v6_link_local = Addr::UNSET;
        assert_eq!(
            connect(&none, &v6("fe80::5"), BOTH),
            Connect::Refuse(Counter::ConnectRefusedFamily)
        );
    }

    #[test]
    fn a_connect_elsewhere_is_captured_while_the_agent_listens() {
        for flags in [0, FLAG_FAIL_OPEN] {
            assert_eq!(
                connect(&pod(flags), &v4("10.96.0.1"), BOTH),
                Connect::Capture
            );
            assert_eq!(connect(&pod(flags), &v6("fd96::1"), BOTH), Connect::Capture);
        }
    }

    #[test]
    fn a_socket_bound_to_another_address_than_the_pods_is_refused() {
        let refused = Connect::Refuse(Counter::ConnectRefusedSource);
        let cases = [
            ("10.96.0.1", v4("0.0.0.0"), Connect::Capture),
            ("10.96.0.1", v4("10.0.0.5"), Connect::Capture),
            ("10.96.0.1", v4("10.0.0.6"), refused),
            ("10.96.0.1", v4("127.0.0.1"), refused),
        ];
        for (destination, source, expected) in cases {
            let verdict = from_source(&pod(0), &v4(destination), &source);
            assert_eq!(verdict, expected, "{destination}");
        }
        let to = v6("fd96::1");
        assert_eq!(from_source(&pod(0), &to, &Addr::UNSET), Connect::Capture);
        assert_eq!(from_source(&pod(0), &to, &v6("fd00::5")), Connect::Capture);
        assert_eq!(from_source(&pod(0), &to, &v6("fd00::6")), refused);
        assert_eq!(from_source(&pod(0), &to, &v4("10.0.0.5")), refused);
    }

    #[test]
    fn without_an_agent_the_pods_setting_decides() {
        assert_eq!(
            connect(&pod(0), &v4("10.96.0.1"), NONE),
            Connect::Refuse(Counter::ConnectRefusedNoAgent)
        );
        assert_eq!(
            connect(&pod(FLAG_FAIL_OPEN), &v4("10.96.0.1"), NONE),
            Connect::PassFailOpen
        );
    }

    #[test]
    fn a_fail_open_pod_is_open_only_where_it_has_no_listener_at_all() {
        let mut open = pod(FLAG_FAIL_OPEN);
        let link_local = v6("fe80::9");
        assert_eq!(connect(&open, &link_local, NONE), Connect::PassFailOpen);
        for listening in [BOTH, OTHER_FAMILY] {
            assert_eq!(
                connect(&open, &link_local, listening),
                Connect::Refuse(Counter::ConnectRefusedFamily)
            );
        }
        assert_eq!(
            connect(&open, &v4("10.96.0.1"), OTHER_FAMILY),
            Connect::Refuse(Counter::ConnectRefusedNoAgent)
        );
        open.v6 = Addr::UNSET;
        assert_eq!(
            connect(&open, &v6("fd96::1"), OTHER_FAMILY),
            Connect::Refuse(Counter::ConnectRefusedFamily)
        );
        let refused = (false, Counter::SteerDropped);
        assert_eq!(without_listener(FLAG_FAIL_OPEN, true), refused);
        assert_eq!(without_listener(0, false), refused);
        assert_eq!(
            without_listener(FLAG_FAIL_OPEN, false),
            (true, Counter::SteerFailedOpen)
        );
    }

    #[test]
    fn a_family_that_the_pod_has_no_address_of_is_refused() {
        let mut only_v4 = pod(0);
        only_v4.v6 = Addr::UNSET;
        for listening in [NONE, OTHER_FAMILY] {
            assert_eq!(
                connect(&only_v4, &v6("fd96::1"), listening),
                Connect::Refuse(Counter::ConnectRefusedFamily)
            );
        }
    }

    #[test]
    fn an_unknown_namespace_is_refused_only_below_a_guarded_cgroup() {
        assert_eq!(connect_unknown(false, &v4("10.0.0.1")), Connect::Pass);
        assert_eq!(connect_unknown(true, &v4("127.0.0.1")), Connect::Pass);
        assert_eq!(connect_unknown(true, &v6("::")), Connect::Pass);
        assert_eq!(
            connect_unknown(true, &v4("10.0.0.1")),
            Connect::Refuse(Counter::ConnectRefusedUnknownNetns)
        );
    }

    #[test]
    fn a_looped_syn_goes_out_and_one_from_the_wire_comes_in() {
        let (a, b) = (v4("10.0.0.5"), v4("10.0.0.6"));
        assert_eq!(steer(&a, &b, LOOPBACK_IFINDEX, false), Steer::Outbound);
        assert_eq!(steer(&a, &b, 2, false), Steer::Inbound);
        assert_eq!(steer(&a, &b, 2, true), Steer::Pass);
        assert_eq!(steer(&a, &b, LOOPBACK_IFINDEX, true), Steer::Pass);
        assert_eq!(steer(&a, &a, 2, false), Steer::Pass);
        assert_eq!(
            steer(&v4("127.0.0.1"), &v4("127.0.0.2"), 1, false),
            Steer::Pass
        );
        assert_eq!(steer(&b, &v4("127.0.0.1"), 2, false), Steer::Inbound);
    }

    fn guards(list: &[Guard]) -> Guarded {
        let mut guarded = Guarded::default();
        for guard in list {
            guarded.add(guard);
        }
        guarded
    }

    fn pod_guard(netns_cookie: u64) -> Guard {
        Guard {
            netns_cookie,
            flags: GUARD_POD,
            reserved: 0,
        }
    }

    #[test]
    fn a_socket_of_another_pod_is_foreign_and_the_pods_own_is_not() {
        assert!(!guards(&[pod_guard(7)]).is_foreign(7));
        assert!(guards(&[pod_guard(7)]).is_foreign(8));
        assert!(guards(&[pod_guard(0)]).is_foreign(8));
    }

    #[test]
    fn a_guard_that_is_no_pods_only_refuses_unknown_namespaces() {
        let plain = guards(&[Guard::default()]);
        assert!(plain.refuses_unknown(8) && !plain.is_foreign(8));
        let none = Guarded::default();
        assert!(!none.refuses_unknown(8) && !none.is_foreign(8));
        let of_node = |cookie| Guard {
            netns_cookie: cookie,
            ..Guard::default()
        };
        let held = guards(&[of_node(5)]);
        assert!(!held.refuses_unknown(5) && held.refuses_unknown(8));
        let pods = guards(&[of_node(5), pod_guard(0)]);
        assert!(pods.refuses_unknown(5), "a pod is not on the host network");
    }

    #[test]
    fn of_nested_guards_the_innermost_pods_counts() {
        let nested = guards(&[
            Guard::default(),
            pod_guard(7),
            pod_guard(8),
            Guard::default(),
        ]);
        assert!(nested.is_foreign(7) && !nested.is_foreign(8));
    }

    #[test]
    fn a_dial_that_must_be_captured_is_recorded_and_not_let_through() {
        for probed in [false, true] {
            for mark in [0, crate::abi::MARK] {
                assert!(is_known(recorded(Some(mark)), probed));
            }
            assert!(!is_known(recorded(Some(MARK_THROUGH)), probed));
            assert!(!is_known(recorded(None), probed));
            assert!(is_known(TUPLE_AMBIGUOUS, probed) && is_known(7, probed));
        }
    }

    #[test]
    fn a_probe_reaches_only_a_port_that_the_pods_own_probes_name() {
        assert!(is_known(TUPLE_PROBED, true) && !is_known(TUPLE_PROBED, false));
        assert!(is_probe(TUPLE_PROBED) && !is_probe(TUPLE_DIALLED) && !is_probe(7));
        assert!(!proves_entry(TUPLE_PROBED, 2), "it stays a probe");
    }

    #[test]
    fn a_syn_over_loopback_proves_no_entry() {
        assert!(proves_entry(7, 2) && !proves_entry(7, LOOPBACK_IFINDEX));
    }

    proptest! {
        #[test]
        fn a_caller_in_a_pods_cgroup_never_uses_another_namespaces_socket(
            above in proptest::collection::vec((any::<u64>(), any::<u32>()), 0..4),
            own in any::<u64>(), socket in any::<u64>()
        ) {
            let mut list: Vec<Guard> = above.into_iter()
                .map(|(netns_cookie, flags)| Guard { netns_cookie, flags, reserved: 0 })
                .collect();
            list.push(pod_guard(own));
            prop_assert_eq!(guards(&list).is_foreign(socket), own != socket);
        }

        #[test]
        fn a_fail_closed_pod_never_reaches_another_address_uncaptured(
            words in any::<[u32; 4]>(), here in any::<bool>(), any in any::<bool>()
        ) {
            let destination = Addr { words_be: words };
            let verdict = connect(&pod(0), &destination, Listening { here, any });
            if needs_listener(&pod(0), &destination) {
                prop_assert!(!matches!(verdict, Connect::Pass | Connect::PassFailOpen));
            }
        }

        #[test]
        fn a_syn_without_a_recorded_tuple_never_reaches_the_application(
            remote in any::<[u32; 4]>(), local in any::<[u32; 4]>(), ifindex in any::<u32>()
        ) {
            let (remote, local) = (Addr { words_be: remote }, Addr { words_be: local });
            prop_assume!(remote != local && !local.is_loopback());
            prop_assert_ne!(steer(&remote, &local, ifindex, false), Steer::Pass);
        }
    }
}
