use crate::http::h1::*;

const REQUEST: Side = Side::Request;

/// How many bytes belong to the message, and whether it ended.
fn follow(framing: Framing, side: Side, bytes: &[u8]) -> Result<(usize, bool), Bad> {
    let followed = Body::new(framing, side).follow(bytes)?;
    Ok((followed.len, followed.ended))
}

fn chunked(side: Side, bytes: &[u8]) -> Result<(usize, bool), Bad> {
    follow(Framing::Chunked, side, bytes)
}

#[test]
fn a_body_of_a_length_ends_there() {
    assert_eq!(follow(Framing::None, REQUEST, b"abc"), Ok((0, true)));
    assert_eq!(follow(Framing::Length(3), REQUEST, b"ab"), Ok((2, false)));
    assert_eq!(follow(Framing::Length(3), REQUEST, b"abcd"), Ok((3, true)));
    assert_eq!(follow(Framing::UntilClose, REQUEST, b"ab"), Ok((2, false)));
    assert_eq!(follow(Framing::Tunnel, REQUEST, b"ab"), Ok((2, false)));
}

#[test]
fn only_what_lasts_until_the_end_ends_with_the_connection() {
    for (framing, wanted) in [
        (Framing::None, true),
        (Framing::Length(3), false),
        (Framing::Chunked, false),
        (Framing::UntilClose, true),
    ] {
        let body = Body::new(framing, Side::Response);
        assert_eq!(body.ends_with_the_connection(), wanted, "{framing:?}");
    }
}

#[test]
fn chunks_are_followed_to_the_last_one() {
    for good in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "00003\r\nabc\r\n000\r\n\r\n",
        "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
        "3;x\r\nabc\r\n0;y=z\r\n\r\n",
        "3 ; x=\"\\\";\t\u{e9}\"\r\nabc\r\n0\r\n\r\n",
        "0\r\nGrpc-Status: 0\r\ngrpc-message:\r\nX_y: \u{e9}\r\n\r\n",
    ] {
        for side in [REQUEST, Side::Response] {
            let more = format!("{good}GET");
            assert_eq!(
                chunked(side, more.as_bytes()),
                Ok((good.len(), true)),
                "{good:?}"
            );
            assert_eq!(
                chunked(side, &good.as_bytes()[..good.len() - 1]),
                Ok((good.len() - 1, false))
            );
        }
    }
}

#[test]
fn servers_may_fill_a_size_up_with_blanks_and_clients_may_not() {
    let padded = b"3  \r\nabc\r\n0\r\n\r\n";
    assert_eq!(chunked(Side::Response, padded), Ok((padded.len(), true)));
    assert_eq!(chunked(REQUEST, padded), Err(Bad::ChunkSize));
}

#[test]
fn a_chunk_that_is_not_by_the_letter_is_refused() {
    let table: &[(&[u8], Bad)] = &[
        (b"\r\n", Bad::ChunkSize),
        (b"x\r\n", Bad::ChunkSize),
        (b" 5\r\n", Bad::ChunkSize),
        (b"5 6\r\n", Bad::ChunkSize),
        (b"0x5\r\n", Bad::ChunkSize),
        (b"+5\r\n", Bad::ChunkSize),
        (b"-1\r\n", Bad::ChunkSize),
        (b";x\r\n", Bad::ChunkSize),
        (b"8000000000000000\r\n", Bad::ChunkSize),
        (b"10000000000000000\r\n", Bad::ChunkSize),
        (b"5\nabcde\r\n", Bad::ChunkSize),
        (b"5\r\r\nabcde\r\n", Bad::ChunkSize),
        (b"5;a\nb\r\n", Bad::ChunkExtension),
        (b"5;a\x00\r\n", Bad::ChunkExtension),
        (b"5;a=\"\r\n\"\r\n", Bad::ChunkExtension),
        (b"5;a\rb\r\n", Bad::ChunkSize),
        (b"3\r\nabcd\r\n", Bad::ChunkEnd),
        (b"3\r\nabc\n0\r\n\r\n", Bad::ChunkEnd),
        (b"3\r\nabc\rx", Bad::ChunkEnd),
        (b"0\r\n\n", Bad::Trailer),
        (b"0\r\nA: b\n\r\n", Bad::Trailer),
        (b"0\r\nA: b\r\n c\r\n\r\n", Bad::Trailer),
        (b"0\r\nA : b\r\n\r\n", Bad::Trailer),
        (b"0\r\nA\r\n\r\n", Bad::Trailer),
        (b"0\r\n: b\r\n\r\n", Bad::Trailer),
        (b"0\r\nA: \x00\r\n\r\n", Bad::Trailer),
        (b"0\r\nA: b\r\n\rx", Bad::Trailer),
        (b"0\r\nContent-Length: 5\r\n\r\n", Bad::TrailerName),
        (b"0\r\ntransfer_encoding: chunked\r\n\r\n", Bad::TrailerName),
        (b"0\r\nHOST: x\r\n\r\n", Bad::TrailerName),
    ];
    for (bytes, wanted) in table {
        let shown = String::from_utf8_lossy(bytes);
        for side in [REQUEST, Side::Response] {
            assert_eq!(chunked(side, bytes), Err(*wanted), "{shown:?}");
        }
    }
    let many_digits = [b'0'; 65];
    assert_eq!(chunked(REQUEST, &many_digits), Err(Bad::ChunkSize));
}

#[test]
fn trailers_of_a_client_cannot_say_who_it_is() {
    for name in [
        "X-Forwarded-Client-Cert",
        "x_envoy_original_path",
        "l5d-client-id",
    ] {
        let bytes = format!("0\r\n{name}: x\r\n\r\n");
        assert_eq!(chunked(REQUEST, bytes.as_bytes()), Err(Bad::TrailerName));
        assert!(chunked(Side::Response, bytes.as_bytes()).is_ok());
    }
    let long = format!("0\r\nx-envoy-{}: x\r\n\r\n", "a".repeat(500));
    assert_eq!(chunked(REQUEST, long.as_bytes()), Err(Bad::TrailerName));
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let extensions = |len: usize| format!("1;{}\r\na\r\n", "x".repeat(len)).repeat(2);
    assert!(chunked(REQUEST, extensions(8_190).as_bytes()).is_ok());
    assert_eq!(
        chunked(REQUEST, extensions(8_200).as_bytes()),
        Err(Bad::ChunkExtension)
    );
    let trailers = |count: usize, len: usize| {
        let line = format!("a: {}\r\n", "x".repeat(len));
        format!("0\r\n{}\r\n", line.repeat(count))
    };
    assert!(chunked(REQUEST, trailers(200, 10).as_bytes()).is_ok());
    assert!(chunked(REQUEST, trailers(1, 60_000).as_bytes()).is_ok());
    for (count, len) in [(201, 10), (1, 70_000), (100, 700)] {
        let bytes = trailers(count, len);
        assert_eq!(
            chunked(REQUEST, bytes.as_bytes()),
            Err(Bad::TrailersTooLong)
        );
    }
}
