//! Clients that hang up, or have said all they will, before they are answered: what an
//! endpoint does behind that is none of its failures.

use super::*;

const COUNT: usize = 40;

impl Shop {
    /// Clients that hang up while they wait, one after the other.
    fn left(&self, kind: &str) {
        let mut client = self.world.in_pod(&self.a, PYTHON);
        client.args(["-c", SCRIPT, "leave", VIP, kind, &COUNT.to_string(), "0.1"]);
        let told = parse(&client.output().expect("a client")).expect("its report");
        assert_eq!(told["left"], COUNT);
    }

    /// What was logged of them there.
    fn lines(&self, node: &str, is_theirs: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut lines = self.world.logged(node);
        lines.retain(is_theirs);
        lines
    }
}

#[test]
fn a_client_that_hangs_up_is_no_failure_of_its_endpoint_and_ejects_none() {
    let shop = Shop::new();
    let before = shop.calls("http", 60);
    assert_eq!(before.failed(), 0, "{before:?}");
    shop.left("http");
    let is_slow = |line: &Value| line["event"] == "request" && line["path"] == "/slow";
    let is_own = |line: &Value| is_slow(line) && line["direction"] != "inbound";
    let whole = || shop.lines("n1", is_own).len() == COUNT;
    assert!(eventually(Duration::from_secs(10), whole));
    // Neither its endpoint nor an agent is who ended these, on either node, and nobody else
    // was asked.
    let mut lines = shop.lines("n1", is_own);
    let there = || shop.lines("n2", is_slow).len() == lines.iter().filter(is_elsewhere).count();
    assert!(eventually(Duration::from_secs(10), there));
    lines.extend(shop.lines("n2", is_slow));
    for line in &lines {
        assert_eq!(line["ended_by"], "client", "{line}");
        assert_eq!(line["status"], 0, "{line}");
        assert_eq!(line["response_flags"], "DC", "{line}");
        assert_eq!(line["attempts"], 1, "{line}");
    }
    let list = shop.agents[0].ask("/endpoints").expect("a list");
    assert_eq!(shop.ejections(), 0, "{list}");
    assert_eq!(shop.calls("http", 60).failed(), 0);
}

/// To the other node.
fn is_elsewhere(line: &&Value) -> bool {
    line["direction"] == "outbound"
}

#[test]
fn a_server_that_resets_a_connection_whose_client_has_ended_it_has_not_failed() {
    let shop = Shop::new();
    let before = shop.calls("tcp", 60);
    assert_eq!(before.failed(), 0, "{before:?}");
    shop.left("tcp");
    let closed = |line: &Value| {
        let is_reset = line["reason"] == "reset_by_upstream";
        line["event"] == "close" && line["direction"] != "inbound" && is_reset
    };
    let all = || shop.lines("n1", closed).len() == COUNT;
    let is_all = eventually(Duration::from_secs(10), all);
    assert!(is_all, "{:?}", shop.world.logged("n1").last());
    let list = shop.agents[0].ask("/endpoints").expect("a list");
    assert_eq!(shop.ejections(), 0, "{list}");
}

/// Its clients wait for an answer: others give one.
#[test]
fn a_server_that_resets_whoever_ends_its_side_is_left_out_where_others_answer() {
    for server in ["b", "c"] {
        let shop = Shop::new();
        assert_eq!(shop.calls("said", 60).failed(), 0);
        shop.mode(server, "spurn");
        let before = shop.until_ejected("said");
        println!("{server}: begins {before:?}");
        let told = shop.agents[0].ask("/endpoints").expect("a list");
        assert_eq!(shop.ejections(), 1, "{before:?} {told}");
        let calls = shop.calls("said", 1_000);
        println!("{server}: then {calls:?}");
        assert!(calls.failed() <= 3, "{calls:?}\n{}", shop.agents[0].log());
        shop.mode(server, "ok");
        shop.until_back("said", server);
    }
}

#[test]
fn a_client_that_has_said_all_it_will_is_answered() {
    let shop = Shop::new();
    for server in ["b", "c", "d"] {
        shop.mode(server, "slow");
    }
    let calls = shop.calls("ended", 30);
    assert_eq!(calls.failed(), 0, "{calls:?}");
    assert!(["b", "c", "d"].iter().all(|server| calls.of(server) > 0));
    // An answer is one, whoever asked: errors are.
    for server in ["b", "c", "d"] {
        shop.mode(server, "fail");
    }
    let calls = shop.calls("ended", 60);
    assert_eq!(calls.failed(), 60, "{calls:?}");
    assert!(shop.ejections() > 0, "{calls:?}");
}
