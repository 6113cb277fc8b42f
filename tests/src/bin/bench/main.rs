//! The same load without a mesh, over our agents, and over a pair of Envoys.
//!
//! Rounds are interleaved (direct, A, B, direct, …); ratios are to the direct
//! path of the same round, of which the median is shown with its range.

mod envoy;
mod measure;
mod mode;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

use measure::{CELLS, Memory, Sample};
use mode::Mode;

#[derive(Parser)]
#[command(about = "The same load direct, over our agents, and over a pair of Envoys")]
struct Cli {
    /// Short: at most 90 seconds, and noisy.
    #[arg(long)]
    quick: bool,
    /// Also write the results there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only modes (and the direct ones that they are compared with) with this in their name.
    #[arg(long)]
    only: Option<String>,
    /// Leave out Envoy.
    #[arg(long)]
    no_envoy: bool,
    /// Envoy's program.
    #[arg(long, env = "MESH_ENVOY_BIN")]
    envoy: Option<PathBuf>,
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds of load in each cell.
    #[arg(long)]
    millis: Option<u64>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    mesh_tests::catch_interrupts()?;
    let start = Instant::now();
    let (rounds, millis) = if cli.quick { (2, 400) } else { (5, 1000) };
    let (rounds, millis) = (cli.rounds.unwrap_or(rounds), cli.millis.unwrap_or(millis));
    let envoy = cli.envoy.as_deref().filter(|_| !cli.no_envoy);
    let mut modes = mode::start_all(cli.only.as_deref(), envoy)?;
    let mut memory: Vec<Option<Memory>> = vec![];
    for mode in &mut modes {
        eprintln!("idle memory: {}", mode.name);
        memory.push(measure::memory(mode).with_context(|| mode.name.to_owned())?);
    }
    let mut samples: Vec<Vec<Vec<Sample>>> = modes.iter().map(|_| vec![]).collect();
    for round in 1..=rounds {
        for (mode, samples) in modes.iter().zip(&mut samples) {
            eprintln!(
                "round {round} of {rounds}, {} s: {}",
                start.elapsed().as_secs(),
                mode.name
            );
            samples.push(one_round(mode, Duration::from_millis(millis))?);
        }
    }
    let enrolment: Vec<Option<f64>> = modes.iter().map(Mode::enrolment_ms).collect();
    let report = report::make(&modes, &memory, &samples, &enrolment, millis);
    println!("{}", report::text(&report));
    if let Some(file) = cli.json {
        std::fs::write(&file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn one_round(mode: &Mode, time: Duration) -> Result<Vec<Sample>> {
    CELLS
        .iter()
        .map(|cell| measure::run(mode, cell, time))
        .map(|sample| sample.with_context(|| mode.name.to_owned()))
        .collect()
}
