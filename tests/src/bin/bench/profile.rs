//! Where the carriers' CPU goes, by `perf`: shown beside the figures, for what
//! misses an aim.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::measure::{self, Cell};
use crate::mode::Mode;

/// Symbols shown of each cell.
const SHOWN: usize = 14;
/// Samples a second: a prime, so that nothing periodic falls in step with it.
const FREQUENCY: &str = "1999";

/// One table of each cell of each mode that has carriers.
pub(crate) fn all(modes: &[Mode], cells: &[&Cell], time: Duration) -> Result<String> {
    let mut text = String::new();
    for mode in modes.iter().filter(|mode| !mode.is_direct()) {
        for cell in cells {
            eprintln!("profile: {}, {}", mode.name, cell.name);
            let table = one(mode, cell, time).with_context(|| mode.name.to_owned())?;
            writeln!(
                text,
                "{}, {}: % of the carriers' CPU\n{table}",
                mode.name, cell.name
            )?;
        }
    }
    Ok(text)
}

fn one(mode: &Mode, cell: &Cell, time: Duration) -> Result<String> {
    let data = mode.world.dir().join("perf.data");
    let pids: Vec<_> = mode
        .carriers
        .iter()
        .filter_map(|carrier| carrier.pid().map(|pid| pid.to_string()))
        .collect();
    // Bounded from outside: it would go on where the bench is interrupted.
    let mut recorder = Command::new("timeout")
        .args(["-s", "KILL", &format!("{}", time.as_secs() + 10)])
        .args(["perf", "record", "--quiet", "-e", "cpu-clock"])
        .args(["-F", FREQUENCY])
        .args(["-p", &pids.join(",")])
        .arg("-o")
        .arg(&data)
        .args(["--", "sleep", &format!("{:.1}", time.as_secs_f64())])
        .stderr(Stdio::null())
        .spawn()
        .context("start perf (package linux-perf)")?;
    let load = measure::run(mode, cell, time + Duration::from_millis(300));
    let recorded = recorder.wait()?;
    load?;
    if !recorded.success() {
        bail!("perf record failed: {recorded}");
    }
    top(&data)
}

fn top(data: &Path) -> Result<String> {
    let out = Command::new("perf")
        .args([
            "report",
            "--stdio",
            "--no-children",
            "--percent-limit",
            "0.5",
        ])
        .args(["--sort", "symbol", "-i"])
        .arg(data)
        .stderr(Stdio::null())
        .output()?;
    if !out.status.success() {
        bail!("perf report failed: {}", out.status);
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let rows = text.lines().filter(|line| line.contains('%'));
    Ok(rows.take(SHOWN).fold(String::new(), |mut table, row| {
        // Behind the symbol stand columns that are empty here.
        table.push_str(row.trim_end_matches([' ', '-']));
        table.push('\n');
        table
    }))
}
