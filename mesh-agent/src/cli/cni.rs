//! The verbs of the CNI plugin, and the plugin itself.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::cni::{self, Left, Settings, Standing};
use crate::config::{Cni, Exit};

/// How often a network is looked for.
const PAUSE: Duration = Duration::from_millis(500);

/// The container runtime calls the plugin by its name and without a word.
pub(super) fn is_plugin() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name() == Some(OsStr::new(mesh_cni::PLUGIN))
}

pub(super) fn plugin() -> Exit {
    match mesh_cni::main() == ExitCode::SUCCESS {
        true => Exit::Yes,
        false => Exit::No,
    }
}

pub(super) fn run(command: Cni) -> anyhow::Result<Exit> {
    match command {
        Cni::Install {
            chain,
            run_dir,
            wait,
        } => Ok(install(&chain.settings(&run_dir), wait)),
        Cni::Uninstall {
            chain,
            run_dir,
            also_program,
        } => {
            let left = cni::uninstall(&chain.settings(&run_dir), also_program)?;
            Ok(told(&left))
        }
    }
}

fn install(settings: &Settings, wait: Duration) -> Exit {
    let until = Instant::now() + wait;
    loop {
        let standing = cni::install(settings);
        let exit = match &standing {
            Standing::In(_) => Exit::Yes,
            Standing::NoNetwork(_) if Instant::now() < until => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Standing::NoNetwork(_) => Exit::CannotAsk,
            Standing::Unknown | Standing::Waits(_) | Standing::Failed { .. } => Exit::No,
        };
        say!("CNI plugin: {standing}");
        return exit;
    }
}

pub(super) fn told(left: &Left) -> Exit {
    for file in &left.changed {
        say!("taken out of {}", file.display());
    }
    for program in &left.removed {
        say!("removed {}", program.display());
    }
    for program in &left.kept {
        say!(
            "kept {}: it does nothing any more, and {} sandboxes that were made with it may need it to be taken away; run this again when they are gone",
            program.display(),
            left.sandboxes
        );
    }
    match left.kept.is_empty() {
        true => Exit::Yes,
        false => Exit::Degraded,
    }
}
