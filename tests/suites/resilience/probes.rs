//! What it costs clients that never try again that an ejected endpoint is asked now and then.

use super::*;

/// Calls a second.
const RATE: u64 = 50;
/// Clients wait for so many seconds.
const LONGEST: &str = "2";

/// As `mesh-agent status endpoints` has it.
struct Standing {
    state: String,
    /// Seconds to its next probe, and between two of them.
    next: f64,
    interval: f64,
}

impl Shop {
    /// So many seconds of calls, each at its time however long others take.
    fn offered(&self, kind: &str, seconds: u64) -> Calls {
        let (seconds, rate) = (seconds.to_string(), RATE.to_string());
        let mut client = self.world.in_pod(&self.a, PYTHON);
        client.args(["-c", SCRIPT, "offered", VIP, kind, &seconds, &rate, LONGEST]);
        let report = parse(&client.output().expect("a client")).expect("its report");
        let count = |of: &Value| of.as_u64().unwrap_or_default();
        Calls {
            count: count(&report["count"]),
            ok: count(&report["results"]["ok"]),
            report,
        }
    }

    fn standing(&self, server: &str) -> Standing {
        let list = self.agents[0].ask("/endpoints").expect("a list");
        let rows = list["endpoints"].as_array().expect("rows");
        let is_it = |row: &&Value| row["pod"] == format!("shop/{server}");
        let row = rows.iter().find(is_it).expect("it was used");
        let seconds = |name: &str| row[name].as_f64().unwrap_or_default();
        Standing {
            state: row["state"].as_str().expect("a state").to_owned(),
            next: seconds("next_probe_seconds"),
            interval: seconds("probe_interval_seconds"),
        }
    }

    fn failed_probes(&self) -> u64 {
        self.metric("mesh_agent_outlier_probes_total", "result=\"failure\"")
    }

    /// The server fails so, and once that is found out a thousand calls lose no more than
    /// `most`. It heals, and is used again.
    fn costs_no_more(&self, (kind, server, mode): (&str, &str, &str), most: u64) {
        assert_eq!(self.calls(kind, 100).failed(), 0);
        self.mode(server, mode);
        let before = self.offered(kind, 8);
        println!("{kind} {mode} {server}: begins {before:?}");
        let calls = self.offered(kind, 1_000 / RATE);
        println!("{kind} {mode} {server}: {calls:?}");
        assert_eq!(calls.count, 1_000);
        assert!(
            calls.failed() <= most,
            "{kind} {mode}: {calls:?}\n{}",
            self.agents[0].log()
        );
        self.mode(server, "ok");
        self.comes_back(kind, server);
    }

    /// Two intervals are two probes: the one that is under way now, or fails for another
    /// reason, and the next. By count: however slow the machine is.
    fn comes_back(&self, kind: &str, server: &str) {
        let (then, failed) = (self.standing(server), self.failed_probes());
        println!("{} next {} of {}", then.state, then.next, then.interval);
        assert!(
            then.next <= 1.5 * then.interval + 0.1,
            "{} {}",
            then.next,
            then.interval
        );
        let is_back = || {
            self.calls(kind, 10);
            self.standing(server).state == "used"
        };
        let longest = Duration::from_secs_f64(3.0 * then.interval + 20.0);
        assert!(
            eventually(longest, is_back),
            "{server}: {}",
            self.agents[0].log()
        );
        let failed = self.failed_probes() - failed;
        assert!(
            failed <= 1,
            "{failed} probes failed: {}",
            self.agents[0].log()
        );
        self.until_back(kind, server);
    }
}

#[test]
fn a_server_that_is_silent_costs_those_nothing_that_may_be_asked_twice() {
    for (server, mode) in [
        ("c", "hang"),
        ("b", "blackhole"),
        ("c", "blackhole"),
        ("b", "hang"),
    ] {
        Shop::new().costs_no_more(("http", server, mode), 1);
    }
}

#[test]
fn a_server_that_fails_every_second_time_does_not_come_back_by_luck() {
    Shop::new().costs_no_more(("http", "c", "half"), 1);
}

/// It answers the others, so that there are never five failures in a row.
#[test]
fn a_server_that_resets_every_second_connection_costs_few_of_its_clients() {
    Shop::new().costs_no_more(("tcp", "c", "half"), 5);
}

/// Each of its probes is a client's loss, and so there are few of them: the time between them
/// grows fourfold up to 16 s, and of 20 s two clients are met. A server that is silent is not
/// ejected for its first ones: it counts as having taken as long as they waited, and is looked
/// at again after ten times that, 10 s at most: two on a quiet machine, and more where all take
/// long (ten beside all other tests). Of those that it would have in its turn that is little.
#[test]
fn a_server_that_fails_costs_those_little_that_may_be_asked_once() {
    for (kind, mode, most) in [
        ("post", "fail", 2),
        ("tcp", "reset", 2),
        ("tcp", "hang", 20),
    ] {
        Shop::new().costs_no_more((kind, "c", mode), most);
    }
}

/// It has the time that it needs: what is slow does not fail, and others that are as slow
/// are no reason to be in a hurry.
#[test]
fn an_ejected_server_that_is_slow_now_comes_back() {
    let shop = Shop::new();
    assert_eq!(shop.calls("http", 100).failed(), 0);
    shop.mode("c", "fail");
    shop.until_ejected("http");
    shop.mode("c", "slow");
    let is_back = || {
        shop.calls("http", 10);
        shop.standing("c").state == "used"
    };
    assert!(eventually(RETURNS, is_back), "{}", shop.agents[0].log());
}

#[test]
fn what_may_be_asked_once_is_asked_once_of_a_server_that_is_silent() {
    let shop = Shop::new();
    assert_eq!(shop.calls("post", 100).failed(), 0);
    shop.mode("c", "hang");
    let before = shop.asked_all();
    let calls = shop.offered("post", 10);
    println!("post hang: {calls:?}");
    shop.mode("c", "ok");
    assert!(calls.failed() > 0, "{calls:?}");
    assert!(shop.asked_all() - before <= calls.count);
    let hedged = ["won", "lost", "failed"].map(|end| format!("end=\"{end}\""));
    for end in hedged {
        assert_eq!(shop.metric("mesh_agent_hedges_total", &end), 0, "{end}");
    }
}
