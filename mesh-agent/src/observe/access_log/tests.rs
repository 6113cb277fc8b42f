use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use proptest::prelude::*;

use super::parties::Known;
use super::writer::{Trouble, Writer};
use super::{AccessLog, CloseRecord, Event, Events, QUEUE, Record, Target, line};
use crate::model::*;
use crate::observe::connections::LiveConnection;

fn live(account: &str) -> Arc<LiveConnection> {
    let workload = Workload {
        key: WorkloadKey {
            namespace: "shop".into(),
            name: account.into(),
        },
        uid: "u".into(),
        ips: PodIps::default(),
        node: "n1".into(),
        service_account: account.into(),
        app: "web".into(),
        labels: Default::default(),
        enrolment: Enrolment::No(crate::model::Outside::NotAsked),
        on_node: Arc::default(),
        ports: [].into(),
    };
    let flow = Flow {
        id: ConnectionId::new(0, 1),
        direction: Direction::Inbound,
        client: ClientAddr::new("10.0.0.5:4000".parse().expect("address")),
        orig_dst: OrigDst::new("10.96.0.1:80".parse().expect("address")),
        upstream: None,
        source: Ok(Arc::new(workload)),
        destination: Err(UnknownPeer),
        service: None,
        source_principal: None,
        destination_principal: None,
        security: Security::MutualTls,
        tls: Some(TlsParameters {
            group: KeyExchange::X25519MlKem768,
            cipher: CipherSuite::Aes128Gcm,
        }),
        peer_certificate: Some(Arc::new(PeerCertificate {
            principal: None,
            serial: Arc::from([0x0a, 0xff]),
        })),
        denied_by: None,
        errno: None,
        rule: Some(RuleRef {
            policy: "shop/web".into(),
            rule: Some(2),
            generation: 9,
        }),
        started: std::time::SystemTime::UNIX_EPOCH,
        generation: 3,
    };
    Arc::new(LiveConnection::new(Arc::new(flow), ResponseFlags::None))
}

