//! What is seen does not depend on how the bytes came.

use proptest::prelude::*;

use crate::http::h1::*;

/// Of a request and its body: ways of framing, lengths, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    head: usize,
    framing: Framing,
    body: usize,
    ended: bool,
    lines: usize,
}

fn whole(bytes: &[u8]) -> Result<Option<Seen>, Bad> {
    pieces(bytes, &[])
}

/// As a connection does it: a buffer that grows until the head is there, then
/// the body as it comes.
fn pieces(bytes: &[u8], cuts: &[usize]) -> Result<Option<Seen>, Bad> {
    let mut scan = Scan::default();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut following: Option<(Seen, Body)> = None;
    let mut done = 0;
    for end in ends {
        if following.is_none() {
            let mut lines = Lines::new();
            if let Parsed::Head { head, len } = request_head(&bytes[..end], &mut scan, &mut lines)?
            {
                let seen = Seen {
                    head: len,
                    framing: head.framing,
                    body: 0,
                    ended: false,
                    lines: head.head.headers.len(),
                };
                following = Some((seen, Body::new(head.framing, Side::Request)));
                done = len;
            }
        }
        if let Some((seen, body)) = &mut following {
            let followed = body.follow(&bytes[done..end])?;
            seen.body += followed.len;
            seen.ended = followed.ended;
            done += followed.len;
        }
    }
    Ok(following.map(|(seen, _)| seen))
}

fn heads() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Host: x".to_owned()),
        Just("Content-Length: 12".to_owned()),
        Just("Transfer-Encoding: chunked".to_owned()),
        Just("Connection: close".to_owned()),
        "[A-Za-z_-]{1,12}: ?[ -~]{0,20}",
        "[ -~]{0,20}",
    ];
    let end = prop_oneof![20 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
    let first = prop_oneof![
        10 => Just("POST /a/b?c HTTP/1.1".to_owned()),
        1 => Just("\r\nGET / HTTP/1.0".to_owned()),
        1 => "[ -~]{0,30}",
    ];
    let lines = proptest::collection::vec((line, end.clone()), 0..8);
    let body = prop_oneof![
        Just("3\r\nabc\r\n0\r\nA: b\r\n\r\nrest".to_owned()),
        Just("0\r\n\r\n".to_owned()),
        "[0-9a-f;: \r\n]{0,40}",
    ];
    (first, end, lines, body).prop_map(|(first, end, lines, body)| {
        let mut head = first + end;
        for (line, end) in lines {
            head.push_str(&line);
            head.push_str(end);
        }
        (head + "\r\n" + &body).into_bytes()
    })
}

proptest! {
    #[test]
    fn any_split_of_a_request_is_seen_alike(
        bytes in heads(),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        prop_assert_eq!(pieces(&bytes, &cuts), whole(&bytes));
    }
}

#[test]
fn byte_by_byte_is_seen_alike() {
    let good: &[u8] = b"\r\nPOST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\nGET";
    let cuts: Vec<usize> = (0..good.len()).collect();
    let seen = pieces(good, &cuts);
    assert_eq!(seen, whole(good));
    let seen = seen.expect("good").expect("whole");
    assert_eq!((seen.framing, seen.ended), (Framing::Chunked, true));
    assert_eq!(seen.head + seen.body, good.len() - 3);
}

#[test]
fn a_head_that_dribbles_costs_no_more_than_one_that_comes_at_once() {
    // 64 KiB byte by byte: were each look a whole one, this would be minutes.
    let mut head = b"GET / HTTP/1.1\r\nHost: x\r\nA: ".to_vec();
    head.resize(MAX_HEAD, b'x');
    let begin = std::time::Instant::now();
    let mut scan = Scan::default();
    for end in 0..head.len() {
        let mut lines = Lines::new();
        let parsed = request_head(&head[..end], &mut scan, &mut lines);
        assert!(matches!(parsed, Ok(Parsed::NeedMore)), "{end}");
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(5));
    let mut lines = Lines::new();
    let parsed = request_head(&head, &mut scan, &mut lines);
    assert_eq!(parsed.err(), Some(Bad::TooLong));
}

#[test]
fn a_split_answer_is_seen_alike() {
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut lines = Lines::new();
    let parsed = request_head(request, &mut Scan::default(), &mut lines).expect("good");
    let Parsed::Head { head, .. } = parsed else {
        panic!("a head")
    };
    let asked = head.asked();
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nA: b\r\n\r\nabc",
        "HTTP/1.0 404 \r\n\r\nabc",
        "HTTP/1.1 200 OK\nA: b\n\nabc",
    ] {
        let look = |end: usize, scan: &mut Scan| {
            let mut lines = Lines::new();
            match response_head(&answer.as_bytes()[..end], &asked, scan, &mut lines) {
                Ok(Parsed::Head { head, len }) => Some((head.status, head.framing, len)),
                Ok(Parsed::NeedMore) => None,
                Err(bad) => panic!("{bad:?} of {answer:?}"),
            }
        };
        let whole = look(answer.len(), &mut Scan::default());
        assert!(whole.is_some());
        let mut scan = Scan::default();
        let first = (0..=answer.len()).find_map(|end| look(end, &mut scan));
        assert_eq!(first, whole, "{answer:?}");
    }
}
