//! One of three endpoints fails: what clients see that never try again.
//!
//! Each way of failing has endpoints, carriers and state of its own. Clients call at a
//! fixed rate, each call at its time; a call that takes longer than [`LONGEST`] has failed.

mod carrier;
mod envoy;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use mesh_tests::eventually;
use serde::Serialize;

use carrier::{Carrier, Shop};

/// Calls a second.
const RATE: u32 = 100;
const LONGEST: &str = "2";
/// Seconds of load: while all is well, when it begins to fail, and afterwards.
const WELL: u32 = 3;
const BEGINS: u32 = 8;
const GOES_ON: u32 = 20;
/// Longest wait for the endpoint's return.
const RETURNS: Duration = Duration::from_secs(90);
/// The one that fails.
const FAILS: &str = "c";

/// Ways to fail, as the server's script names them, in the order of the table.
const WAYS: &[(&str, &str, &str)] = &[
    ("http", "fail", "HTTP: answers 503"),
    ("http", "half", "HTTP: answers 503 to every second"),
    ("http", "hang", "HTTP: never answers"),
    ("http", "slow", "HTTP: takes 100 ms"),
    ("http", "refuse", "HTTP: refuses connections"),
    ("http", "blackhole", "HTTP: swallows connections"),
    ("tcp", "reset", "TCP: resets connections"),
    ("tcp", "half", "TCP: resets every second connection"),
    ("tcp", "hang", "TCP: never answers"),
    ("tcp", "slow", "TCP: takes 100 ms"),
    ("tcp", "refuse", "TCP: refuses connections"),
    ("tcp", "blackhole", "TCP: swallows connections"),
];

/// What clients saw, in parts of all calls and milliseconds.
#[derive(Debug, Serialize)]
struct Seen {
    way: &'static str,
    carrier: &'static str,
    well: Load,
    begins: Load,
    goes_on: Load,
    /// Seconds from its healing until the second in which it gets its share again is over;
    /// none within [`RETURNS`].
    back: Option<f64>,
    /// When it heals: seconds to its next probe, and between two of them. Without, it is not
    /// ejected.
    probes: Option<(f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Load {
    success: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Calls that the failing one answered.
    failing: u64,
}

/// `wanted` chooses carriers and ways by a part of their names.
pub(crate) fn run(wanted: (Option<&str>, Option<&str>), envoy: Option<&Path>) -> Result<()> {
    let has = |name: &str, part: Option<&str>| part.is_none_or(|part| name.contains(part));
    let carriers: Vec<Carrier> = Carrier::ALL
        .into_iter()
        .filter(|carrier| has(carrier.name(), wanted.0))
        .filter(|carrier| *carrier == Carrier::Agents || envoy.is_some())
        .collect();
    let mut all = vec![];
    for (kind, mode, way) in WAYS.iter().filter(|(_, _, way)| has(way, wanted.1)) {
        for carrier in &carriers {
            let name = carrier.name();
            let shop = Shop::new(*carrier, envoy).context(name)?;
            let seen =
                one(&shop, (kind, mode), (way, name)).with_context(|| format!("{name}, {way}"))?;
            println!("{}", serde_json::to_string(&seen)?);
            all.push(seen);
        }
    }
    println!("\n{}", text(&all));
    Ok(())
}

fn one(
    shop: &Shop,
    (kind, mode): (&str, &str),
    (way, carrier): (&'static str, &'static str),
) -> Result<Seen> {
    eprintln!("{carrier}, {way}");
    let load = |seconds: u32| load(shop, kind, seconds);
    let well = load(WELL)?;
    shop.mode(FAILS, mode)?;
    let (begins, goes_on) = (load(BEGINS)?, load(GOES_ON)?);
    let probes = shop.probes(FAILS)?;
    shop.mode(FAILS, "ok")?;
    let healed = Instant::now();
    // A second of its usual share.
    let gets_its_share = || load(1).is_ok_and(|load| load.failing >= u64::from(RATE / 6));
    let back = eventually(RETURNS, gets_its_share).then(|| healed.elapsed().as_secs_f64());
    Ok(Seen {
        way,
        carrier,
        well,
        begins,
        goes_on,
        back,
        probes,
    })
}

fn load(shop: &Shop, kind: &str, seconds: u32) -> Result<Load> {
    let [seconds, rate] = [seconds, RATE].map(|n| n.to_string());
    let report = shop.script(&[
        "offered",
        &shop.target(kind),
        kind,
        &seconds,
        &rate,
        LONGEST,
    ])?;
    let number = |name: &str| {
        report[name]
            .as_f64()
            .with_context(|| format!("{name}: {report}"))
    };
    let count = number("count")?;
    if count == 0.0 {
        bail!("no calls: {report}");
    }
    Ok(Load {
        success: report["results"]["ok"].as_f64().unwrap_or_default() / count,
        p50_ms: 1000.0 * number("p50")?,
        p99_ms: 1000.0 * number("p99")?,
        failing: report["servers"][FAILS].as_u64().unwrap_or_default(),
    })
}

/// Are the aims met: 99.9 % once it is ejected, and back within two intervals of its probes?
fn aims(seen: &Seen) -> String {
    let met = |is_met: bool| if is_met { "yes" } else { "no" };
    let is_back = match (seen.probes, seen.back) {
        (None, _) => "-",
        (Some(_), None) => "no",
        // Measured is the end of a second in which it has its share.
        (Some((_, interval)), Some(back)) => met(back - 1.0 <= 2.0 * interval),
    };
    format!("{} / {is_back}", met(seen.goes_on.success >= 0.999))
}

fn text(all: &[Seen]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "one of three".to_owned(),
        "carrier".to_owned(),
        "p99 before, ms".to_owned(),
        format!("success, first {BEGINS} s"),
        "p99, ms".to_owned(),
        format!("success, next {GOES_ON} s"),
        "p99, ms".to_owned(),
        "back after, s".to_owned(),
        "probe interval, s".to_owned(),
        "99.9 % / 2 intervals".to_owned(),
    ]);
    for seen in all {
        let percent = |load: &Load| format!("{:.2} %", 100.0 * load.success);
        let ms = |load: &Load| format!("{:.0}", load.p99_ms);
        table.add_row([
            seen.way.to_owned(),
            seen.carrier.to_owned(),
            ms(&seen.well),
            percent(&seen.begins),
            ms(&seen.begins),
            percent(&seen.goes_on),
            ms(&seen.goes_on),
            seen.back.map_or("never".to_owned(), |s| format!("{s:.1}")),
            seen.probes
                .map_or("-".to_owned(), |(_, s)| format!("{s:.0}")),
            aims(seen),
        ]);
    }
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{RATE} calls a second, each on a connection of its own, without retries by the client;\n\
         a call that takes more than {LONGEST} s has failed.\n\n{table}"
    );
    text
}
