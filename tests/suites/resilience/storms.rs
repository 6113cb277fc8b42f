//! All endpoints fail: what they see of it themselves.

use super::*;

/// A fifth more than was asked, and ten a second; what was asked before counts for ten seconds.
fn most(calls: &Calls) -> f64 {
    let seconds = calls.report["took"].as_f64().expect("a time");
    1.2 * calls.count as f64 + 10.0 * (seconds + 10.0)
}

/// With the probes of those that are ejected. Whoever may be asked twice is by a route, a
/// probe that may be is elsewhere, and who may not be is not.
#[test]
fn where_all_fail_servers_see_little_more_than_was_asked_of_them() {
    for (kind, is_retried) in [
        ("http", false),
        ("http", true),
        ("post", true),
        ("post", false),
    ] {
        let shop = Shop::new();
        if is_retried {
            shop.route("retry: {codes: [503], attempts: 2, backoff: 1ms}");
        }
        for server in ["b", "c", "d"] {
            shop.mode(server, "fail");
        }
        let before = shop.asked_all();
        let calls = shop.calls(kind, 1_000);
        let seen = shop.asked_all() - before;
        println!("{kind}, retries {is_retried}: {seen} of {calls:?}");
        assert_eq!(calls.report["results"]["503"], 1_000, "{calls:?}");
        assert!(seen >= calls.count);
        assert!(seen as f64 <= most(&calls), "{kind}: {seen} of {calls:?}");
        if is_retried {
            assert!(seen > calls.count, "{seen} of {calls:?}");
        } else if kind == "post" {
            assert_eq!(seen, calls.count);
        }
    }
}

/// Each call waits for the endpoint that it was given as long as its client does, and more
/// are sent beside them only as far as the budget goes: five in an hour.
#[test]
fn where_all_are_silent_servers_see_little_more_than_was_asked_of_them() {
    let shop = Shop::new();
    let budget = "retryBudget: {percent: 0, interval: 1h, minRetryRate: {count: 5, interval: 1h}}";
    shop.write("traffic", &super::hedging::policy(budget));
    assert_eq!(shop.calls("http", 50).failed(), 0);
    for server in ["b", "c", "d"] {
        shop.mode(server, "hang");
    }
    let before = shop.asked_all();
    let calls = shop.calls_within("http", 30, "1.2");
    for server in ["b", "c", "d"] {
        shop.mode(server, "ok");
    }
    let seen = shop.asked_all() - before;
    println!("hang: {seen} of {calls:?}");
    assert!((30..=35).contains(&seen), "{seen} of {calls:?}");
}

impl Shop {
    /// Resets that its pod has sent: each connection that is refused has one.
    fn refused(&self, at: usize) -> u64 {
        let mut cat = self.world.in_pod(&self.servers[at], "cat");
        let out = cat.arg("/proc/net/snmp").output().expect("cat");
        let text = String::from_utf8(out.stdout).expect("a text");
        let mut lines = text.lines().filter(|line| line.starts_with("Tcp: "));
        let (names, counts) = (lines.next().expect("names"), lines.next().expect("counts"));
        let mut columns = names.split(' ').zip(counts.split(' '));
        let sent = columns.find(|(name, _)| *name == "OutRsts");
        sent.expect("a column").1.parse().expect("a count")
    }
}

/// Neither what may be asked twice nor what nobody has seen storms where it goes nowhere.
#[test]
fn where_all_break_off_or_refuse_servers_see_little_more_than_was_asked_of_them() {
    for (kind, mode) in [
        ("http", "reset"),
        ("tcp", "reset"),
        ("post", "reset"),
        ("http", "refuse"),
        ("tcp", "refuse"),
        ("post", "refuse"),
    ] {
        let shop = Shop::new();
        for server in ["b", "c", "d"] {
            shop.mode(server, mode);
        }
        let all = 0..SERVERS.len();
        let refused = || all.clone().map(|at| shop.refused(at)).sum::<u64>();
        let (before, retries) = (refused(), shop.metric("mesh_agent_retries_total", ""));
        let calls = shop.calls(kind, 1_000);
        let retries = shop.metric("mesh_agent_retries_total", "") - retries;
        let mut seen = refused() - before;
        for server in ["b", "c", "d"] {
            shop.mode(server, "ok");
        }
        if mode == "reset" {
            seen = shop.asked_all();
        }
        println!("{kind} {mode}: {seen}, {retries} retries, of {calls:?}");
        assert_eq!(calls.ok, 0, "{kind} {mode}: {calls:?}");
        assert!(seen >= 1_000, "{kind} {mode}: {seen} of {calls:?}");
        // Connections are counted here: where a client does not ask at once, one is made before
        // its request is there, for its server might speak first.
        assert!(
            seen as f64 <= most(&calls) + 10.0,
            "{kind} {mode}: {seen} of {calls:?}"
        );
        // What nobody has seen goes elsewhere, and what may be asked twice.
        if mode == "refuse" || kind == "http" {
            assert!(retries > 0, "{kind} {mode}: {calls:?}");
        }
        assert!(
            retries as f64 <= most(&calls) - 1_000.0,
            "{kind} {mode}: {retries} of {calls:?}"
        );
        for server in ["b", "c", "d"] {
            shop.until_back(kind, server);
        }
    }
}
