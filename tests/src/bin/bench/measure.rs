//! One cell: load of one kind over one mode, and what it cost.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::mode::Mode;

/// A kind of load.
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    kind: &'static str,
    width: usize,
    /// 0 is echo, 1 is bulk, 2 is HTTP/1.1, 3 is HTTP/2.
    target: usize,
    /// Requests a second, where the kind has a pace.
    rate: u32,
}

const fn cell(name: &'static str, kind: &'static str, width: usize, target: usize) -> Cell {
    Cell {
        name,
        kind,
        width,
        target,
        rate: 0,
    }
}

const fn paced(name: &'static str, width: usize, rate: u32) -> Cell {
    Cell {
        rate,
        ..cell(name, "paced", width, 2)
    }
}

const CELLS: &[Cell] = &[
    cell("new connections, 1 thread", "connections", 1, 0),
    cell("new connections, 8 threads", "connections", 8, 0),
    cell("new connections, 16 threads", "connections", 16, 0),
    cell("64 B on 1 connection", "echo", 1, 0),
    cell("64 B on 32 connections", "echo", 32, 0),
    cell("bulk, 1 stream", "bulk", 1, 1),
    cell("bulk, 8 streams", "bulk", 8, 1),
    cell("HTTP/1.1, 1 connection", "http", 1, 2),
    cell("HTTP/1.1, 32 connections", "http", 32, 2),
    cell("HTTP/1.1, 128 connections", "http", 128, 2),
    paced("HTTP/1.1, 4,000 a second on 32 connections", 32, 4000),
    cell("HTTP/2, 8 calls on 1 connection", "http2", 1, 3),
    cell("HTTP/2, 8 calls on 16 connections", "http2", 16, 3),
    cell("HTTP/2 bulk, 1 stream", "http2-bulk", 1, 3),
];

/// Those with this in their name.
pub(crate) fn cells(only: Option<&str>) -> Vec<&'static Cell> {
    let wanted = |cell: &&Cell| only.is_none_or(|only| cell.name.contains(only));
    CELLS.iter().filter(wanted).collect()
}

impl Cell {
    pub(crate) fn is_bulk(&self) -> bool {
        self.kind.ends_with("bulk")
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// Connections, exchanges or bytes a second.
    pub(crate) rate: f64,
    pub(crate) errors: u64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// CPU of all carriers: microseconds a connection or exchange, seconds a GB.
    pub(crate) cpu_per_unit: f64,
}

/// Memory of each carrier in bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) idle: Vec<u64>,
    pub(crate) per_connection: Vec<f64>,
    pub(crate) per_http_connection: Vec<f64>,
}

/// All results, of each mode beside those of its baseline.
pub(crate) struct Samples {
    /// `[mode][round][cell]`; a baseline has a row for each of its neighbours.
    pub(crate) own: Vec<Vec<Vec<Sample>>>,
    pub(crate) direct: Vec<Vec<Vec<Sample>>>,
}

impl Samples {
    pub(crate) fn new(modes: usize) -> Self {
        Self {
            own: vec![vec![]; modes],
            direct: vec![vec![]; modes],
        }
    }

    /// Every cell of every mode, and of its baseline before or after it.
    pub(crate) fn round(
        &mut self,
        modes: &[Mode],
        cells: &[&Cell],
        (round, time): (usize, Duration),
    ) -> Result<()> {
        for (i, mode) in modes.iter().enumerate() {
            if mode.is_baseline() {
                continue;
            }
            let base = modes.iter().position(|m| m.name == mode.baseline);
            let base = base.with_context(|| format!("no {}", mode.baseline))?;
            let (mut own, mut direct) = (vec![], vec![]);
            for cell in cells {
                let measure = |mode: &Mode| run(mode, cell, time).context(mode.name);
                if round.is_multiple_of(2) {
                    own.push(measure(mode)?);
                }
                direct.push(measure(&modes[base])?);
                if round % 2 == 1 {
                    own.push(measure(mode)?);
                }
            }
            self.own[base].push(direct.clone());
            self.direct[base].push(direct.clone());
            self.own[i].push(own);
            self.direct[i].push(direct);
        }
        Ok(())
    }
}

fn cpu(mode: &Mode) -> Result<Duration> {
    mode.carriers.iter().map(|c| c.cpu(&mode.world)).sum()
}

pub(crate) fn run(mode: &Mode, cell: &Cell, time: Duration) -> Result<Sample> {
    let before = cpu(mode)?;
    let out = mode
        .world
        .app(&mode.client)
        .args(["load", cell.kind, &mode.targets[cell.target]])
        .args(["--width", &cell.width.to_string()])
        .args(["--rate", &cell.rate.to_string()])
        .args(["--millis", &time.as_millis().to_string()])
        .output()?;
    let report = mesh_tests::parse(&out).with_context(|| cell.name)?;
    let used = cpu(mode)?.saturating_sub(before).as_secs_f64();
    let number = |name: &str| report[name].as_f64();
    let units = number("units").context("units")?;
    let seconds = number("seconds").context("seconds")?;
    if units == 0.0 {
        bail!("{}: nothing got through: {report}", cell.name);
    }
    let unit = if cell.is_bulk() { 1e9 } else { 1e6 };
    Ok(Sample {
        rate: units / seconds,
        errors: report["errors"].as_u64().context("errors")?,
        p50_us: number("p50_us"),
        p99_us: number("p99_us"),
        cpu_per_unit: used * unit / units,
    })
}

/// Resident memory without load, and with idle connections; None for direct.
pub(crate) fn memory(mode: &Mode, envoy: Option<&Path>) -> Result<Option<Memory>> {
    if mode.is_direct() {
        return Ok(None);
    }
    // Beside carriers of its own: what connections before have left would be taken again.
    let fresh = mode.again(envoy)?;
    let per_http_connection = of_each(&fresh, &rss(&fresh)?, "idle-http", &fresh.targets[2])?;
    drop(fresh);
    let idle = rss(mode)?;
    Ok(Some(Memory {
        per_connection: of_each(mode, &idle, "idle", &mode.targets[0])?,
        per_http_connection,
        idle,
    }))
}

fn rss(mode: &Mode) -> Result<Vec<u64>> {
    mode.carriers.iter().map(|c| c.rss()).collect()
}

/// What an idle connection takes of each carrier, beside what it had without load.
fn of_each(mode: &Mode, idle: &[u64], kind: &str, target: &str) -> Result<Vec<f64>> {
    const HELD: usize = 2000;
    let full = with_idle(mode, (kind, HELD), target, || rss(mode))?;
    let each = (idle.iter().zip(&full))
        .map(|(idle, full)| full.saturating_sub(*idle) as f64 / HELD as f64);
    Ok(each.collect())
}

fn with_idle<T>(
    mode: &Mode,
    (kind, count): (&str, usize),
    target: &str,
    look: impl Fn() -> Result<T>,
) -> Result<T> {
    let mut holder = mode
        .world
        .app(&mode.client)
        .args(["load", kind, target])
        .args(["--width", &count.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let mut out = BufReader::new(holder.stdout.take().context("output")?);
    out.read_line(&mut line)?;
    if line.trim() != "held" {
        bail!("{count} idle connections are not held: {}", mode.why());
    }
    let seen = look()?;
    drop(holder.stdin.take());
    holder.wait()?;
    Ok(seen)
}
