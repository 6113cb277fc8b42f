//! The environment variable of each flag: how a DaemonSet or a unit sets it.
//!
//! One rule, so that nobody has to look it up: `--drain-timeout` of a process that
//! stays is `MESH_DRAIN_TIMEOUT`; so are the directories that all verbs share. A
//! variable that has a flag on the command line beside it does not count.

use clap::{Arg, ArgAction, Command};

/// Where agents and the verbs that ask them meet.
const SHARED: [&str; 2] = ["bpffs_dir", "run_dir"];

/// The command line with the variables of its flags.
pub(super) fn of_flags(command: Command) -> Command {
    everywhere(command)
        .mut_subcommand("run", |run| run.mut_args(settable))
        .mut_subcommand("ca", |ca| {
            ca.mut_subcommand("run", |run| run.mut_args(settable))
        })
}

fn everywhere(mut command: Command) -> Command {
    command = command.mut_args(|arg| match SHARED.contains(&arg.get_id().as_str()) {
        true => settable(arg),
        false => arg,
    });
    command.mut_subcommands(everywhere)
}

fn settable(arg: Arg) -> Arg {
    let Some(name) = arg.get_long().map(variable) else {
        return arg;
    };
    let arg = match arg.get_action() {
        // A variable has one value: of several there are commas between them.
        ArgAction::Append => arg.value_delimiter(','),
        _ => arg,
    };
    match arg.get_env() {
        // One that is known elsewhere by another name.
        Some(_) => arg,
        None => arg.env(name),
    }
}

fn variable(flag: &str) -> String {
    format!("MESH_{}", flag.replace('-', "_").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::command;

    /// kubectl's.
    const ELSEWHERE: [&str; 1] = ["KUBECONFIG"];

    fn of(command: &Command, names: &[&str]) -> Command {
        let mut command = command.clone();
        for name in names {
            let found = command.find_subcommand(name).expect("a verb").clone();
            command = found;
        }
        command
    }

    #[test]
    fn each_flag_of_a_process_that_stays_has_one_and_it_follows_from_the_name() {
        let command = command();
        for names in [&["run"][..], &["ca", "run"]] {
            for arg in of(&command, names).get_arguments() {
                let Some(flag) = arg.get_long() else { continue };
                let env = arg.get_env().expect(flag).to_str().expect("text");
                assert!(
                    env == variable(flag) || ELSEWHERE.contains(&env),
                    "{flag}: {env}"
                );
            }
        }
    }

    #[test]
    fn verbs_find_an_agent_whose_directories_were_set_so() {
        let status = of(&command(), &["status"]);
        let env = |id: &str| {
            let arg = status.get_arguments().find(|arg| arg.get_id() == id);
            arg.expect(id).get_env().map(std::ffi::OsStr::to_owned)
        };
        assert_eq!(env("run_dir").expect("a variable"), "MESH_RUN_DIR");
        assert_eq!(env("json"), None);
    }

    #[test]
    fn the_command_line_is_whole() {
        command().debug_assert();
    }
}
