//! `build-ebpf`: the kernel programs, as one object that the agent embeds.
//!
//! Builds in a subdirectory of its own and replaces the result only when its
//! bytes changed, so that the agent is not rebuilt for nothing.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{self, clean_toolchain_environment};
use crate::repo::Repo;
use crate::setup;
use crate::toolchain::{Origin, Toolchain};

const TARGET: &str = if cfg!(target_endian = "little") {
    "bpfel-unknown-none"
} else {
    "bpfeb-unknown-none"
};

/// What the object is made of, beside the toolchain.
const INPUTS: &[&str] = &["mesh-ebpf", "mesh-common", "Cargo.toml", "Cargo.lock"];

pub(crate) fn build(repo: &Repo, debug_log: bool) -> Result<()> {
    let toolchain = setup::ensure_toolchain(repo)?;
    let object = repo.ebpf_object();
    let inputs = fingerprint(repo, &toolchain, debug_log)?;
    let stamp = object.with_extension("inputs");
    if object.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == inputs) {
        return Ok(());
    }
    // A failure half way must not leave a stamp that calls an old object new.
    let _ = fs::remove_file(&stamp);
    command::run(&mut build_command(repo, &toolchain, debug_log)?)?;
    let built = build_directory(repo).join(TARGET).join("release/mesh-ebpf");
    let changed = replace_if_changed(&built, &object)?;
    fs::write(&stamp, inputs).with_context(|| format!("write {}", stamp.display()))?;
    let state = if changed { "built" } else { "unchanged" };
    eprintln!("build-ebpf: {} {state}", object.display());
    Ok(())
}

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    let mut debug_log = false;
    for arg in args {
        match arg.as_str() {
            // Programs are always optimised: the verifier refuses others.
            "--release" => {}
            "--debug-log" => debug_log = true,
            _ => bail!("usage: cargo xtask build-ebpf [--release] [--debug-log]"),
        }
    }
    build(repo, debug_log)
}

fn build_directory(repo: &Repo) -> PathBuf {
    repo.target.join("bpf-build")
}

fn build_command(repo: &Repo, toolchain: &Toolchain, debug_log: bool) -> Result<Command> {
    let compiler = &toolchain.compiler;
    let mut command = Command::new(&compiler.cargo);
    clean_toolchain_environment(&mut command);
    command
        .current_dir(&repo.root)
        .stdin(Stdio::null())
        .args(["build", "--package", "mesh-ebpf", "--release"])
        .args(["--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(build_directory(repo))
        .env("RUSTC", &compiler.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
        .env("PATH", search_path(toolchain)?);
    if debug_log {
        command.args(["--features", "debug-log"]);
    }
    if compiler.origin == Origin::Distribution {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    Ok(command)
}

/// Flags for the bpf target, separated as cargo's encoded form wants it.
fn rustflags() -> String {
    [
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // BTF is made from debug information.
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ]
    .join("\x1f")
}

/// The chosen linker and compiler before whatever else has these names.
fn search_path(toolchain: &Toolchain) -> Result<std::ffi::OsString> {
    let linker = toolchain
        .linker
        .parent()
        .context("find bpf-linker's directory")?;
    let compiler = toolchain
        .compiler
        .rustc
        .parent()
        .context("find rustc's directory")?;
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let all = [linker.to_path_buf(), compiler.to_path_buf()]
        .into_iter()
        .chain(std::env::split_paths(&rest));
    std::env::join_paths(all).context("join PATH")
}

/// Copies over `object` only if the bytes differ: an untouched modification
/// time is what keeps the agent from being rebuilt.
fn replace_if_changed(built: &Path, object: &Path) -> Result<bool> {
    let new =
        fs::read(built).with_context(|| format!("read the built object {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let directory = object.parent().context("find the object's directory")?;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    // Renamed into place: a build that runs beside us never embeds a half file.
    let partial = object.with_extension("o.partial");
    fs::write(&partial, new).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, object).with_context(|| format!("replace {}", object.display()))?;
    Ok(true)
}

/// A line that changes whenever the object might.
fn fingerprint(repo: &Repo, toolchain: &Toolchain, debug_log: bool) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    rustflags().hash(&mut hasher);
    debug_log.hash(&mut hasher);
    for input in INPUTS {
        hash_tree(&repo.root.join(input), &mut hasher)?;
    }
    let version = &toolchain.compiler.version.line;
    Ok(format!(
        "{version} | {} | {:016x}\n",
        toolchain.linker.display(),
        hasher.finish()
    ))
}

fn hash_tree(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    if path.is_dir() {
        let mut entries = fs::read_dir(path)
            .and_then(|entries| {
                entries
                    .map(|e| e.map(|e| e.path()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .with_context(|| format!("list {}", path.display()))?;
        entries.sort();
        return entries
            .iter()
            .try_for_each(|entry| hash_tree(entry, hasher));
    }
    path.hash(hasher);
    fs::read(path)
        .with_context(|| format!("read {}", path.display()))?
        .hash(hasher);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("create scratch");
        dir
    }

    #[test]
    fn an_equal_object_is_left_alone() {
        let dir = scratch("replace");
        let (built, object) = (dir.join("built"), dir.join("out/object.o"));
        fs::write(&built, b"one").expect("write");
        assert!(replace_if_changed(&built, &object).expect("first copy"));
        assert!(!replace_if_changed(&built, &object).expect("same bytes"));
        fs::write(&built, b"two").expect("write");
        assert!(replace_if_changed(&built, &object).expect("new bytes"));
        assert_eq!(fs::read(&object).expect("read"), b"two");
        fs::remove_dir_all(dir).expect("remove scratch");
    }

    #[test]
    fn a_changed_or_renamed_input_changes_the_hash() {
        let dir = scratch("hash");
        let hash = || {
            let mut hasher = DefaultHasher::new();
            hash_tree(&dir, &mut hasher).expect("hash");
            hasher.finish()
        };
        fs::write(dir.join("a"), "x").expect("write");
        let first = hash();
        fs::write(dir.join("a"), "y").expect("write");
        let changed = hash();
        fs::rename(dir.join("a"), dir.join("b")).expect("rename");
        assert!(first != changed && changed != hash());
        fs::remove_dir_all(&dir).expect("remove scratch");
    }

    #[test]
    fn flags_are_separated_for_cargos_encoded_form() {
        let flags = rustflags();
        assert_eq!(flags.split('\x1f').count(), 4);
        assert!(flags.contains("-Clink-arg=--btf\x1f-Cdebuginfo=2"));
    }
}
