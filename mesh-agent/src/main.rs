//! The agent's command line: flags, log, runtime, exit code.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Parser as _;
use mesh_agent::admin::FetchError;
use mesh_agent::config::{self, Cli, Command};
use mesh_agent::model::policy::MeshSettings;
use mesh_agent::observe::explanation::{Explanation, Verdict};
use mesh_agent::{admin, app, ca, discovery};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .with(log_filter(std::env::var("MESH_LOG").ok().as_deref()))
        .init();
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `text`: a level, or `target=level` pairs with commas between.
fn log_filter(text: Option<&str>) -> Targets {
    let usual = || Targets::new().with_default(LevelFilter::INFO);
    text.map_or_else(usual, |text| {
        text.parse().unwrap_or_else(|error| {
            eprintln!("mesh-agent: MESH_LOG is not understood ({error}): logging at info");
            usual()
        })
    })
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
        Command::Status { place, json } => {
            let status: admin::Status = ask(&place.run_dir, "/status")?;
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                print!("{}", admin::text::status(&status));
            }
            if !status.ready {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Connections { place, limit, json } => {
            let page = format!("/connections?limit={limit}");
            let list: mesh_agent::observe::ConnectionList = ask(&place.run_dir, &page)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else {
                print!("{}", admin::text::connections(&list));
            }
        }
        Command::Explain {
            from,
            to,
            port,
            place,
            json,
        } => {
            let question = admin::Question { from, to, port };
            return Ok(explain(&place.run_dir, &question, json));
        }
        Command::CheckConfig {
            dir,
            root_namespace,
        } => return check_config(&dir, root_namespace),
        Command::Ca(command) => authority(*command)?,
        Command::Doctor => return Ok(doctor()),
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(run_dir: &Path, question: &admin::Question, json: bool) -> ExitCode {
    match explained(run_dir, question, json) {
        Ok(Verdict::Allowed) => ExitCode::SUCCESS,
        Ok(Verdict::Refused | Verdict::Mixed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mesh-agent: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn explained(run_dir: &Path, question: &admin::Question, json: bool) -> anyhow::Result<Verdict> {
    let answer: Explanation = ask(run_dir, &question.page())?;
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", admin::text::explanation(&answer));
    }
    Ok(answer.verdict)
}

fn check_config(dir: &Path, root_namespace: String) -> anyhow::Result<ExitCode> {
    let update = discovery::check(dir, MeshSettings { root_namespace })?;
    for problem in update.problems.iter() {
        println!("{problem}");
    }
    for status in update.policy.status() {
        println!("{status}");
    }
    if !update.problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    println!("{}: no mistakes found", dir.display());
    Ok(ExitCode::SUCCESS)
}

/// Asks the running agent.
fn ask<T: serde::de::DeserializeOwned>(run_dir: &Path, page: &str) -> anyhow::Result<T> {
    let text = admin::fetch(run_dir, page).map_err(|error| {
        let error = match error {
            FetchError::Io(error) => error,
            FetchError::Refused(why) => return anyhow::Error::msg(why),
        };
        let socket = admin::socket_path(run_dir);
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => "ask as root",
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "no agent runs here, or its --run-dir is another"
            }
            _ => "the agent does not answer",
        };
        anyhow::Error::new(error).context(format!("{}: {hint}", socket.display()))
    })?;
    serde_json::from_str(&text).context("read the agent's answer; is it of another version?")
}

fn authority(command: config::Ca) -> anyhow::Result<()> {
    use config::{Ca, Token};
    match command {
        Ca::Run(flags) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the runtime")?;
            runtime.block_on(run_authority(flags.config()))?;
        }
        Ca::Token(Token::Create {
            state,
            node,
            allow,
            expires,
        }) => {
            println!(
                "{}",
                ca::create_token(&state.state_dir, &node, allow, expires)?
            );
        }
        Ca::Token(Token::List { state }) => {
            for token in ca::list_tokens(&state.state_dir)? {
                let expires = UNIX_EPOCH + Duration::from_secs(token.expires);
                let expires = humantime::format_rfc3339_seconds(expires);
                let allowed: Vec<String> = token.allowed.into_iter().map(Into::into).collect();
                let revoked = if token.revoked { " revoked" } else { "" };
                println!(
                    "{} node={} allow={} expires={expires}{revoked}",
                    token.id,
                    token.node,
                    allowed.join(",")
                );
            }
        }
        Ca::Token(Token::Revoke { state, id }) => ca::revoke_token(&state.state_dir, &id)?,
        Ca::Show { state } => {
            println!(
                "{}",
                serde_json::to_string_pretty(&ca::show(&state.state_dir)?)?
            );
        }
        Ca::Rotate { step } => {
            let (dir, step, force) = step.step();
            ca::rotate(&dir, &step, force)?;
        }
        Ca::Revoke {
            serial,
            state,
            out,
            force,
        } => {
            let list = ca::revoke(&state.state_dir, &serial, force, out.as_deref())?;
            println!("{}", list.display());
        }
    }
    Ok(())
}

async fn run_authority(config: ca::Config) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let serving = ca::run(config, cancel.clone(), |address| {
        println!("listening on {address}");
    });
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        _ = terminate.recv() => cancel.cancel(),
        _ = interrupt.recv() => cancel.cancel(),
    }
    Ok(serving.await?)
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
