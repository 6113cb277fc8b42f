//! `cargo xtask <verb>`: build, test and check this repository.
//!
//! One file per verb. Depends on next to nothing, so that the first verb on a
//! fresh machine starts within seconds.

mod bench;
mod btf;
mod build;
mod build_ebpf;
mod check_abi;
mod ci;
mod command;
mod conformance;
mod demo;
mod deny;
mod dependencies;
mod elf;
mod fuzz;
mod gen_files;
mod image;
mod kube;
mod lint;
mod repo;
mod setup;
mod skips;
mod stall;
mod summary;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::repo::Repo;

const USAGE: &str = "\
usage: cargo xtask <verb> [options]

  setup [--check]        install what building and testing needs; --check only reports
  build-ebpf [--debug-log]
                         kernel programs -> target/bpf/mesh-ebpf.o
  build                  kernel programs, the agent as shipped, its CNI plugin
  image [--name NAME:TAG] [--profile P]
                         the agent as a container image: target/image/mesh-agent.tar
  test [--unit | --net | --kube | SUITE...] [-- ARGS]
                         lint's checks and all tests, or a part; ARGS go to the
                         test binaries
                         (--kube: in a real cluster, tests/kube/README.md)
  demo [--keep]          two nodes, real traffic, tables of what was seen
  demo --kube            a real cluster with the mesh and a small shop, to play with;
                         without a terminal: tries and counts all, and ends
  conformance [--features F,…] [CASE...] [-- FLAGS]
                         the Gateway API suite against the mesh in a cluster; all
                         cases write docs/conformance.md
  bench [ARGS]           direct, one node, two nodes; --policy: checks a second;
                         --scale [PODS...]: what a large configuration costs
  fuzz [--seconds N] [TARGET...]
                         the parsers under libFuzzer (nightly), 60 s each
  lint                   fmt, tidy, gen --check, clippy, rustdoc, cargo-deny
  tidy                   the repository's own rules: layers, circles, sizes, paths
  check-abi              shared structs against the kernel object's BTF
  gen [--check]          regenerate committed files; --check only compares
  ci                     test (with lint's checks), demo
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((verb, rest)) = args.split_first() else {
        bail!("no verb given\n\n{USAGE}");
    };
    let repo = Repo::locate()?;
    match verb.as_str() {
        "setup" => setup::run(&repo, rest),
        "build-ebpf" => build_ebpf::run(&repo, rest),
        "build" => build::run(&repo, rest),
        "image" => image::run(&repo, rest),
        "test" => test::run(&repo, rest),
        "demo" => demo::run(&repo, rest),
        "conformance" => conformance::run(&repo, rest),
        "bench" => bench::run(&repo, rest),
        "fuzz" => fuzz::run(&repo, rest),
        "lint" => lint::run(&repo, rest),
        "tidy" => tidy::run(&repo, rest),
        "check-abi" => check_abi::run(&repo, rest),
        "gen" => gen_files::run(&repo, rest),
        "ci" => ci::run(&repo, rest),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("no verb '{other}'\n\n{USAGE}"),
    }
}

/// Rejects arguments for a verb that takes none.
fn no_arguments(verb: &str, args: &[String]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => bail!("{verb} takes no argument '{arg}'"),
    }
}
