//! The command line's verbs: log, runtime, what is printed, exit code.
//!
//! The codes of all verbs are in `config::Exit`; nothing here makes up its own.

/// `println!` and `print!` of verbs; see [`out::text`].
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::out::text(format_args!("{}\n", format_args!($($text)*)))
    };
}
macro_rules! say_part {
    ($($text:tt)*) => {
        $crate::cli::out::text(format_args!($($text)*))
    };
}

mod ask;
mod authority;
mod behind;
mod check;
mod cni;
mod convert;
mod ending;
mod log;
mod out;
mod repeats;
mod runtime;

use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::admin::Question;
use crate::app;
use crate::config::{self, Ca, Cli, Command, Convert, Exit, LogFormat, StatusOf, Uninstall};

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    if cni::is_plugin() {
        return mesh_cni::main();
    }
    run().into()
}

fn run() -> Exit {
    let command = parse().command;
    let log = log::start(log_format(&command));
    let ended = dispatch(command);
    // Before the last word.
    if let Some(log) = log {
        log.wait();
    }
    let exit = ended.unwrap_or_else(|error| {
        out::complain(format_args!("{error:#}"));
        ending::of(&error)
    });
    out::ended(exit)
}

fn parse() -> Cli {
    let matches = config::command().get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn log_format(command: &Command) -> LogFormat {
    match command {
        Command::Run(flags) => flags.log.log_format,
        Command::Ca(command) => match &**command {
            Ca::Run(flags) => flags.log.log_format,
            _ => LogFormat::Text,
        },
        _ => LogFormat::Text,
    }
}

fn dispatch(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(flags) => {
            runtime::run(app::run(*flags))?;
            Ok(Exit::Yes)
        }
        Command::Cleanup { place } => {
            let pods = app::cleanup(&place.bpffs_dir)?;
            say!(
                "removed all pins below {} and the rules of {pods} pods",
                place.bpffs_dir.display()
            );
            Ok(Exit::Yes)
        }
        Command::Uninstall(flags) => uninstall(&flags),
        Command::Status {
            of: Some(StatusOf::Routes),
            place,
            json,
            ..
        } => ask::routes(&place.run_dir, json),
        Command::Status {
            of: Some(StatusOf::Traffic),
            place,
            json,
            ..
        } => ask::traffic(&place.run_dir, json),
        Command::Status {
            of: Some(StatusOf::Endpoints),
            place,
            wide,
            json,
        } => ask::endpoints(&place.run_dir, wide, json),
        Command::Status {
            of: None,
            place,
            wide,
            json,
        } => ask::status(&place.run_dir, wide, json),
        Command::Probe { what, place } => ask::probe(&place.run_dir, what),
        Command::Connections {
            place,
            listed,
            json,
        } => ask::connections(&place.run_dir, &listed.filter(), json),
        Command::Explain {
            from,
            to,
            port,
            method,
            url,
            headers,
            sni,
            place,
            config_dir,
            mesh,
            json,
        } => {
            let question = match (to, port) {
                (Some(to), Some(port)) => Question {
                    from,
                    to,
                    port,
                    method,
                    url,
                    headers: headers.join("\n"),
                    sni,
                    id: None,
                },
                _ => Question {
                    id: Some(from),
                    ..Question::default()
                },
            };
            let directory = config_dir.as_deref().map(|dir| (dir, mesh.settings()));
            ask::explain((&place.run_dir, directory), &question, json)
        }
        Command::CheckConfig { dir, mesh, json } => check::config(&dir, mesh.settings(), json),
        Command::Convert(Convert::DestinationRule { file }) => convert::destination_rule(&file),
        Command::Ca(command) => authority::run(*command),
        Command::Cni { command: None } => Ok(cni::plugin()),
        Command::Cni {
            command: Some(command),
        } => cni::run(*command),
        Command::Doctor { chain, run_dir } => Ok(check::doctor(&chain, &run_dir)),
    }
}

fn uninstall(flags: &Uninstall) -> anyhow::Result<Exit> {
    let uninstalled = app::uninstall(flags)?;
    if let Some(pods) = uninstalled.pods.filter(|_| uninstalled.failures.is_empty()) {
        say!(
            "removed what agents left on {}, and the rules of {pods} pods",
            flags.host_dir.display()
        );
    }
    for failure in &uninstalled.failures {
        out::complain(format_args!("{failure}"));
    }
    cni::told(&uninstalled.plugin);
    if !uninstalled.failures.is_empty() {
        return Ok(Exit::No);
    }
    let mut plugin = uninstalled.plugin;
    if flags.stay {
        // Also what failed of it is tried again.
        let ended = app::plugin_away(flags, plugin, |left| {
            cni::told(left);
        });
        plugin = runtime::control()?.block_on(ended)?;
    }
    // A program that does nothing is no fault: who waits for this one goes on.
    Ok(match plugin.failures.is_empty() {
        true => Exit::Yes,
        false => Exit::No,
    })
}
