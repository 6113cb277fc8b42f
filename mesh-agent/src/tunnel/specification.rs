//! `docs/protocol.md` says what the code does.

use super::broken::LINGER;
use super::frame::{
    GENERATIONS, HEADER, Kind, MAX_HOPS, MAX_OPEN, MAX_RESET, Open, ResetReason, VERSION,
    put_header,
};
use super::pool;
use super::relay::{
    ACCEPT_DELAY, CREDIT_BYTES, FRAMES_PER_POLL, MAX_REPLAYS, RESET_TIMEOUT, UPLOAD_BYTES,
};
use super::reset::{MAX_POLICY, Reset};
use super::shared::limits as shared;
use crate::model::PeerProtocol;
use crate::model::RuleRef;
use crate::tls::MAX_PLAINTEXT;

const TEXT: &str = include_str!("../../../docs/protocol.md");

/// A frame as the example shows it.
fn shown(kind: Kind, payload: &[u8]) -> String {
    let mut frame = vec![0; HEADER];
    put_header(&mut frame, kind, 0, payload.len());
    frame.extend_from_slice(payload);
    line(&frame)
}

fn line(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("    {}", hex.join(" "))
}

#[test]
fn the_example_is_what_goes_over_the_wire() {
    let open = Open {
        original: "10.96.0.10:80".parse().expect("an address"),
        source: "10.244.1.5:40000".parse().expect("an address"),
        hops: 1,
        takes_rule: true,
        trace: None,
    };
    let rule = RuleRef {
        policy: "shop/no-web".into(),
        rule: Some(0),
        generation: 1,
    };
    let expected = [
        line(&open.encode(0)),
        shown(Kind::Data, b"hi"),
        shown(Kind::Fin, &[]),
        shown(Kind::Accept, &[]),
        shown(Kind::Data, b"yo"),
        shown(Kind::Fin, &[]),
        shown(Kind::Reset, &[ResetReason::Denied as u8]),
        shown(Kind::Reset, &[ResetReason::Answer as u8]),
        shown(Kind::Reset, &Reset::denied(Some(&rule)).encode()),
        shown(Kind::Goaway, &[0, 0]),
    ];
    let on_a_channel = shared::example();
    let expected: Vec<String> = expected
        .into_iter()
        .chain(on_a_channel.iter().map(|frame| line(frame)))
        .collect();
    let (_, example) = TEXT.split_once("## Example").expect("an example");
    let lines: Vec<&str> = example.lines().filter(|l| l.starts_with("    ")).collect();
    assert_eq!(lines, expected);
}

#[test]
fn every_limit_in_the_specification_is_the_codes() {
    let pool = pool::Config::default();
    let limits = [
        ("header, bytes", HEADER as u128),
        ("OPEN, bytes", MAX_OPEN as u128),
        ("RESET, bytes", MAX_RESET as u128),
        ("a policy's name in it, bytes", MAX_POLICY as u128),
        ("hops", u128::from(MAX_HOPS)),
        (
            "frames of a peer before its neighbours run",
            FRAMES_PER_POLL as u128,
        ),
        ("generations", u128::from(GENERATIONS)),
        ("plaintext of a record, bytes", MAX_PLAINTEXT as u128),
        (
            "credit before ACCEPT on a reused connection, bytes",
            CREDIT_BYTES as u128,
        ),
        ("ACCEPT alone after, ms", ACCEPT_DELAY.as_millis()),
        (
            "ACCEPT alone after, bytes from the client",
            u128::from(UPLOAD_BYTES),
        ),
        (
            "wait for the answer to a RESET, ms",
            RESET_TIMEOUT.as_millis(),
        ),
        ("times a stream is begun again", u128::from(MAX_REPLAYS)),
        (
            "wait for the peer's close after a GOAWAY, ms",
            LINGER.as_millis(),
        ),
        ("idle connections of a pair", pool.per_pair as u128),
        ("idle connections of a pod", pool.per_pod as u128),
        ("idle connections of a worker", pool.in_all as u128),
        ("idle, s", u128::from(pool.idle.as_secs())),
        (
            "oldest connection for a new stream, s",
            u128::from(pool.max_age.as_secs()),
        ),
        (
            "header on a shared connection, bytes",
            shared::CHANNEL_FRAME as u128,
        ),
        (
            "channels of a shared connection",
            shared::MAX_CHANNELS as u128,
        ),
        ("highest channel", u128::from(shared::UNSAID - 1)),
        (
            "window of a channel at first, bytes",
            u128::from(shared::WINDOW),
        ),
        (
            "window of a channel at most, bytes",
            u128::from(shared::MAX_WINDOW),
        ),
        (
            "parts of a window, of which one is read before that is told",
            u128::from(shared::PARTS),
        ),
        ("data that waits to be sealed, bytes", shared::FULL as u128),
        (
            "beyond that, of writes of 4096 bytes at most, bytes",
            shared::RESERVED as u128,
        ),
        (
            "what waits when nothing more is read, bytes",
            shared::FLOODED as u128,
        ),
        (
            "silence of a shared connection's peer that was sent something, s",
            u128::from(shared::GONE.as_secs()),
        ),
        (
            "silence of its agent behind new channels, then no more begin, s",
            u128::from(shared::UNHEARD.as_secs()),
        ),
    ];
    let (_, table) = TEXT.split_once("## Limits").expect("limits");
    let (table, _) = table.split_once("\n\nThe ").expect("the table's end");
    let rows = table.lines().filter(|l| l.starts_with("| ")).skip(2);
    let expected: Vec<String> = limits
        .iter()
        .map(|(n, v)| format!("| {n} | {v} |"))
        .collect();
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    assert_eq!(PeerProtocol::Mesh1.alpn(), b"mesh/1");
    assert_eq!(PeerProtocol::Shared1.alpn(), b"mesh-shared/1");
    let both = [PeerProtocol::Shared1, PeerProtocol::Mesh1];
    assert_eq!(PeerProtocol::Shared1.offered(), both);
    assert_eq!(
        shared::FRAMES_PER_POLL,
        FRAMES_PER_POLL,
        "one row is for both"
    );
    assert!(TEXT.contains(&format!("OPEN's version must be {VERSION}.")));
}