fn formatted(account: &str) -> String {
    let record = Record {
        at: std::time::SystemTime::UNIX_EPOCH,
        live: live(account),
        event: Event::Open,
    };
    let mut out = Vec::new();
    line::append(&mut out, "n1", &record);
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn a_line_names_the_error_of_the_kernel() {
    let mut flow = (*live("web").flow).clone();
    flow.errno = Some(libc::EHOSTUNREACH);
    let record = Record {
        at: std::time::SystemTime::UNIX_EPOCH,
        live: Arc::new(LiveConnection::new(Arc::new(flow), ResponseFlags::Connect)),
        event: Event::Open,
    };
    let mut out = Vec::new();
    line::append(&mut out, "n1", &record);
    let line: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(line["errno"], "EHOSTUNREACH");
}

#[test]
fn a_line_names_the_rule_that_decided_and_how_it_was_encrypted() {
    let line: serde_json::Value = serde_json::from_str(&formatted("web")).expect("JSON");
    assert_eq!(line["rule"]["policy"], "shop/web");
    assert_eq!(line["rule"]["index"], 2);
    assert_eq!(line["rule"]["generation"], 9);
    assert_eq!(line["security"], "mutual_tls");
    assert_eq!(line["verdict"], "allowed");
    assert_eq!(line["id"], "0-1");
    assert_eq!(line["peer_certificate"]["serial"], "0aff");
    assert_eq!(
        line["tls"],
        serde_json::json!({
            "version": "1.3",
            "group": "X25519MLKEM768",
            "cipher": "TLS_AES_128_GCM_SHA256",
        })
    );
}

#[test]
fn each_request_has_the_parties_of_its_own_flow() {
    let mut known = Known::new("n1".into());
    let flows: Vec<Arc<Flow>> = (0..600)
        .map(|number| {
            let mut flow = (*live("web").flow).clone();
            flow.id = ConnectionId::new(0, number);
            Arc::new(flow)
        })
        .collect();
    for flow in flows.iter().chain(&flows).chain(flows.iter().rev()) {
        let mut line = Vec::new();
        known.begin(
            &mut line,
            (std::time::SystemTime::UNIX_EPOCH, "request"),
            flow,
        );
        line.push(b'}');
        let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(line["id"], flow.id.to_string());
        assert_eq!(line["event"], "request");
        assert_eq!(line["security"], "mutual_tls");
    }
}

#[test]
fn the_reference_names_every_field_in_its_order() {
    let record = Record {
        at: std::time::SystemTime::UNIX_EPOCH,
        live: live("web"),
        event: end(CloseReason::Finished, true),
    };
    let mut out = Vec::new();
    line::append(&mut out, "n1", &record);
    let text = String::from_utf8(out).expect("UTF-8");
    let mut from = 0;
    for (field, _) in line::FIELDS {
        let name = format!("\"{field}\":");
        let at = text[from..].find(&name);
        from += at.unwrap_or_else(|| panic!("{field} in its place in {text}"));
    }
    let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let fields = line.as_object().expect("an object").len();
    assert_eq!(fields, line::FIELDS.len());
}

fn end(reason: CloseReason, connected: bool) -> Event {
    Event::Close(CloseRecord {
        bytes: ByteCounts::default(),
        connect_time: connected.then_some(Duration::ZERO),
        duration: Duration::ZERO,
        reason,
    })
}

#[test]
fn only_the_lines_that_were_asked_for_are_written() {
    let progress = Event::Progress {
        bytes: ByteCounts::default(),
        duration: Duration::ZERO,
    };
    let refused = CloseReason::Refused(RefuseReason::NoEndpoint);
    let all = [
        Event::Open,
        progress,
        end(CloseReason::Finished, true),
        end(CloseReason::ResetByUpstream, false),
        end(refused, false),
        end(CloseReason::PolicyChanged, true),
    ];
    let wanted = |events: Events| all.map(|event| events.want(&event));
    assert_eq!(wanted(Events::All), [true; 6]);
    assert_eq!(
        wanted(Events::Close),
        [false, false, true, true, true, true]
    );
    assert_eq!(
        wanted(Events::Refused),
        [false, false, false, true, true, true]
    );
}

#[test]
fn the_verdict_says_whether_it_was_carried_and_whether_a_policy_said_no() {
    let refused = CloseReason::Refused;
    for (reason, connected, verdict) in [
        (CloseReason::Finished, true, "allowed"),
        (CloseReason::ResetByUpstream, true, "allowed"),
        (CloseReason::ResetByUpstream, false, "refused"),
        (refused(RefuseReason::Denied), false, "denied"),
        (refused(RefuseReason::RefusedByPeer), false, "denied"),
        (CloseReason::PolicyChanged, true, "denied"),
        (refused(RefuseReason::OverLimit), false, "refused"),
    ] {
        let Event::Close(end) = end(reason, connected) else {
            panic!("an end");
        };
        assert_eq!(super::record::verdict(Some(end)), verdict, "{reason:?}");
    }
}

proptest! {
    #[test]
    fn no_name_can_break_a_line_or_steer_a_terminal(name in any::<String>()) {
        let text = formatted(&name);
        let line = text.strip_suffix('\n').expect("one line");
        prop_assert!(!line.contains(crate::model::text::is_hidden));
        let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
        prop_assert_eq!(json["source_service_account"].as_str(), Some(name.as_str()));
    }
}

fn of_request(record: &RequestRecord<'_>) -> String {
    let mut out = Vec::new();
    let entry = super::request::RequestLine::of(record);
    super::request::append(&mut out, &mut Known::new("n1".into()), &entry);
    String::from_utf8(out).expect("UTF-8")
}

proptest! {
    #[test]
    fn a_requests_line_says_what_was_recorded_whatever_its_names_hold(
        (method, path, host) in (any::<String>(), any::<String>(), any::<Option<String>>()),
        (route, policy) in (any::<String>(), any::<String>()),
        (micros, status, trace) in (0_u64..1 << 50, any::<u16>(), any::<[u8; 16]>()),
        (index, sent, queued) in (any::<Option<u16>>(), any::<u64>(), any::<Option<u32>>()),
    ) {
        let flow = live("web").flow.clone();
        let host = host.map(|host| host.into_bytes());
        let host: Vec<HeaderLine<'_>> = host
            .iter()
            .map(|value| HeaderLine { name: "host", value })
            .collect();
        let head = RequestHead::for_test(&method, &path, &host);
        let text = Arc::new(RequestText::of(&head));
        let route = RouteRef { route: route.into(), rule: "0".into() };
        let rule = RuleRef { policy: policy.into(), rule: index, generation: 7 };
        let of_queue = queued.map(|micros| Duration::from_micros(micros.into()));
        let mut record = crate::observe::tests::request(&flow);
        record.text = Some(&text);
        record.route = Some(&route);
        record.rule = Some(&rule);
        record.status = status;
        record.bytes.sent = sent;
        record.queued = of_queue;
        record.trace = Some(TraceId(trace));
        record.timing.request = None;
        record.timing.duration = Duration::from_micros(micros);
        let line = of_request(&record);
        let line = line.strip_suffix('\n').expect("one line");
        prop_assert!(!line.contains(crate::model::text::is_hidden));
        let json: serde_json::Value = serde_json::from_str(line).expect("JSON");
        prop_assert_eq!(json["method"].as_str(), Some(text.method()));
        prop_assert_eq!(json["path"].as_str(), Some(text.path()));
        prop_assert_eq!(json["host"].as_str(), text.host());
        prop_assert_eq!(json["route"]["name"].as_str(), Some(&*route.route));
        prop_assert_eq!(json["rule"]["policy"].as_str(), Some(&*rule.policy));
        prop_assert_eq!(json["rule"]["index"].as_u64(), index.map(u64::from));
        prop_assert_eq!(json["rule"]["generation"].as_u64(), Some(7));
        prop_assert_eq!(json["status"].as_u64(), Some(status.into()));
        prop_assert_eq!(json["request_bytes"].as_u64(), Some(sent));
        prop_assert_eq!(&json["request_ms"], &serde_json::Value::Null);
        prop_assert_eq!(json["duration_ms"].as_f64(), Some(micros as f64 / 1e3));
        prop_assert_eq!(json["queued_ms"].as_f64(), queued.map(|m| f64::from(m) / 1e3));
        let trace = u128::from_be_bytes(trace);
        prop_assert_eq!(json["trace_id"].as_str(), Some(&*format!("{trace:032x}")));
    }
}

#[test]
fn times_have_as_many_digits_as_they_need() {
    for (micros, text) in [
        (0, "0.0"),
        (1, "0.001"),
        (20, "0.02"),
        (5_500, "5.5"),
        (12_000, "12.0"),
    ] {
        let mut out = Vec::new();
        super::json::Value::append(&Duration::from_micros(micros), &mut out);
        assert_eq!(String::from_utf8(out).expect("digits"), text);
    }
}

fn writer(path: &Path) -> (Writer, Arc<std::sync::atomic::AtomicBool>, Counter) {
    let (writer, reopen, dropped, _) = troubled(path);
    (writer, reopen, dropped)
}

type Troubled = (
    Writer,
    Arc<std::sync::atomic::AtomicBool>,
    Counter,
    Arc<Trouble>,
);

fn troubled(path: &Path) -> Troubled {
    let (reopen, dropped, trouble) = (Arc::default(), Counter::default(), Arc::default());
    let target = Target::File(path.to_owned());
    let writer = Writer::new(
        target,
        Arc::clone(&reopen),
        dropped.clone(),
        Arc::clone(&trouble),
    );
    (writer, reopen, dropped, trouble)
}

#[test]
fn why_lines_are_lost_is_known_until_they_are_not_any_more() {
    let (mut full, _, _, trouble) = troubled(Path::new("/dev/full"));
    assert_eq!(trouble.now(), None);
    full.write(b"one\n");
    let why = trouble.now().expect("a reason");
    assert!(why.contains("/dev/full cannot be written"), "{why}");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("later/log");
    let (mut later, reopen, _, trouble) = troubled(&path);
    later.write(b"one\n");
    let why = trouble.now().expect("a reason");
    assert!(why.contains("cannot be opened"), "{why}");
    std::fs::create_dir(dir.path().join("later")).expect("a directory");
    reopen.store(true, std::sync::atomic::Ordering::Relaxed);
    later.write(b"two\n");
    assert_eq!(trouble.now(), None);
}

#[test]
fn a_file_that_was_rotated_is_opened_anew_when_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
    let (mut writer, reopen, dropped) = writer(&path);
    writer.write(b"one\n");
    std::fs::rename(&path, &moved).expect("rename");
    reopen.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.write(b"two\n");
    assert_eq!(std::fs::read_to_string(&moved).expect("old"), "one\n");
    assert_eq!(std::fs::read_to_string(&path).expect("new"), "two\n");
    assert_eq!(dropped.get(), 0);
}

