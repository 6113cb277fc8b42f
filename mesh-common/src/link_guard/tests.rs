use super::*;
use crate::abi::{TUPLE_AMBIGUOUS, TUPLE_DIALLED, TUPLE_PROBED, TUPLE_THROUGH};
use proptest::prelude::*;

struct Bytes(Vec<u8>);

impl Frame for Bytes {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = offset as usize;
        self.0.get(at..at + N)?.try_into().ok()
    }
}

const ACKNOWLEDGED: u32 = 0x0102_0304;
const V4_FROM: [u8; 4] = [10, 0, 0, 5];
const V4_TO: [u8; 4] = [10, 0, 0, 6];

fn v4(bytes: [u8; 4]) -> Addr {
    Addr::from_v4_be(u32::from_ne_bytes(bytes))
}

fn v6_of(last: u8) -> ([u8; 16], Addr) {
    let mut bytes = [0; 16];
    (bytes[0], bytes[1], bytes[15]) = (0xfd, 0x77, last);
    let word = |i: usize| u32::from_ne_bytes(bytes[i..i + 4].try_into().expect("four bytes"));
    let addr = Addr {
        words_be: [word(0), word(4), word(8), word(12)],
    };
    (bytes, addr)
}

fn segment(flags: u8) -> Vec<u8> {
    let mut tcp = vec![0; 20];
    tcp[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
    tcp[2..4].copy_from_slice(&80_u16.to_be_bytes());
    tcp[8..12].copy_from_slice(&ACKNOWLEDGED.to_be_bytes());
    (tcp[12], tcp[13]) = (0x50, flags);
    tcp
}

/// Behind an Ethernet header with room for `tags` VLAN tags.
fn ipv4_frame(tags: usize, options: usize, fragment: u16, protocol: u8, rest: &[u8]) -> Bytes {
    let mut frame = vec![0; L2 as usize + tags * VLAN_TAG as usize];
    let mut header = vec![0; 20 + options * 4];
    header[0] = 0x45 + options as u8;
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    header[12..16].copy_from_slice(&V4_FROM);
    header[16..20].copy_from_slice(&V4_TO);
    frame.extend(header);
    frame.extend(rest);
    Bytes(frame)
}

fn ipv6_frame(first: u8, rest: &[u8]) -> Bytes {
    let mut frame = vec![0; L2 as usize];
    let mut header = vec![0; 40];
    (header[0], header[6]) = (0x60, first);
    header[8..24].copy_from_slice(&v6_of(5).0);
    header[24..40].copy_from_slice(&v6_of(6).0);
    frame.extend(header);
    frame.extend(rest);
    Bytes(frame)
}

/// An extension header of eight bytes, then what follows it.
fn extension(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(rest);
    bytes
}

fn fragment_header(next: u8, offset_and_more: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = extension(next, rest);
    bytes[2..4].copy_from_slice(&offset_and_more.to_be_bytes());
    bytes
}

fn tuple(source: Addr, destination: Addr) -> Tuple {
    Tuple {
        source,
        destination,
        source_port: 40_000,
        destination_port: 80,
    }
}

fn v4_tuple() -> Tuple {
    tuple(v4(V4_FROM), v4(V4_TO))
}

fn v6_tuple() -> Tuple {
    tuple(v6_of(5).1, v6_of(6).1)
}

#[test]
fn a_syn_is_found_behind_ipv4_with_and_without_options() {
    for options in 0..=10 {
        let frame = ipv4_frame(0, options, 0x4000, TCP, &segment(SYN));
        assert_eq!(read(&frame, ETH_P_IP), Segment::Syn(v4_tuple()));
    }
}

#[test]
fn flags_beside_syn_hide_nothing() {
    for others in [0x01, 0x04, 0x08, 0x20, 0xc0, 0xed] {
        let frame = ipv4_frame(0, 0, 0, TCP, &segment(SYN | others));
        assert_eq!(read(&frame, ETH_P_IP), Segment::Syn(v4_tuple()));
    }
}

#[test]
fn an_answer_is_told_as_its_initiator_sees_the_connection() {
    let frame = ipv4_frame(0, 0, 0, TCP, &segment(SYN | ACK));
    assert_eq!(
        read(&frame, ETH_P_IP),
        Segment::Answer(v4_tuple().reversed(), ACKNOWLEDGED)
    );
    let frame = ipv6_frame(TCP, &segment(SYN | ACK));
    assert_eq!(
        read(&frame, ETH_P_IPV6),
        Segment::Answer(v6_tuple().reversed(), ACKNOWLEDGED)
    );
}

#[test]
fn segments_without_syn_and_other_protocols_pass() {
    for flags in [ACK, 0x04, 0x01 | ACK, 0x18, 0] {
        let frame = ipv4_frame(0, 0, 0, TCP, &segment(flags));
        assert_eq!(read(&frame, ETH_P_IP), Segment::Other);
    }
    let udp = ipv4_frame(0, 0, 0x2000, UDP, &[0; 20]);
    assert_eq!(read(&udp, ETH_P_IP), Segment::Other);
    assert_eq!(read(&ipv6_frame(UDP, &[0; 20]), ETH_P_IPV6), Segment::Other);
    assert_eq!(read(&Bytes(vec![0; 60]), 0x0806), Segment::Other);
}

#[test]
fn a_syn_is_found_behind_extension_headers() {
    let tcp = segment(SYN);
    let options = extension(TCP, &tcp);
    let routed = extension(DESTINATION_OPTIONS, &options);
    let hops = extension(ROUTING, &routed);
    let atomic = fragment_header(TCP, 0, &tcp);
    for (first, rest) in [
        (TCP, &tcp),
        (DESTINATION_OPTIONS, &options),
        (ROUTING, &routed),
        (HOP_BY_HOP, &hops),
        (FRAGMENT, &atomic),
    ] {
        let read = read(&ipv6_frame(first, rest), ETH_P_IPV6);
        assert_eq!(read, Segment::Syn(v6_tuple()), "header {first}");
    }
}

#[test]
fn too_many_extension_headers_are_unclear() {
    let mut rest = segment(SYN);
    for i in 0..MAX_EXTENSIONS {
        rest = extension(if i == 0 { TCP } else { DESTINATION_OPTIONS }, &rest);
    }
    let frame = ipv6_frame(DESTINATION_OPTIONS, &rest);
    assert_eq!(read(&frame, ETH_P_IPV6), Segment::Unclear);
}

#[test]
fn fragments_of_tcp_are_unclear_and_of_udp_pass() {
    for field in [0x2000, 0x0001, 0x2003, 0x1fff] {
        let frame = ipv4_frame(0, 0, field, TCP, &segment(ACK));
        assert_eq!(read(&frame, ETH_P_IP), Segment::Unclear, "{field:#x}");
    }
    for field in [0x0001, 0x0008, 0xfff9] {
        let tcp = fragment_header(TCP, field, &segment(ACK));
        let read_v6 = |rest: &[u8]| read(&ipv6_frame(FRAGMENT, rest), ETH_P_IPV6);
        assert_eq!(read_v6(&tcp), Segment::Unclear, "{field:#x}");
        // Its first part may say that TCP comes after the options.
        let options = fragment_header(DESTINATION_OPTIONS, field, &[0; 20]);
        assert_eq!(read_v6(&options), Segment::Unclear, "{field:#x}");
        let udp = fragment_header(UDP, field, &[0; 20]);
        assert_eq!(read_v6(&udp), Segment::Other, "{field:#x}");
    }
}

#[test]
fn headers_cut_short_are_unclear() {
    let whole = ipv4_frame(0, 3, 0, TCP, &segment(SYN)).0;
    for length in L2 as usize..whole.len() - 6 {
        let cut = Bytes(whole[..length].to_vec());
        assert_eq!(read(&cut, ETH_P_IP), Segment::Unclear, "{length}");
    }
    let mut shortest = ipv4_frame(0, 0, 0, TCP, &segment(SYN));
    shortest.0[L2 as usize] = 0x44;
    assert_eq!(read(&shortest, ETH_P_IP), Segment::Unclear);
}

#[test]
fn a_second_vlan_tag_is_looked_behind_and_a_third_is_unclear() {
    let mut frame = ipv4_frame(1, 0, 0, TCP, &segment(SYN));
    frame.0[16..18].copy_from_slice(&ETH_P_IP.to_be_bytes());
    for ethertype in [ETH_P_8021Q, ETH_P_8021AD] {
        assert_eq!(read(&frame, ethertype), Segment::Syn(v4_tuple()));
    }
    frame.0[16..18].copy_from_slice(&ETH_P_8021Q.to_be_bytes());
    assert_eq!(read(&frame, ETH_P_8021Q), Segment::Unclear);
}

fn pod(flags: u32) -> Enrolled {
    Enrolled {
        flags,
        v4: v4(V4_FROM),
        v6: v6_of(5).1,
        ..Enrolled::default()
    }
}

#[test]
fn only_known_syns_leave_and_of_the_applications_answers_those_to_known_ones() {
    for known in [TUPLE_DIALLED, TUPLE_THROUGH, TUPLE_AMBIGUOUS, 7] {
        assert!(syn_leaves(Some(known)));
    }
    assert!(!syn_leaves(None));
    for probed in [false, true] {
        assert!(application_answers(Some(TUPLE_DIALLED), probed));
        assert!(application_answers(Some(7), probed));
        assert!(!application_answers(None, probed));
    }
    assert!(application_answers(Some(TUPLE_PROBED), true));
    assert!(!application_answers(Some(TUPLE_PROBED), false));
    assert!(!syn_leaves(Some(TUPLE_PROBED)), "no prober is in a pod");
    // It had to be steered: the application's own answer is not the agent's.
    assert!(!application_answers(Some(TUPLE_THROUGH), true));
}

#[test]
fn an_answer_that_was_made_leaves_once_and_again_when_it_is_repeated() {
    let value = made(41);
    assert_eq!(leaves(value, 43), None, "the answer to another SYN");
    let left = leaves(value, 42).expect("it leaves");
    assert_eq!(leaves(left, 42), None, "nobody made another one");
    assert_eq!(leaves(made_again(left), 42), Some(left));
    assert_eq!(leaves(made_again(left), 43), None);
    assert!(leaves(made(u32::MAX), 0).is_some());
    assert_eq!(leaves(left, 0), None);
}

#[test]
fn syns_enter_for_the_pods_own_addresses_only() {
    assert!(syn_enters(Some(&pod(0)), &v4(V4_FROM)));
    assert!(syn_enters(Some(&pod(0)), &v6_of(5).1));
    assert!(!syn_enters(Some(&pod(0)), &v4(V4_TO)));
    assert!(!syn_enters(None, &v4(V4_FROM)));
    let only_v4 = Enrolled {
        v6: Addr::UNSET,
        ..pod(0)
    };
    assert!(!syn_enters(Some(&only_v4), &Addr::UNSET));
}

#[test]
fn what_may_not_pass_does_so_only_of_an_open_pod_that_no_agent_listens_for() {
    let refused = Counter::GuardRefusedSyn;
    let open = pod(FLAG_FAIL_OPEN);
    assert_eq!(
        otherwise(Some(&open), false, refused),
        (true, Counter::GuardFailedOpen)
    );
    assert_eq!(otherwise(Some(&open), true, refused), (false, refused));
    for listening in [false, true] {
        assert_eq!(otherwise(None, listening, refused), (false, refused));
        assert_eq!(
            otherwise(Some(&pod(0)), listening, refused),
            (false, refused)
        );
    }
}

proptest! {
    /// Whatever stands between the Ethernet header and the flags.
    #[test]
    fn no_bytes_make_reading_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200), v6 in any::<bool>()) {
        let ethertype = if v6 { ETH_P_IPV6 } else { ETH_P_IP };
        let _read = read(&Bytes(bytes), ethertype);
    }

    #[test]
    fn a_syn_of_tcp_is_never_taken_for_something_else(
        options in 0..=10_usize, fragment in any::<u16>(), flags in any::<u8>(), length in 0..20_usize
    ) {
        let tcp = segment(SYN | flags);
        let frame = ipv4_frame(0, options, fragment, TCP, &tcp[..length]);
        prop_assert_ne!(read(&frame, ETH_P_IP), Segment::Other);
    }

    #[test]
    fn a_syn_behind_any_extension_headers_is_never_taken_for_something_else(
        headers in proptest::collection::vec((0..4_usize, any::<u16>()), 0..9), flags in any::<u8>()
    ) {
        let kinds = [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENT];
        let (mut first, mut rest) = (TCP, segment(SYN | flags));
        for (kind, field) in headers {
            let kind = kinds[kind];
            rest = if kind == FRAGMENT { fragment_header(first, field, &rest) } else { extension(first, &rest) };
            first = kind;
        }
        prop_assert_ne!(read(&ipv6_frame(first, &rest), ETH_P_IPV6), Segment::Other);
    }
}
