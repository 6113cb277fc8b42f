//! Two nodes with an agent each, pods, real programs, and a table of what was
//! seen. Exits 0 only if all of it held.

mod http;
mod scene;
mod steps;

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use comfy_table::{Table, presets};

use scene::Scene;
use steps::{STEPS, Step};

#[derive(Parser)]
#[command(about = "Two nodes, an agent each, real traffic, and what was seen")]
struct Cli {
    /// Leave it running until Enter or Ctrl-C, with things to try.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    mesh_tests::catch_interrupts()?;
    println!("two nodes, an agent each, seven pods, an authority; this takes about a minute\n");
    let mut scene = Scene::new()?;
    let mut all_held = true;
    for (title, steps) in [
        ("Connections", STEPS),
        (
            "Requests: web on n1 asks the shop, two versions on n2",
            http::STEPS,
        ),
        ("A node without its agent", steps::LAST),
    ] {
        all_held &= play(&mut scene, title, steps);
    }
    println!("{}", scene.where_to_look()?);
    if cli.keep {
        println!("{}", scene.to_try());
        wait();
    }
    if all_held {
        println!("all of it held");
        return Ok(ExitCode::SUCCESS);
    }
    println!("NOT all of it held, see the table");
    Ok(ExitCode::FAILURE)
}

/// Takes the steps and prints their table; whether all held.
fn play(scene: &mut Scene, title: &str, steps: &[Step]) -> bool {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["what", "expected", "seen", ""]);
    let mut all_held = true;
    for step in steps {
        eprintln!("… {}", step.name);
        let (seen, held) = match (step.act)(scene) {
            Ok(seen) => (seen, true),
            Err(error) => (format!("{error:#}"), false),
        };
        all_held &= held;
        table.add_row([
            step.name,
            step.expected,
            &seen,
            if held { "ok" } else { "FAILED" },
        ]);
    }
    println!("\n{title}\n\n{table}");
    for shown in scene.shown.drain(..) {
        println!("\n{shown}");
    }
    println!();
    all_held
}

/// Until Enter; without a terminal, until a signal.
fn wait() {
    println!("running; Enter or Ctrl-C ends it");
    let read = std::io::stdin().read(&mut [0]);
    if read.is_ok_and(|n| n == 0) {
        loop {
            std::thread::park();
        }
    }
}
