//! Endpoints that are replaced one by one under load.

use std::process::Child;
use std::time::Instant;

use mesh_tests::figure;

use super::*;

/// From one replacement to the next.
const PACE: Duration = Duration::from_millis(200);

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
            let lines = self.world.logged("n1").into_iter();
            let lines: Vec<_> = lines.filter(|line| line["reason"].is_string()).collect();
            assert!(
                !failed && of["ok"].as_u64() > Some(200),
                "{kind}: {results}\n{}\n{lines:#?}",
                self.agents[0].log()
            );
        }
    }

    /// Replaces all in turn while clients ask; what came of their calls, by kind.
    fn replaced(&self, leaves: impl Fn(usize) -> Leaves) -> Value {
        let load = self.load(&["kept", "http", "post", "tcp"]);
        let turns: usize = figure("150", "30").parse().expect("a number");
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
    let results = shop.replaced(|_| Leaves::Afterwards);
    shop.all_fine(&results, &["kept", "http", "post", "tcp"]);
}

/// Requests that ask for nothing to be done are asked again. Of others, and of bytes, those
/// fail that the endpoint may have seen: its connection was taken, and broke behind that.
#[test]
fn endpoints_that_are_replaced_one_by_one_lose_no_request() {
    let shop = Shop::new();
    let results = shop.replaced(|turn| match turn % 2 {
        0 => Leaves::Afterwards,
        _ => Leaves::AtOnce,
    });
    shop.all_fine(&results, &["kept", "http"]);
    let broke = |kind: &str, how: &[&str]| {
        let of = results[kind].as_object().expect("counts");
        let other = |what: &&String| *what != "ok" && !how.iter().any(|how| what.starts_with(how));
        let other: Vec<_> = of.keys().filter(other).collect();
        assert!(
            other.is_empty() && of["ok"].as_u64() > Some(200),
            "{kind}: {results}\n{}",
            shop.agents[0].log()
        );
        of.iter()
            .filter(|(what, _)| *what != "ok")
            .filter_map(|(_, count)| count.as_u64())
            .sum::<u64>()
    };
    // What could not reach an endpoint goes to another one, and has no 503.
    let posts = broke("post", &["502"]);
    let bytes = broke("tcp", &["closed", "ConnectionResetError"]);
    println!("{posts} POSTs and {bytes} connections broke");
    // Those that were under way as one left: at most as many as there are clients.
    let most = 2 * figure("75", "15").parse::<u64>().expect("a number");
    assert!(posts <= most && bytes <= most, "{results}");
}
