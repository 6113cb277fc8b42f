//! The environment variable of each flag: how a DaemonSet or a unit sets it.
//!
//! One rule, so that nobody has to look it up: `--drain-timeout` of a process that
//! stays is `MESH_DRAIN_TIMEOUT`; so are the directories that all verbs share, and what
//! a configuration is held to. A variable that has a flag on the command line beside it
//! does not count, nor does one that is empty: a file of settings names what it leaves
//! to the default so.

use clap::{Arg, ArgAction, Command};

/// Of every verb that has them: where processes that stay and the verbs that ask them
/// meet, and what of the mesh is not in its configuration.
const SHARED: [&str; 6] = [
    "bpffs_dir",
    "run_dir",
    "metrics_addr",
    "root_namespace",
    "trust_domain",
    "trust_domain_alias",
];

/// The command line with the variables of its flags.
pub(super) fn of_flags(command: Command) -> Command {
    let command = everywhere(command)
        .mut_subcommand("run", |run| run.mut_args(settable))
        .mut_subcommand("ca", |ca| {
            ca.mut_subcommand("run", |run| run.mut_args(settable))
        });
    without_empty(command)
}

/// Whatever gave a flag its variable.
fn without_empty(command: Command) -> Command {
    let is_empty = |arg: &Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.is_empty())
    };
    let command = command.mut_args(|arg| match is_empty(&arg) {
        true => arg.env(clap::builder::Resettable::Reset),
        false => arg,
    });
    command.mut_subcommands(without_empty)
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
    fn a_verb_reads_the_variables_that_the_process_reads_whose_flags_it_shares() {
        let command = command();
        let verbs: [(&[&str], &[&str]); 5] = [
            (&["cleanup"], &["run"]),
            (&["uninstall"], &["run"]),
            (&["doctor"], &["run"]),
            (&["check-config"], &["run"]),
            (&["ca", "probe"], &["ca", "run"]),
        ];
        for (verb, process) in verbs {
            let process = of(&command, process);
            let mut shared = 0;
            for arg in of(&command, verb).get_arguments() {
                let mut all = process.get_arguments();
                let Some(same) = all.find(|one| one.get_id() == arg.get_id()) else {
                    continue;
                };
                assert_eq!(arg.get_env(), same.get_env(), "{verb:?}: {}", arg.get_id());
                assert_eq!(arg.get_default_values(), same.get_default_values());
                shared += 1;
            }
            assert!(shared > 0, "{verb:?}");
        }
        // A directory of the agent's own is not what this one asks by.
        let explain = of(&command, &["explain"]);
        let env = |id: &str| {
            let arg = explain.get_arguments().find(|arg| arg.get_id() == id);
            arg.expect(id).get_env().map(std::ffi::OsStr::to_owned)
        };
        assert_eq!(env("config_dir"), None);
        let root = env("root_namespace").expect("a variable");
        assert_eq!(root, "MESH_ROOT_NAMESPACE");
    }

    /// Every variable of the agent's, set to nothing.
    fn all_empty(command: &Command, of: &mut std::collections::BTreeMap<std::ffi::OsString, &str>) {
        let names = command.get_arguments().filter_map(Arg::get_env);
        of.extend(names.map(|name| (name.to_owned(), "")));
        for verb in command.get_subcommands() {
            all_empty(verb, of);
        }
    }

    #[test]
    fn an_empty_variable_is_as_one_that_is_not_set() {
        const IN_A_PROCESS: &str = "TEST_OF_EMPTY_VARIABLES";
        if std::env::var_os(IN_A_PROCESS).is_none() {
            // A variable is the whole process's: of one that other tests are not in.
            let mut variables = std::collections::BTreeMap::new();
            all_empty(&command(), &mut variables);
            for name in ["MESH_CA_CLUSTER_ID", "MESH_CLUSTER_ID", "MESH_STATE_DIR"] {
                assert!(variables.contains_key(std::ffi::OsStr::new(name)), "{name}");
            }
            let own = std::env::current_exe().expect("this program");
            let name = "config::environment::tests::an_empty_variable_is_as_one_that_is_not_set";
            let ended = std::process::Command::new(own)
                .args(["--exact", name])
                .envs(variables)
                .env(IN_A_PROCESS, "yes")
                .output();
            let ended = ended.expect("it ran");
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(
                ended.status.success() && said.contains("1 passed"),
                "{said}"
            );
            return;
        }
        for verb in [
            &["run"][..],
            &["ca", "run"],
            &["uninstall"],
            &["cni", "install"],
        ] {
            let words = [&["mesh-agent"], verb].concat();
            let parsed = command().try_get_matches_from(words);
            parsed.unwrap_or_else(|error| panic!("{verb:?}: {error}"));
        }
        let words = ["mesh-agent", "run", "--cluster-id", "given"];
        let parsed = command().try_get_matches_from(words).expect("flags");
        let (_, run) = parsed.subcommand().expect("a verb");
        let text = |id: &str| run.get_one::<String>(id).map(String::as_str);
        assert_eq!(text("cluster_id"), Some("given"));
        assert_eq!(
            text("root_namespace"),
            Some(crate::model::policy::ROOT_NAMESPACE)
        );
        assert_eq!(text("ca_cluster_id"), None);
    }

    #[test]
    fn the_command_line_is_whole() {
        command().debug_assert();
    }
}
