//! Runs programs: prints them before, names them when they fail, and keeps the
//! environment of `cargo run` from leaking into them.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::repo::Repo;

/// Variables of cargo that a user sets on purpose; all others are what
/// `cargo run` sets for xtask itself and would only cause rebuilds.
const KEPT_CARGO_VARIABLES: &[&str] = &[
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_JOBS",
    "CARGO_INCREMENTAL",
    "CARGO_ENCODED_RUSTFLAGS",
];
const KEPT_CARGO_PREFIXES: &[&str] = &[
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
    "CARGO_PROFILE_",
];

/// A `cargo` of the user's toolchain, run in the repository.
pub(crate) fn cargo(repo: &Repo) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(&repo.root).stdin(Stdio::null());
    clean_cargo_environment(&mut command);
    command
}

/// Removes what `cargo run` put into our environment.
pub(crate) fn clean_cargo_environment(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_from_cargo_run) {
            command.env_remove(name);
        }
    }
}

/// Also removes what would redirect another toolchain's cargo or rustc.
pub(crate) fn clean_toolchain_environment(command: &mut Command) {
    clean_cargo_environment(command);
    for name in [
        "RUSTUP_TOOLCHAIN",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
    ] {
        command.env_remove(name);
    }
    // Empty, not absent: a wrapper may also come from the user's cargo config.
    command
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "");
}

fn is_from_cargo_run(name: &str) -> bool {
    if name == "LD_LIBRARY_PATH" || name == "OUT_DIR" {
        return true;
    }
    (name == "CARGO" || name.starts_with("CARGO_"))
        && !KEPT_CARGO_VARIABLES.contains(&name)
        && !KEPT_CARGO_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Prints the command, runs it, and fails with its text.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", describe(command));
    run_quietly(command)
}

/// Runs without printing first; still names the command in a failure.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", describe(command));
    }
    Ok(())
}

/// The standard output of a program that must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{}`", describe(command)))?;
    if !output.status.success() {
        bail!(
            "`{}` failed: {}\n{}",
            describe(command),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("read the output of `{}` as UTF-8", describe(command)))
}

/// The command line as one could type it.
pub(crate) fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Finds a program on PATH or in the administrator's directories, which are
/// not on every user's PATH.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_run_sets_is_removed_and_what_a_user_sets_is_kept() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_PKG_NAME",
            "LD_LIBRARY_PATH",
        ] {
            assert!(is_from_cargo_run(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_NET_OFFLINE",
            "PATH",
            "CARGOES",
        ] {
            assert!(!is_from_cargo_run(name), "{name}");
        }
    }

    #[test]
    fn a_described_command_can_be_typed_again() {
        let mut command = Command::new("tool");
        command.args(["--a=b", "two words", "it's", ""]);
        assert_eq!(describe(&command), r"tool --a=b 'two words' 'it'\''s' ''");
    }
}
