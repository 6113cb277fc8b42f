//! Medians with their range, as a value and as tables.

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::measure::{Cell, Memory, Sample, Samples};
use crate::mode::Mode;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kernel: String,
    cores: usize,
    load_average: String,
    rounds: usize,
    millis_per_cell: u64,
    modes: Vec<ModeReport>,
}

#[derive(Debug, Serialize)]
struct ModeReport {
    name: &'static str,
    baseline: &'static str,
    memory: Option<Memory>,
    enrolment_ms: Option<f64>,
    cells: Vec<CellReport>,
}

#[derive(Debug, Serialize)]
struct CellReport {
    name: &'static str,
    rate: Range,
    /// To the baseline measured beside it.
    ratio: Range,
    p50_us: Option<Range>,
    p50_ratio: Option<Range>,
    p99_us: Option<Range>,
    p99_ratio: Option<Range>,
    cpu_per_unit: Range,
    errors: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Range {
    median: f64,
    min: f64,
    max: f64,
}

impl Range {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied();
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.checked_sub(1)?)?, at(middle)?)
        } else {
            at(middle)?
        };
        Some(Self {
            median,
            min: at(0)?,
            max: at(values.len() - 1)?,
        })
    }
}

pub(crate) fn make(
    (modes, cells): (&[Mode], &[&Cell]),
    memory: &[Option<Memory>],
    samples: &Samples,
    enrolment: &[Option<f64>],
    (rounds, millis): (usize, u64),
) -> Report {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut reports = vec![];
    for (i, mode) in modes.iter().enumerate() {
        reports.push(ModeReport {
            name: mode.name,
            baseline: mode.baseline,
            memory: memory[i].clone(),
            enrolment_ms: enrolment[i],
            cells: (cells.iter().enumerate())
                .filter_map(|cell| cell_report(cell, &samples.own[i], &samples.direct[i]))
                .collect(),
        });
    }
    Report {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        load_average: read("/proc/loadavg").trim().to_owned(),
        rounds,
        millis_per_cell: millis,
        modes: reports,
    }
}

fn cell_report(
    (cell, load): (usize, &&Cell),
    own: &[Vec<Sample>],
    base: &[Vec<Sample>],
) -> Option<CellReport> {
    let all = |f: fn(&Sample) -> Option<f64>| Range::of(own.iter().filter_map(|r| f(&r[cell])));
    let ratio = |f: fn(&Sample) -> Option<f64>| {
        let pairs = own.iter().zip(base);
        Range::of(pairs.filter_map(|(own, base)| Some(f(&own[cell])? / f(&base[cell])?)))
    };
    Some(CellReport {
        name: load.name,
        rate: all(|s| Some(s.rate))?,
        ratio: ratio(|s| Some(s.rate))?,
        p50_us: all(|s| s.p50_us),
        p50_ratio: ratio(|s| s.p50_us),
        p99_us: all(|s| s.p99_us),
        p99_ratio: ratio(|s| s.p99_us),
        cpu_per_unit: all(|s| Some(s.cpu_per_unit))?,
        errors: own.iter().map(|r| r[cell].errors).sum(),
    })
}

pub(crate) fn text(report: &Report, cells: &[&Cell]) -> String {
    let mut text = format!(
        "Linux {}, {} cores, load average {}; {} rounds of {} ms a cell.\n\
         Client, server and carriers share the cores. Median (least - most) over the rounds;\n\
         ratios are to the direct path (or what the name says) measured right beside it. CPU is that of all agents (or Envoys):\n\
         microseconds a connection or exchange, seconds a GB. Envoy is connected to by its\n\
         address, without capture, which favours it.\n\n",
        report.kernel, report.cores, report.load_average, report.rounds, report.millis_per_cell
    );
    for (i, cell) in cells.iter().enumerate() {
        text.push_str(&format!(
            "{}\n{}\n\n",
            cell.name,
            cell_table(report, (i, cell))
        ));
    }
    text.push_str(&format!("memory\n{}\n", memory_table(report)));
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.to_vec());
    table
}

fn cell_table(report: &Report, (at, load): (usize, &Cell)) -> Table {
    let is_bulk = load.is_bulk();
    let rate = if is_bulk { "Gbit/s" } else { "per s" };
    let mut table = table(&[
        "mode", rate, "ratio", "p50 us", "ratio", "p99 us", "ratio", "CPU", "errors",
    ]);
    for mode in &report.modes {
        let Some(cell) = mode.cells.get(at) else {
            continue;
        };
        let (scale, digits) = if is_bulk { (8e-9, 2) } else { (1.0, 0) };
        let optional =
            |range: Option<Range>, digits| range.map_or(String::new(), |r| show(r, 1.0, digits));
        table.add_row([
            mode.name.to_owned(),
            show(cell.rate, scale, digits),
            show(cell.ratio, 1.0, 3),
            optional(cell.p50_us, 0),
            optional(cell.p50_ratio, 2),
            optional(cell.p99_us, 0),
            optional(cell.p99_ratio, 2),
            show(cell.cpu_per_unit, 1.0, if is_bulk { 2 } else { 1 }),
            cell.errors.to_string(),
        ]);
    }
    table
}

fn show(range: Range, scale: f64, digits: usize) -> String {
    let Range { median, min, max } = range;
    let [median, min, max] = [median, min, max].map(|v| v * scale);
    format!("{median:.digits$} ({min:.digits$} - {max:.digits$})")
}

fn memory_table(report: &Report) -> Table {
    let mut table = table(&[
        "mode",
        "idle, MB each",
        "per idle connection, KiB each",
        "per idle connection of HTTP/1.1",
        "enrol a pod, ms",
    ]);
    for mode in &report.modes {
        let Some(memory) = &mode.memory else { continue };
        let join = |values: Vec<String>| values.join(" + ");
        let idle = memory
            .idle
            .iter()
            .map(|b| format!("{:.1}", *b as f64 / 1e6));
        let kib = |of: &[f64]| of.iter().map(|b| format!("{:.1}", b / 1024.0)).collect();
        table.add_row([
            mode.name.to_owned(),
            join(idle.collect()),
            join(kib(&memory.per_connection)),
            join(kib(&memory.per_http_connection)),
            mode.enrolment_ms
                .map_or("-".to_owned(), |ms| format!("{ms:.2}")),
        ]);
    }
    table
}
