//! Which compiler and linker build the kernel programs.
//!
//! `-Z build-std=core` needs the standard library's source and an unstable
//! option: either a rustup nightly with `rust-src`, or the distribution's own
//! rustc with its source package and RUSTC_BOOTSTRAP=1. bpf-linker must
//! understand the LLVM of that compiler.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{clean_toolchain_environment, is_executable, output, which};
use crate::repo::Repo;

/// The workspace's `rust-version`: cargo refuses older compilers.
const OLDEST_RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// A compiler that can build `core` for the bpf target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) version: RustcVersion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    RustupNightly,
    Distribution,
}

/// What `rustc -vV` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RustcVersion {
    /// First line, for people and for fingerprints.
    pub(crate) line: String,
    pub(crate) release: (u32, u32),
    pub(crate) llvm_major: u32,
}

/// All that `build-ebpf` needs.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Compiler {
    /// rustup's nightly where it has the library source, else the
    /// distribution's pair.
    pub(crate) fn find() -> Option<Self> {
        rustup_nightly().or_else(distribution)
    }

    pub(crate) fn summary(&self) -> String {
        format!(
            "{} ({}, LLVM {})",
            self.rustc.display(),
            self.version.line,
            self.version.llvm_major
        )
    }
}

/// Our own bpf-linker before one on PATH: its LLVM is known to fit.
pub(crate) fn find_linker(repo: &Repo) -> Option<PathBuf> {
    let own = repo.linker_root().join("bin/bpf-linker");
    if is_executable(&own) {
        return Some(own);
    }
    which("bpf-linker")
}

fn rustup_nightly() -> Option<Compiler> {
    let home = env::var_os("RUSTUP_HOME").map_or_else(
        || env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")),
        |home| Some(PathBuf::from(home)),
    )?;
    let mut toolchains: Vec<PathBuf> = fs::read_dir(home.join("toolchains"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_nightly(path))
        .collect();
    // "nightly-<host>" sorts after every "nightly-<date>-<host>": newest last.
    toolchains.sort();
    toolchains
        .iter()
        .rev()
        .find_map(|sysroot| compiler_in(&sysroot.join("bin"), sysroot, Origin::RustupNightly))
}

fn is_nightly(toolchain: &Path) -> bool {
    toolchain
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("nightly"))
}

fn distribution() -> Option<Compiler> {
    let bin = Path::new("/usr/bin");
    let rustc = bin.join("rustc");
    if !is_executable(&rustc) {
        return None;
    }
    let mut ask = Command::new(&rustc);
    clean_toolchain_environment(&mut ask);
    let sysroot = output(ask.args(["--print", "sysroot"])).ok()?;
    compiler_in(bin, Path::new(sysroot.trim()), Origin::Distribution)
        .filter(|compiler| Some(compiler.version.release) >= major_minor(OLDEST_RUSTC))
}

fn compiler_in(bin: &Path, sysroot: &Path, origin: Origin) -> Option<Compiler> {
    let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !(is_executable(&cargo) && is_executable(&rustc) && core.is_file()) {
        return None;
    }
    let version = rustc_version(&rustc).ok()?;
    Some(Compiler {
        cargo,
        rustc,
        origin,
        version,
    })
}

fn rustc_version(rustc: &Path) -> Result<RustcVersion> {
    let mut ask = Command::new(rustc);
    clean_toolchain_environment(&mut ask);
    let text = output(ask.arg("-vV"))?;
    parse_version(&text).with_context(|| format!("understand `{} -vV`", rustc.display()))
}

fn parse_version(text: &str) -> Option<RustcVersion> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let release = major_minor(field("release: ")?)?;
    let llvm_major = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    let line = text.lines().next()?.to_owned();
    Some(RustcVersion {
        line,
        release,
        llvm_major,
    })
}

/// `1.96` of `1.96.0-nightly`.
fn major_minor(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_text_gives_release_and_llvm() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                    binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let version = parse_version(text).expect("a version");
        assert_eq!((version.release, version.llvm_major), ((1, 96), 22));
        assert!(version.line.starts_with("rustc 1.96.0"));
    }

    #[test]
    fn the_oldest_compiler_is_a_version() {
        assert!(major_minor(OLDEST_RUSTC).is_some());
    }

    #[test]
    fn a_nightly_release_is_understood_and_rubbish_is_not() {
        let text = "rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1.0\n";
        assert_eq!(parse_version(text).map(|v| v.release), Some((1, 97)));
        assert_eq!(parse_version("cargo: not found"), None);
    }
}
