//! bpf-linker, built from the registry into the target directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::packages;
use crate::command::{cargo, run};
use crate::repo::Repo;
use crate::toolchain::{Compiler, find_linker};

const VERSION: &str = "0.13.0";
/// LLVM majors that this version of bpf-linker has a feature for.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

pub(super) fn install(repo: &Repo, compiler: &Compiler) -> Result<PathBuf> {
    let major = compiler.version.llvm_major;
    if !LLVM.contains(&major) {
        bail!(
            "{} uses LLVM {major}; bpf-linker {VERSION} knows LLVM {} to {}. \
             Put a bpf-linker that fits on PATH",
            compiler.summary(),
            LLVM.start(),
            LLVM.end()
        );
    }
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if !has_development_files(&prefix) {
        packages::install_llvm(major)?;
    }
    eprintln!("setup: building bpf-linker {VERSION} for LLVM {major} (about a minute)");
    run(cargo(repo)
        .args([
            "install",
            "bpf-linker",
            "--quiet",
            "--version",
            VERSION,
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{major}")])
        .arg("--root")
        .arg(repo.linker_root())
        .env("LLVM_PREFIX", &prefix)
        .env(llvm_sys_variable(major), &prefix)
        // Its crates are used nowhere else: keep them out of our target
        // directory's profiles and of cargo's locks on them.
        .env("CARGO_TARGET_DIR", repo.target.join("tools/build"))
        .env_remove("RUSTFLAGS"))
    .context("build bpf-linker")?;
    // Some hundred megabytes that nothing needs again.
    let _ = std::fs::remove_dir_all(repo.target.join("tools/build"));
    find_linker(repo).context("find the bpf-linker that cargo just installed")
}

/// llvm-sys names its crate versions after LLVM's major and minor.
fn llvm_sys_variable(major: u32) -> String {
    format!("LLVM_SYS_{major}1_PREFIX")
}

fn has_development_files(prefix: &Path) -> bool {
    prefix.join("include/llvm-c/Core.h").is_file()
        && prefix.join("bin/llvm-config").is_file()
        && prefix.join("lib/libPolly.a").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_variable_is_the_one_llvm_sys_reads() {
        assert_eq!(llvm_sys_variable(22), "LLVM_SYS_221_PREFIX");
    }
}
