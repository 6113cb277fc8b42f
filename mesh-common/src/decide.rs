//! What the kernel decides, as pure functions of what the programs looked up.
//!
//! Small and branch-only, for the verifier. The rule behind each default: a
//! lookup that misses never ends in plaintext for a fail-closed pod.

use crate::abi::{
    Addr, Enrolled, FLAG_FAIL_OPEN, GUARD_POD, Guard, LOOPBACK_IFINDEX, MARK_THROUGH,
    TUPLE_AMBIGUOUS, TUPLE_DIALLED,
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

/// A TCP connect in an enrolled namespace, not by the agent.
///
/// `listening`: the agent's listener for the pod's address of this family
/// exists. Callers look it up only for [`needs_listener`].
#[inline(always)]
#[must_use]
pub fn connect(pod: &Enrolled, destination: &Addr, listening: bool) -> Connect {
    if !needs_listener(pod, destination) {
        return Connect::Pass;
    }
    let open = pod.flags & FLAG_FAIL_OPEN != 0;
    if destination.is_v6_link_local() || !own_address(pod, destination).is_set() {
        return if open {
            Connect::PassFailOpen
        } else {
            Connect::Refuse(Counter::ConnectRefusedFamily)
        };
    }
    match (listening, open) {
        (true, _) => Connect::Capture,
        (false, true) => Connect::PassFailOpen,
        (false, false) => Connect::Refuse(Counter::ConnectRefusedNoAgent),
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

/// False for the pod talking to itself, which is nobody's business.
#[inline(always)]
#[must_use]
pub fn needs_listener(pod: &Enrolled, destination: &Addr) -> bool {
    !(destination.is_loopback() || is_own(pod, destination))
}

#[inline(always)]
fn is_own(pod: &Enrolled, addr: &Addr) -> bool {
    addr.is_set() && (*addr == pod.v4 || *addr == pod.v6)
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
    if guarded && !destination.is_loopback() {
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
    pub any: bool,
    pod: bool,
    netns_cookie: u64,
}

impl Guarded {
    #[inline(always)]
    pub const fn add(&mut self, guard: &Guard) {
        self.any = true;
        if guard.flags & GUARD_POD != 0 {
            self.pod = true;
            self.netns_cookie = guard.netns_cookie;
        }
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

/// Is the tuple of a connect in an agent's or a prober's cgroup recorded?
/// Not where the mark cannot be read: such a connection is captured at its destination.
#[inline(always)]
#[must_use]
pub const fn records_tuple(mark: Option<u32>) -> bool {
    match mark {
        Some(mark) => mark != MARK_THROUGH,
        None => false,
    }
}

/// Does a SYN with a known tuple prove that its connection reached an enrolled namespace?
/// Not over `lo`, where a pod could forge it.
#[inline(always)]
#[must_use]
pub const fn proves_entry(ifindex: u32) -> bool {
    ifindex != LOOPBACK_IFINDEX
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
    if known_tuple || remote == local || local.is_loopback() {
        return Steer::Pass;
    }
    if ifindex == LOOPBACK_IFINDEX {
        Steer::Outbound
    } else {
        Steer::Inbound
    }
}

/// What happens to a SYN whose listener is not there.
#[inline(always)]
#[must_use]
pub const fn without_listener(flags: u32) -> (bool, Counter) {
    if flags & FLAG_FAIL_OPEN != 0 {
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
            reserved: 0,
            v4: v4("10.0.0.5"),
            v6: v6("fd00::5"),
        }
    }

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
        for own in [v4("10.0.0.5"), v6("fd00::5"), v4("127.0.0.1"), v6("::1")] {
            assert_eq!(connect(&pod(0), &own, false), Connect::Pass);
        }
    }

    #[test]
    fn a_connect_elsewhere_is_captured_while_the_agent_listens() {
        for flags in [0, FLAG_FAIL_OPEN] {
            assert_eq!(
                connect(&pod(flags), &v4("10.96.0.1"), true),
                Connect::Capture
            );
            assert_eq!(connect(&pod(flags), &v6("fd96::1"), true), Connect::Capture);
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
            connect(&pod(0), &v4("10.96.0.1"), false),
            Connect::Refuse(Counter::ConnectRefusedNoAgent)
        );
        assert_eq!(
            connect(&pod(FLAG_FAIL_OPEN), &v4("10.96.0.1"), false),
            Connect::PassFailOpen
        );
    }

    #[test]
    fn a_family_that_the_pod_has_no_address_of_is_refused() {
        let mut only_v4 = pod(0);
        only_v4.v6 = Addr::UNSET;
        for listening in [false, true] {
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
        assert!(plain.any && !plain.is_foreign(8));
        assert!(!Guarded::default().any && !Guarded::default().is_foreign(8));
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
    fn the_tuple_of_a_dial_that_must_be_captured_is_not_recorded() {
        assert!(records_tuple(Some(0)) && records_tuple(Some(crate::abi::MARK)));
        assert!(!records_tuple(Some(MARK_THROUGH)) && !records_tuple(None));
    }

    #[test]
    fn a_syn_over_loopback_proves_no_entry() {
        assert!(proves_entry(2) && !proves_entry(LOOPBACK_IFINDEX));
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
            words in any::<[u32; 4]>(), listening in any::<bool>()
        ) {
            let destination = Addr { words_be: words };
            let verdict = connect(&pod(0), &destination, listening);
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
