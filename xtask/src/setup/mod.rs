//! `setup`: makes this machine able to build, test and show the mesh.
//!
//! Looks first and installs only what is missing, saying what it does. With
//! all in place it takes well under a second, so that other verbs call it
//! every time.

mod kernel;
mod linker;
mod packages;

pub(crate) use packages::{install_go, is_root};

use anyhow::{Result, bail};

use crate::kube;
use crate::repo::Repo;
use crate::toolchain::{Compiler, Toolchain, find_linker};

/// One thing that must be there.
struct Finding {
    what: &'static str,
    /// Where it is, or what to do about it.
    state: Result<String, String>,
}

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    match args {
        [] => {
            ensure_all(repo)?;
            println!("setup: everything is there");
            Ok(())
        }
        [flag] if flag == "--check" => check(repo),
        _ => bail!("usage: cargo xtask setup [--check]"),
    }
}

/// Installs what is missing for building, testing and the demo.
pub(crate) fn ensure_all(repo: &Repo) -> Result<()> {
    packages::ensure_programs()?;
    ensure_toolchain(repo)?;
    kube::ensure();
    kernel::ensure_bpffs();
    for finding in kernel::findings() {
        if let Err(remedy) = finding.state {
            eprintln!("setup: {}: {remedy}", finding.what);
        }
    }
    Ok(())
}

/// Installs what `build-ebpf` needs, and only that.
pub(crate) fn ensure_toolchain(repo: &Repo) -> Result<Toolchain> {
    let compiler = match Compiler::find() {
        Some(compiler) => compiler,
        None => packages::install_compiler()?,
    };
    let linker = match find_linker(repo) {
        Some(linker) => linker,
        None => linker::install(repo, &compiler)?,
    };
    Ok(Toolchain { compiler, linker })
}

fn check(repo: &Repo) -> Result<()> {
    let mut findings = toolchain_findings(repo);
    findings.extend(packages::findings());
    findings.extend(kernel::findings());
    findings.push(Finding {
        what: "tests in a cluster",
        state: kube::missing().map_or_else(|| Ok("can run".to_owned()), Err),
    });
    let missing = findings.iter().filter(|f| f.state.is_err()).count();
    for Finding { what, state } in &findings {
        match state {
            Ok(place) => println!("ok       {what}: {place}"),
            Err(remedy) => println!("MISSING  {what}: {remedy}"),
        }
    }
    if missing > 0 {
        bail!("{missing} missing; `cargo xtask setup` installs what it can");
    }
    Ok(())
}

fn toolchain_findings(repo: &Repo) -> Vec<Finding> {
    let compiler = Compiler::find();
    let linker = find_linker(repo);
    vec![
        Finding {
            what: "compiler for the kernel programs",
            state: compiler
                .map(|c| c.summary())
                .ok_or_else(packages::compiler_advice),
        },
        Finding {
            what: "bpf-linker",
            state: linker
                .map(|path| path.display().to_string())
                .ok_or_else(|| "`cargo xtask setup` builds it with cargo".to_owned()),
        },
    ]
}
