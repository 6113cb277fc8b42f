//! Endpoints that are replaced one by one under load.

use std::process::Child;
use std::time::Instant;

use mesh_tests::figure;

use super::*;

/// From one replacement to the next.
const PACE: Duration = Duration::from_millis(200);

fn turns() -> usize {
    figure("150", "30").parse().expect("a number")
}

/// Who leaves knows it before the agents do, or behind them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    /// It is no endpoint any more when it ends: with a `preStop` pause, or a slow end.
    Afterwards,
    /// Some are faster than the news of it.
    AtOnce,
}

impl Shop {
    /// Clients that ask in each of these ways until [`asked_by`](Self::asked_by).
    pub(super) fn load(&self, kinds: &[&str]) -> Child {
        let mut load = self.world.in_pod(&self.a, PYTHON);
        load.args(["-c", SCRIPT, "load", VIP, "240"]).args(kinds);
        load.stdin(Stdio::piped()).stdout(Stdio::piped());
        load.spawn().expect("a load")
    }

    /// What came of all calls, by kind. The end of its input ends the load.
    pub(super) fn asked_by(&self, load: Child) -> Value {
        let report = parse(&load.wait_with_output().expect("a load")).expect("its report");
        println!("{report}");
        report["results"].clone()
    }

    /// Nothing of these kinds failed, and there was something of each.
    pub(super) fn all_fine(&self, results: &Value, kinds: &[&str]) {
        for kind in kinds {
            let of = results[kind].as_object().expect("counts");
            let failed = of.keys().any(|what| what != "ok");
            let lines = self.failures();
            assert!(
                !failed && of["ok"].as_u64() > Some(200),
                "{kind}: {results}\n{}\n{lines:#?}",
                self.agents[0].log()
            );
        }
    }

    /// Lines of the client's node about what did not end well.
    fn failures(&self) -> Vec<Value> {
        let mut lines = self.world.logged("n1");
        lines.retain(|line| !["finished", "-"].contains(&line["reason"].as_str().unwrap_or("-")));
        lines
    }

    /// Replaces all in turn while clients ask; what came of their calls, by kind.
    fn replaced(&self, kinds: &[&str], leaves: impl Fn(usize) -> Leaves) -> Value {
        let load = self.load(kinds);
        let turns = turns();
        let begun = Instant::now();
        let mut late = 0;
        for turn in 0..turns {
            // A pace, and no wait for anything: what a machine is late is late.
            let due = begun + PACE * u32::try_from(turn).expect("a few");
            late += usize::from(due.elapsed() > PACE);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // As one leaves, the one before it is back.
            let (at, back, name) = (turn % 3, (turn + 2) % 3, SERVERS[turn % 3].1);
            let news = || {
                self.configure(at, false)?;
                self.configure(back, true)
            };
            match leaves(turn) {
                Leaves::Afterwards => {
                    self.agents.read(news).expect("in force");
                    self.mode(name, "leave");
                }
                Leaves::AtOnce => {
                    self.mode(name, "leave");
                    self.agents.read(news).expect("in force");
                }
            }
            self.mode(name, "ok");
        }
        println!("{turns} turns in {:?}, {late} late", begun.elapsed());
        self.asked_by(load)
    }
}

/// What they are at is finished, and nothing new reaches them: nobody loses anything.
#[test]
fn endpoints_that_are_replaced_one_by_one_and_end_in_order_lose_nothing() {
    let shop = Shop::new();
    let kinds = ["kept", "http", "post", "tcp"];
    let results = shop.replaced(&kinds, |_| Leaves::Afterwards);
    shop.all_fine(&results, &kinds);
}

/// Requests that ask for nothing to be done are asked again. Of others, and of bytes, those
/// fail that the endpoint may have seen: its connection was taken, and broke behind that.
#[test]
fn endpoints_that_are_replaced_one_by_one_lose_no_request() {
    let shop = Shop::new();
    let leaves = |turn| match turn % 2 {
        0 => Leaves::Afterwards,
        _ => Leaves::AtOnce,
    };
    let broke = |results: &Value, (kind, clients): (&str, usize), how: &[&str]| {
        // At most one of each client with each that leaves at once.
        let most = u64::try_from(clients * turns() / 2).expect("a few");
        let of = results[kind].as_object().expect("counts");
        let failed = of.iter().filter(|(what, _)| *what != "ok");
        let is_known = |what: &str| how.iter().any(|how| what.starts_with(how));
        let others = failed.clone().filter(|(what, _)| !is_known(what)).count();
        let failed: u64 = failed.filter_map(|(_, count)| count.as_u64()).sum();
        println!("{kind}: {failed} broke");
        assert!(
            others == 0 && failed <= most && of["ok"].as_u64() > Some(200),
            "{kind}: {results}\n{}\n{:#?}",
            shop.agents[0].log(),
            shop.failures()
        );
    };
    // A client of HTTP is waited for: else a server that ends before it asks ends it as well.
    shop.write("traffic", &traffic_policy("s", &["s"], "protocol: HTTP"));
    let results = shop.replaced(&["kept", "http", "post"], leaves);
    shop.all_fine(&results, &["kept", "http"]);
    broke(&results, ("post", 2), &["502"]);
    shop.write("traffic", "");
    let results = shop.replaced(&["tcp"], leaves);
    broke(&results, ("tcp", 8), &["closed", "ConnectionResetError"]);
}
