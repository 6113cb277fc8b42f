use proptest::prelude::*;

use super::*;

/// Hellos as real clients sent them.
const MESH: &[u8] = PeerProtocol::Mesh1.alpn();
const RUSTLS_MESH: &[u8] = include_bytes!("corpus/rustls-mesh.bin");
const OPENSSL_MESH: &[u8] = include_bytes!("corpus/openssl-mesh.bin");
const OPENSSL_H2: &[u8] = include_bytes!("corpus/openssl-h2-sni.bin");
const OPENSSL_TLS12: &[u8] = include_bytes!("corpus/openssl-tls12.bin");

fn other(sni: &str) -> Hello {
    Hello::OtherTls {
        server_name: ServerName::Is(sni.into()),
    }
}

fn corpus() -> Vec<(&'static [u8], Hello)> {
    vec![
        (RUSTLS_MESH, Hello::Mesh),
        (OPENSSL_MESH, Hello::Mesh),
        (OPENSSL_H2, other("shop.example.com")),
        (OPENSSL_TLS12, other("old.example.com")),
    ]
}

/// The same message in records of `size` bytes.
fn in_records_of(size: usize, hello: &[u8]) -> Vec<u8> {
    hello[5..]
        .chunks(size)
        .flat_map(|part| {
            let length = u16::try_from(part.len()).expect("short").to_be_bytes();
            [&[22, 3, 1], &length[..], part].concat()
        })
        .collect()
}

#[test]
fn real_hellos_are_told_apart() {
    for (bytes, verdict) in corpus() {
        assert_eq!(client_hello(bytes), verdict);
    }
}

#[test]
fn no_prefix_of_a_hello_gives_another_verdict() {
    for (bytes, verdict) in corpus() {
        for end in 0..bytes.len() {
            assert_eq!(client_hello(&bytes[..end]), Hello::NeedMore, "{end}");
        }
        let followed = [bytes, b"more bytes behind"].concat();
        assert_eq!(client_hello(&followed), verdict);
    }
}

#[test]
fn a_hello_may_be_split_over_records_anywhere() {
    for (bytes, verdict) in corpus() {
        for size in 1..bytes.len() - 5 {
            let split = in_records_of(size, bytes);
            assert_eq!(client_hello(&split), verdict, "records of {size}");
            assert_eq!(client_hello(&split[..split.len() - 1]), Hello::NeedMore);
        }
    }
}

#[test]
fn plaintext_is_known_by_its_first_bytes() {
    for text in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-OpenSSH",
        b"\0",
        b"\x15\x03\x01",
        b"\x16\x02",
        b"\x16\x03\x05",
        b"\x16\x03\x01\xff",
        b"\x16\x03\x01\0\x20\x02",
    ] {
        assert_eq!(client_hello(text), Hello::NotTls, "{text:?}");
    }
    assert_eq!(client_hello(b""), Hello::NeedMore);
}

#[test]
fn a_protocol_that_only_begins_or_ends_like_ours_is_not_ours() {
    let at = OPENSSL_MESH
        .windows(MESH.len())
        .position(|window| window == MESH)
        .expect("our protocol");
    for place in [at, at + MESH.len() - 1] {
        let mut changed = OPENSSL_MESH.to_vec();
        changed[place] ^= 1;
        assert!(matches!(client_hello(&changed), Hello::OtherTls { .. }));
    }
    // "mesh/1" with a length that takes it apart: the list no longer adds up.
    let mut changed = OPENSSL_MESH.to_vec();
    changed[at - 1] -= 1;
    assert_eq!(client_hello(&changed), Hello::Malformed);
}

#[test]
fn an_oversized_hello_is_refused_and_not_waited_for() {
    let announced = [22, 3, 1, 0x40, 0, 1, 0, 0x50, 0];
    assert_eq!(client_hello(&announced), Hello::Malformed);
    let mut dribble = Vec::new();
    for byte in [1, 0, 0x3f, 0].into_iter().chain([0; 4000]) {
        dribble.extend([22, 3, 1, 0, 1, byte]);
    }
    assert_eq!(client_hello(&dribble), Hello::Malformed);
}

/// A hello with this list of names, or without one.
fn asking(list: Option<&[(u8, &[u8])]>) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes(), bytes].concat()
    };
    let name = |(kind, name): &(u8, &[u8])| [&[*kind], &sized(name)[..]].concat();
    let list: Option<Vec<u8>> = list.map(|list| list.iter().flat_map(name).collect());
    let extension = |list: Vec<u8>| [&[0, 0], &sized(&sized(&list))[..]].concat();
    let extensions = list.map(extension).unwrap_or_default();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 2, 0x13, 1],
        &[1, 0],
        &sized(&extensions),
    ];
    let message = [&[CLIENT_HELLO, 0][..], &sized(&body.concat())].concat();
    [&[HANDSHAKE, 3, 1], &sized(&message)[..]].concat()
}

