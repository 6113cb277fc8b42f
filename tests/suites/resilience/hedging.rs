//! A second try beside a first one that takes long (TrafficPolicy `hedging`), of HTTP/1.

use super::*;

pub(super) fn policy(says: &str) -> String {
    traffic_policy("s", &["s"], says)
}

/// Each has turns of its own: of three calls each of two servers has one first.
const WORKERS: [&str; 2] = ["--workers", "2"];

impl Shop {
    /// Of servers b and c alone, each in its turn and never left out.
    fn hedged(by: &str) -> Self {
        let shop = Self::with(&WORKERS);
        shop.hedges_by(by);
        shop.serves(2, false);
        shop
    }

    fn hedges_by(&self, by: &str) {
        let rest = "outlierDetection: {enabled: false}\n  loadBalancer: {type: RoundRobin}";
        let says = format!("hedging: {{{by}}}\n  {rest}");
        self.write("traffic", &policy(&says));
    }

    fn hedges(&self, end: &str) -> u64 {
        self.metric("mesh_agent_hedges_total", &format!("end=\"{end}\""))
    }

    /// Second tries that were sent and are over.
    fn sent(&self) -> u64 {
        ["won", "lost", "failed"]
            .map(|end| self.hedges(end))
            .iter()
            .sum()
    }
}

/// Whichever it is, on the client's node or on another one: its clients get their answers
/// from the others, it is asked no more than the budget has, and keeps nothing.
#[test]
fn where_one_server_hangs_others_are_asked_as_well() {
    let shop = Shop::new();
    // No place is lost: one for the first try, one for the second.
    shop.write(
        "traffic",
        &policy("hedging: {delay: 50ms}\n  limits: {maxRequests: 2, maxPendingRequests: 0}"),
    );
    for (at, server) in [(0, "b"), (1, "c")] {
        // One that was late once is not asked for a while.
        shop.until_back("http", server);
        let (asked, sent, won) = (shop.asked_all(), shop.sent(), shop.hedges("won"));
        shop.mode(server, "hang");
        let calls = shop.calls("http", 300);
        println!("{server} hangs: {calls:?}, {} hedges", shop.sent() - sent);
        assert_eq!(calls.failed(), 0, "{calls:?}\n{}", shop.agents[0].log());
        let p99 = calls.report["p99"].as_f64().expect("a time");
        assert!(p99 < 1.0, "{server}: {calls:?}");
        assert_eq!(calls.of(server), 0);
        assert!(shop.hedges("won") > won, "{server}");
        // None is ejected for what it was not let finish.
        assert_eq!(shop.ejections(), 0, "{}", shop.agents[0].log());
        let hedged = shop.sent() - sent;
        assert!(hedged <= 60 + 100, "{server}: {hedged}");
        let alone = || shop.asked(at).1 == 1;
        assert!(
            eventually(Duration::from_secs(20), alone),
            "{server} keeps {:?}",
            shop.asked(at)
        );
        shop.mode(server, "ok");
        // A try that another one was quicker than may be taken back before its server reads it.
        let seen = shop.asked_all() - asked;
        assert!(
            (300..=300 + hedged).contains(&seen),
            "{server}: {seen} and {hedged}"
        );
        assert_eq!(shop.calls("http", 20).failed(), 0);
    }
}

