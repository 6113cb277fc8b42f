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
            let left = cni::uninstall(&chain.settings(&run_dir), also_program);
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
        say!("{}", kept(program, left));
    }
    for failure in &left.failures {
        super::out::complain(format_args!("{failure}"));
    }
    match (left.failures.is_empty(), left.kept.is_empty()) {
        (false, _) => Exit::No,
        (true, true) => Exit::Yes,
        (true, false) => Exit::Degraded,
    }
}

fn kept(program: &Path, left: &Left) -> String {
    let needs: Vec<String> = left.needs.iter().map(ToString::to_string).collect();
    format!(
        "kept {}: it does nothing any more, and {}; run this again when that is over",
        program.display(),
        needs.join(", and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::{Failure, Need};

    fn left(needs: Vec<Need>) -> Left {
        Left {
            kept: vec!["/opt/cni/bin/mesh-agent-cni".into()],
            needs,
            ..Left::default()
        }
    }

    #[test]
    fn a_program_that_stays_is_told_with_what_needs_it_and_nothing_else() {
        let of = |needs| kept(Path::new("/opt/cni/bin/mesh-agent-cni"), &left(needs));
        let said = of(vec![Need::JustChanged]);
        assert!(
            said.starts_with("kept /opt/cni/bin/mesh-agent-cni: "),
            "{said}"
        );
        assert!(!said.contains("sandbox"), "{said}");
        let said = of(vec![Need::Sandboxes(2), Need::Link("/etc/a".into())]);
        assert!(
            said.contains("2 sandboxes") && said.contains("/etc/a"),
            "{said}"
        );
    }

    #[test]
    fn what_could_not_be_done_is_a_failure_also_where_the_rest_was_done() {
        assert_eq!(told(&left(vec![Need::JustChanged])), Exit::Degraded);
        let failed = Left {
            failures: vec![Failure {
                place: "/etc/a".into(),
                why: "why".to_owned(),
            }],
            ..left(vec![Need::Unsure])
        };
        assert_eq!(told(&failed), Exit::No);
        assert_eq!(told(&Left::default()), Exit::Yes);
    }
}
