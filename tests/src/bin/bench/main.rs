//! The same load without a mesh, over our agents, and over a pair of Envoys.
//!
//! Each cell of each mode has a cell of the direct path (or of what else it is compared
//! with) right beside it, before it in one round and after it in the next; ratios are
//! within such a pair, of which the median over the rounds is shown with its range.

mod envoy;
mod failing;
mod measure;
mod mode;
mod plan;
mod profile;
mod report;
mod scale;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

use measure::{Memory, Samples};
use mode::Mode;

#[derive(Parser)]
#[command(about = "The same load direct, over our agents, and over a pair of Envoys")]
struct Cli {
    /// Short: at most two minutes, and noisy.
    #[arg(long)]
    quick: bool,
    /// Also write the results there.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only modes (and those that they are compared with) with this in their name. `without`:
    /// what the agents' defaults, policy, routes and log cost, which is left out else.
    #[arg(long)]
    only: Option<String>,
    /// Only loads with this in their name.
    #[arg(long)]
    cell: Option<String>,
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
    /// Instead of figures: where the carriers' CPU goes, by `perf`.
    #[arg(long)]
    profile: bool,
    /// Instead: what the configuration of clusters of so many pods costs an
    /// agent (2000 20000 50000 unless given).
    #[arg(long, num_args = 0.., value_name = "PODS")]
    scale: Option<Vec<usize>>,
    /// Instead: one of three endpoints fails in each of several ways; what clients see that
    /// never try again, over our agents and over an Envoy with and without outlier
    /// detection. Takes half an hour; --only and --cell choose carriers and ways.
    #[arg(long)]
    failing: bool,
    /// With --scale: pods of each namespace, which is one file.
    #[arg(long, default_value_t = 100)]
    pods_per_namespace: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    mesh_tests::catch_interrupts()?;
    if let Some(sizes) = &cli.scale {
        let sizes = if sizes.is_empty() {
            &scale::SIZES
        } else {
            sizes.as_slice()
        };
        return scale::run(sizes, cli.pods_per_namespace);
    }
    if cli.failing {
        let wanted = (cli.only.as_deref(), cli.cell.as_deref());
        return failing::run(wanted, cli.envoy.as_deref().filter(|_| !cli.no_envoy));
    }
    let start = Instant::now();
    let (rounds, millis) = if cli.quick { (2, 500) } else { (5, 1500) };
    let (rounds, millis) = (cli.rounds.unwrap_or(rounds), cli.millis.unwrap_or(millis));
    let envoy = cli.envoy.as_deref().filter(|_| !cli.no_envoy);
    let cells = measure::cells(cli.cell.as_deref());
    let modes = mode::start_all(cli.only.as_deref(), envoy)?;
    if cli.profile {
        println!(
            "{}",
            profile::all(&modes, &cells, Duration::from_millis(millis))?
        );
        return Ok(());
    }
    let mut memory: Vec<Option<Memory>> = vec![];
    for mode in &modes {
        eprintln!("idle memory: {}", mode.name);
        memory.push(measure::memory(mode, envoy).with_context(|| mode.name.to_owned())?);
    }
    let mut samples = Samples::new(modes.len());
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}, {} s", start.elapsed().as_secs());
        samples.round(&modes, &cells, (round, Duration::from_millis(millis)))?;
    }
    let enrolment: Vec<Option<f64>> = modes.iter().map(Mode::enrolment_ms).collect();
    let report = report::make(
        (&modes, &cells),
        &memory,
        &samples,
        &enrolment,
        (rounds, millis),
    );
    println!("{}", report::text(&report, &cells));
    if let Some(file) = cli.json {
        std::fs::write(&file, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}