#[test]
fn lines_that_cannot_be_written_are_counted_each() {
    let (mut full, _, dropped) = writer(Path::new("/dev/full"));
    full.write(b"one\ntwo\n");
    assert_eq!(dropped.get(), 2);
    let (mut nowhere, _, dropped) = writer(Path::new("/nonexistent/log"));
    nowhere.write(b"one\n");
    assert_eq!(dropped.get(), 1);
}

#[test]
fn a_stuck_reader_never_blocks_and_every_line_lost_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    // Without a reader even opening it blocks the writer.
    let log = AccessLog::start("n1", Target::File(path), Events::All);
    let live = live("web");
    for _ in 0..QUEUE + 1_000 {
        log.send(&live, Event::Open);
    }
    assert_eq!(log.dropped().get(), 1_000);
    assert!(log.trouble().is_some_and(|why| why.contains("not taken")));
}

/// What a worker pays for a line: handing over a record, against making the text.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_line() {
    let live = live("web");
    let log = AccessLog::start("n1", Target::File("/dev/null".into()), Events::All);
    const ROUNDS: u32 = 4_000;
    let mut handed = Duration::ZERO;
    for _ in 0..25 {
        let begin = std::time::Instant::now();
        for _ in 0..ROUNDS {
            log.send(&live, Event::Open);
        }
        handed += begin.elapsed();
        std::thread::sleep(4 * super::TURN);
    }
    let mut out = Vec::with_capacity(1024);
    let record = Record {
        at: std::time::SystemTime::now(),
        live: live.clone(),
        event: Event::Open,
    };
    let begin = std::time::Instant::now();
    for _ in 0..25 * ROUNDS {
        out.clear();
        line::append(&mut out, "n1", &record);
    }
    let made = begin.elapsed();
    let flow = live.flow.clone();
    let request = super::request::RequestLine::of(&crate::observe::tests::request(&flow));
    let mut known = Known::new("n1".into());
    let begin = std::time::Instant::now();
    for _ in 0..25 * ROUNDS {
        out.clear();
        super::request::append(&mut out, &mut known, &request);
    }
    let of_request = begin.elapsed();
    eprintln!(
        "handed over {:?}, made {:?}, of a request {:?}, dropped {}",
        handed / (25 * ROUNDS),
        made / (25 * ROUNDS),
        of_request / (25 * ROUNDS),
        log.dropped().get()
    );
}