/// All are slow: each request would have a second try. The budget has so many.
#[test]
fn there_are_no_more_second_tries_than_the_budget_has_and_none_of_what_may_not_be_asked_twice() {
    let shop = Shop::new();
    let budget = "retryBudget: {percent: 0, interval: 1h, minRetryRate: {count: 5, interval: 1h}}";
    shop.write(
        "traffic",
        &policy(&format!("hedging: {{delay: 20ms}}\n  {budget}")),
    );
    for server in ["b", "c", "d"] {
        shop.mode(server, "slow");
    }
    let posts = shop.calls("post", 20);
    assert_eq!(posts.failed(), 0, "{posts:?}");
    assert_eq!((shop.sent(), shop.hedges("over_budget")), (0, 0));
    assert_eq!(shop.asked_all(), 20);
    let gets = shop.calls("http", 20);
    assert_eq!(gets.failed(), 0, "{gets:?}");
    assert_eq!((shop.sent(), shop.hedges("over_budget")), (5, 15));
    // One that was taken back before its server read it is not seen there.
    let seen = shop.asked_all();
    assert!((20 + 20..=20 + 20 + 5).contains(&seen), "{seen}");
    // Named, it may be.
    shop.write(
        "traffic",
        &policy("hedging: {delay: 20ms, methods: [POST]}"),
    );
    let posts = shop.calls("post", 20);
    assert_eq!(posts.failed(), 0, "{posts:?}");
    assert_eq!(shop.sent(), 5 + 20);
    // A route that wants no request to be seen twice.
    shop.write(
        "route",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {name: s, namespace: shop}\n\
         spec:\n  parentRefs: [{group: \"\", kind: Service, name: s}]\n  rules:\n  \
         - backendRefs: [{name: s, port: 80}]\n    retry: {attempts: 0}\n",
    );
    assert_eq!(shop.calls("http", 5).failed(), 0);
    assert_eq!(shop.sent(), 5 + 20);
}

/// Its session would move with the answer.
#[test]
fn a_client_that_keeps_to_one_server_has_no_second_try() {
    let shop = Shop::new();
    shop.write("traffic", &policy("hedging: {delay: 20ms}"));
    for server in ["b", "c", "d"] {
        shop.mode(server, "slow");
    }
    assert_eq!(shop.calls("http", 5).failed(), 0);
    assert_eq!(shop.sent(), 5);
    let kept = service("sessionAffinity: ClientIP");
    shop.write("s", &kept);
    let calls = shop.calls("http", 5);
    assert_eq!(calls.failed(), 0, "{calls:?}");
    assert_eq!(shop.sent(), 5);
    assert!(
        ["b", "c", "d"].iter().any(|server| calls.of(server) == 5),
        "{calls:?}"
    );
}

/// Neither that of the second try, nor that of the first while the second may have a better
/// one: slower by ten delays at most.
#[test]
fn of_two_answers_a_failure_is_not_the_clients() {
    let shop = Shop::hedged("delay: 50ms");
    shop.mode("b", "slow");
    shop.mode("c", "fail");
    let calls = shop.calls("http", 50);
    println!("c fails: {calls:?}");
    // Whoever meets c first has its answer before anybody else is asked, on an idle machine.
    assert_eq!(calls.of("b") + calls.of("c"), 50);
    assert_eq!(calls.ok, calls.of("b"), "{calls:?}");
    // On a busy machine c has no answer yet when b has.
    let [failed, won, lost] = ["failed", "won", "lost"].map(|end| shop.hedges(end));
    let said = format!("{failed}, {won}, {lost}: {calls:?}");
    assert!(failed > 0 && failed + lost >= 10, "{said}");
    assert_eq!(failed + won + lost, calls.of("b"), "{said}");
    shop.mode("c", "tardy");
    let calls = shop.calls("http", 50);
    println!("c fails late: {calls:?}");
    assert_eq!(calls.of("b"), 50, "{calls:?}");
    assert!(shop.hedges("won") > won, "{calls:?}");
    // Where both fail the client has an answer of theirs, and there is nobody else.
    shop.mode("b", "tardy");
    let calls = shop.calls("http", 10);
    assert_eq!(calls.report["results"]["503"], 10, "{calls:?}");
    assert_eq!(calls.of("b") + calls.of("c"), 10);
    shop.serves(1, false);
    let before = shop.hedges("nowhere");
    shop.calls("http", 5);
    assert_eq!(shop.hedges("nowhere"), before + 5);
}

/// The client's node has what became of both tries in one line, and in words what is asked.
#[test]
fn a_request_that_was_hedged_is_one_line_of_the_log() {
    let shop = Shop::with(&WORKERS);
    let by = "loadBalancer: {type: RoundRobin}";
    shop.write(
        "traffic",
        &policy(&format!("hedging: {{delay: 50ms}}\n  {by}")),
    );
    shop.serves(2, false);
    shop.mode("b", "hang");
    assert_eq!(shop.calls("http", 4).of("c"), 4);
    let lines = || shop.world.logged("n1");
    let hedged = || lines().into_iter().filter(|line| line["hedge"] == "won");
    let won = shop.hedges("won");
    let told = eventually(Duration::from_secs(20), || hedged().count() as u64 == won);
    assert!(told && won > 0, "{won}: {:?}", lines());
    for line in hedged() {
        assert_eq!(
            (&line["status"], &line["attempts"]),
            (&200.into(), &2.into()),
            "{line}"
        );
        let to = format!("{}:{APP_PORT}", shop.servers[1].v4());
        assert_eq!(line["upstream"], to, "{line}");
    }
}

/// A route with two Services: that the one of them wants its requests asked twice does not have
/// the other one asked as well, which never said so.
#[test]
fn a_second_try_stays_with_the_backend_whose_policy_asked_for_it() {
    let shop = Shop::new();
    shop.serves(2, false);
    let other = service("")
        .replace("name: s,", "name: o,")
        .replace("10.96.1.1", "10.96.1.2");
    shop.write("o", &other.replace("tier: s", "app: d"));
    shop.write(
        "traffic",
        &policy("hedging: {delay: 30ms, methods: [POST]}\n  outlierDetection: {enabled: false}"),
    );
    shop.write(
        "route",
        &route("s", "timeouts: {request: 900ms}").replace(
            "[{name: s, port: 80}]",
            "[{name: s, port: 80}, {name: o, port: 80}]",
        ),
    );
    for server in ["b", "c"] {
        shop.mode(server, "hang");
    }
    let calls = shop.calls("post", 48);
    println!("{calls:?}");
    // By chance one run in seventy million has less of one.
    assert!(calls.ok > 5 && calls.failed() > 5, "{calls:?}");
    assert_eq!(shop.asked(2).0, calls.of("d"), "{calls:?}");
    assert_eq!(shop.hedges("won"), 0, "{calls:?}");
    assert!(shop.sent() > 5, "{}", shop.sent());
}

/// It answers before it has read the request, of which not all has gone by then; its client has
/// asked on.
#[test]
fn a_second_server_that_answers_early_gets_its_request_and_no_other() {
    let shop = Shop::hedged("delay: 50ms, methods: [POST]");
    shop.route("retry: {codes: [503], attempts: 1}");
    shop.mode("b", "hang");
    shop.mode("c", "early");
    let calls = shop.calls("large", 10);
    let log = shop.agents[0].log();
    assert_eq!((calls.ok, calls.of("c")), (10, 10), "{calls:?}\n{log}");
    assert!(shop.hedges("won") > 0, "{calls:?}");
}

/// What the client is to have in the end is not kept from it without end.
#[test]
fn a_failure_waits_for_a_server_that_hangs_a_while_and_no_longer() {
    let shop = Shop::hedged("delay: 50ms");
    shop.mode("b", "tardy");
    shop.mode("c", "hang");
    let calls = shop.calls_within("http", 4, "2");
    // Who asked c first waits for that.
    let failed = calls.report["results"]["503"].as_u64().unwrap_or_default();
    assert!(failed > 0 && calls.of("b") == failed, "{calls:?}");
    // Of an answer that has only begun the rest has its time, too.
    shop.route("timeouts: {backendRequest: 1s}");
    shop.hedges_by("delay: 100ms");
    shop.mode("b", "fail:0.3:1.1");
    let calls = shop.calls_within("http", 4, "5");
    let failed = calls.report["results"]["503"].as_u64().unwrap_or_default();
    assert!(failed > 0 && calls.of("b") == failed, "{calls:?}");
}

/// Who has only said that it asks for nothing more waits as before.
#[test]
fn a_client_that_has_ended_its_side_gets_what_the_second_server_has() {
    let shop = Shop::hedged("delay: 200ms");
    shop.mode("c", "ok:0.8");
    // One that fails, and one that closes when its client has ended.
    for first in ["fail:0.4", "hang"] {
        let won = shop.hedges("won");
        shop.mode("b", first);
        let calls = shop.calls("half", 4);
        assert_eq!((calls.ok, calls.of("c")), (4, 4), "{first}: {calls:?}");
        assert!(shop.hedges("won") > won, "{first}: {calls:?}");
    }
}
