//! The agent's command line: flags, log, runtime, exit code.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use mesh_agent::config::{Cli, Command};
use mesh_agent::{admin, app, discovery};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MESH_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(flags) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the control runtime")?;
            runtime.block_on(app::run(*flags))?;
        }
        Command::Cleanup { place } => {
            let pods = app::cleanup(&place.bpffs_dir)?;
            println!(
                "removed all pins below {} and the rules of {pods} pods",
                place.bpffs_dir.display()
            );
        }
        Command::Status { place } => {
            let text = admin::fetch(&place.run_dir, "/status").with_context(|| {
                let socket = admin::socket_path(&place.run_dir);
                format!("no agent answers on {}; is it running?", socket.display())
            })?;
            let status: admin::Status = serde_json::from_str(&text)?;
            println!("{}", serde_json::to_string_pretty(&status)?);
            if !status.ready {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::CheckConfig { dir } => {
            let problems = discovery::check(&dir)?;
            for problem in &problems {
                println!("{problem}");
            }
            if !problems.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            println!("{}: no mistakes found", dir.display());
        }
        Command::Doctor => return Ok(doctor()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Each line: what, is it there, and what follows if not.
fn doctor() -> ExitCode {
    let mut whole = true;
    for check in mesh_agent::app::doctor() {
        whole &= check.present;
        let mark = if check.present { "ok     " } else { "MISSING" };
        println!(
            "{mark} {}{}",
            check.what,
            if check.present {
                String::new()
            } else {
                format!(": {}", check.consequence)
            }
        );
    }
    if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