#[test]
fn only_one_name_that_a_host_can_have_is_one_and_all_others_are_odd() {
    let long = [b'a'; MAX_NAME + 1];
    let is = |name: &str| ServerName::Is(name.into());
    for (list, expected) in [
        (None, ServerName::Absent),
        (Some(&[(0, &b"a.example"[..])][..]), is("a.example")),
        (Some(&[(0, b"A.Example")]), is("a.example")),
        (Some(&[(0, b"_x.a-b.example")]), is("_x.a-b.example")),
        (Some(&[(0, &long[1..])]), is(&"a".repeat(MAX_NAME))),
        (Some(&[(0, &long)]), ServerName::Odd),
        (Some(&[]), ServerName::Odd),
        (Some(&[(0, b"")]), ServerName::Odd),
        (Some(&[(1, b"a.example")]), ServerName::Odd),
        (Some(&[(0, b"a.example"), (0, b"b")]), ServerName::Odd),
        (Some(&[(0, b"a.example"), (1, b"b")]), ServerName::Odd),
        (Some(&[(1, b"b"), (0, b"a.example")]), ServerName::Odd),
        (Some(&[(0, b"a.example.")]), ServerName::Odd),
        (Some(&[(0, b".a.example")]), ServerName::Odd),
        (Some(&[(0, b"a..example")]), ServerName::Odd),
        (Some(&[(0, b".")]), ServerName::Odd),
        (Some(&[(0, b"a.example\0.b")]), ServerName::Odd),
        (Some(&[(0, b"a.\nexample")]), ServerName::Odd),
        (Some(&[(0, b"*.example")]), ServerName::Odd),
        (Some(&[(0, "\u{e4}.example".as_bytes())]), ServerName::Odd),
        (Some(&[(0, b"[::1]")]), ServerName::Odd),
    ] {
        let hello = client_hello(&asking(list));
        let server_name = expected;
        assert_eq!(hello, Hello::OtherTls { server_name }, "{list:?}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic_or_change_its_mind(
        which in 0..4_usize,
        changes in proptest::collection::vec((0..2000_usize, any::<u8>()), 0..6),
        cut in 0..2000_usize,
    ) {
        let mut bytes = corpus()[which].0.to_vec();
        for (place, byte) in changes {
            let length = bytes.len();
            bytes[place % length] = byte;
        }
        let whole = client_hello(&bytes);
        let part = client_hello(&bytes[..cut.min(bytes.len())]);
        prop_assert!(part == Hello::NeedMore || part == whole, "{part:?} then {whole:?}");
    }

    #[test]
    fn any_bytes_get_a_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let whole = client_hello(&[&[22, 3, 1, 1, 0, 1][..], &bytes].concat());
        prop_assert_ne!(whole, Hello::NotTls);
        let _ = client_hello(&bytes);
    }
}

#[test]
fn every_protocol_of_agents_has_room_for_its_name() {
    let fits = |protocol: &PeerProtocol| protocol.alpn().len() <= LONGEST;
    assert!(PeerProtocol::ALL.iter().all(fits));
}

#[test]
fn a_request_line_is_http_and_other_protocols_are_told_apart() {
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(60_000));
    for (bytes, is) in [
        ("GET / HTTP/1.1\r\n", Spoken::Http1),
        ("GET /x HTTP/1.0\r\n", Spoken::Http1),
        ("get /x HTTP/1.0\r\n", Spoken::Other),
        ("marker", Spoken::Other),
        ("PIN", Spoken::NeedMore),
        ("GET / HTTP/1.1\n", Spoken::Http1),
        ("\r\nGET / HTTP/1.1\r\n", Spoken::Http1),
        ("OPTIONS * HTTP/1.1\r\n", Spoken::Http1),
        ("CONNECT a:1 HTTP/1.1\r\n", Spoken::Http1),
        ("GET http://a/ HTTP/1.1\r\n", Spoken::Http1),
        ("GET /a b HTTP/1.1\r\n", Spoken::Http1),
        (&long, Spoken::Http1),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Spoken::Http2),
        ("PRI * HTTP/2.0\r\n\r\n", Spoken::NeedMore),
        ("PRI * HTTP/2.0\r\n\r\nXX", Spoken::Other),
        ("GET / HTTP/2.0\r\n", Spoken::Other),
        ("GET /\r\n", Spoken::Other),
        ("GET / HTTP/1.1", Spoken::NeedMore),
        ("GET /\0 HTTP/1.1\r\n", Spoken::Other),
        ("", Spoken::NeedMore),
        ("\r", Spoken::NeedMore),
        ("\r\n\r\n", Spoken::Other),
        (" GET / HTTP/1.1\r\n", Spoken::Other),
        ("*1\r\n$4\r\nPING\r\n", Spoken::Other),
        ("get key\r\n", Spoken::Other),
        ("EHLO there\r\n", Spoken::Other),
        ("SSH-2.0-OpenSSH_9\r\n", Spoken::Other),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Spoken::Other),
        ("DESCRIBE rtsp://x RTSP/1.0\r\n", Spoken::Other),
        ("\0\0\0\u{8}\u{4}\u{d2}\u{16}\u{2f}", Spoken::Other),
        ("\u{16}\u{3}\u{1}", Spoken::Other),
    ] {
        assert_eq!(
            http(bytes.as_bytes()),
            is,
            "{:?}",
            &bytes[..bytes.len().min(40)]
        );
    }
}

#[test]
fn each_prefix_of_first_bytes_waits_or_says_what_the_whole_says() {
    for (_, bytes) in fuzz::requests() {
        fuzz::spoken(&bytes);
    }
}

#[test]
fn a_server_of_http2_that_begins_is_known() {
    let settings = [0, 0, 12, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
    for len in 0..9 {
        assert_eq!(http2_settings(&settings[..len]), None, "{len}");
    }
    assert_eq!(http2_settings(&settings), Some(true));
    assert_eq!(http2_settings(&settings[..9]), Some(true));
    for other in [
        &b"220 ready\r\n"[..],
        b"\x4a\0\0\0\x0a8.0",
        &[0, 0, 13, 4, 0, 0, 0, 0, 0],
        &[0, 0, 12, 4, 1, 0, 0, 0, 0],
        b"2",
    ] {
        assert_eq!(http2_settings(other), Some(false), "{other:?}");
    }
}
