//! `image`: the agent as a container image, without a container engine.
//!
//! An archive in the OCI image layout with one layer: the program, the shared
//! libraries that it needs from this machine, and four small files. The same
//! input gives the same bytes: no times, owners or names of this machine are in it.

mod layout;
mod libraries;
mod tar;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{output, run_quietly};
use crate::repo::Repo;
use crate::{build, build_ebpf, setup};
use layout::Settings;
use tar::Files;

const USAGE: &str = "usage: cargo xtask image [--name NAME:TAG] [--profile PROFILE]";

/// Who needs no rights runs as this user (the authority, the status writer).
const NOBODY: u32 = 65532;

pub(crate) fn run(repo: &Repo, args: &[String]) -> Result<()> {
    let (mut name, mut profile) = (default_name(), build::SHIPPED.to_owned());
    for pair in args.chunks(2) {
        match pair {
            [flag, value] if flag == "--name" => name.clone_from(value),
            [flag, value] if flag == "--profile" => profile.clone_from(value),
            _ => bail!("{USAGE}"),
        }
    }
    setup::ensure_toolchain(repo)?;
    build_ebpf::build(repo, false)?;
    let program = build::agent(repo, &profile)?;
    let archive = repo.target.join("image/mesh-agent.tar");
    let made = agent(repo, &program, &name, &archive)?;
    println!(
        "{}\n{name}\n{} ({} bytes)",
        archive.display(),
        made.digest,
        made.bytes
    );
    Ok(())
}

fn default_name() -> String {
    format!("mesh-agent:{}", env!("CARGO_PKG_VERSION"))
}

/// What was written.
pub(crate) struct Made {
    /// Of the manifest: what a registry knows the image by.
    pub(crate) digest: String,
    pub(crate) bytes: usize,
}

/// The agent's image, of a program that is built already, with the CNI plugin that it
/// installs on nodes.
pub(crate) fn agent(repo: &Repo, program: &Path, name: &str, archive: &Path) -> Result<Made> {
    let mut files = base(repo)?;
    let plugin = build::plugin(repo)?;
    let data = fs::read(&plugin).with_context(|| format!("read {}", plugin.display()))?;
    files.file("mesh-agent-cni", 0o755, data);
    // Where `kubectl exec … -- mesh-agent …` finds it.
    files.link("usr/local/bin/mesh-agent", "/mesh-agent");
    pack(files, program, "/mesh-agent", name, archive)
}

/// An image of another program: the tests' application.
pub(crate) fn program(repo: &Repo, program: &Path, name: &str, archive: &Path) -> Result<Made> {
    let entrypoint = program.file_name().and_then(|n| n.to_str());
    let entrypoint = format!("/{}", entrypoint.context("the program's name")?);
    pack(base(repo)?, program, &entrypoint, name, archive)
}

fn base(repo: &Repo) -> Result<Files> {
    let mut files = Files::default();
    files.folder("tmp", 0o1777);
    let passwd = format!(
        "root:x:0:0:root:/:/sbin/nologin\nnobody:x:{NOBODY}:{NOBODY}:nobody:/:/sbin/nologin\n"
    );
    let group = format!("root:x:0:\nnobody:x:{NOBODY}:\n");
    files.file("etc/passwd", 0o644, passwd.into_bytes());
    files.file("etc/group", 0o644, group.into_bytes());
    files.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    let license = repo.root.join("LICENSE");
    let license = fs::read(&license).with_context(|| format!("read {}", license.display()))?;
    files.file("usr/share/doc/mesh-agent/LICENSE", 0o644, license);
    Ok(files)
}

fn pack(
    mut files: Files,
    program: &Path,
    entrypoint: &str,
    name: &str,
    archive: &Path,
) -> Result<Made> {
    let folder = archive.parent().context("the archive's directory")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for library in libraries::of(program)? {
        let data = fs::read(&library).with_context(|| format!("read {}", library.display()))?;
        let path = library.strip_prefix("/").unwrap_or(&library);
        files.file(&path.to_string_lossy(), 0o755, data);
    }
    let path = entrypoint.trim_start_matches('/');
    files.file(path, 0o755, stripped(program, folder)?);
    let settings = Settings {
        name: name.to_owned(),
        entrypoint: entrypoint.to_owned(),
        architecture: architecture()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let image = layout::image(&settings, &files.archive())?;
    // Written beside it and renamed: a reader never sees half of one.
    let partial = archive.with_extension("partial");
    fs::write(&partial, &image.archive).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, archive).with_context(|| format!("write {}", archive.display()))?;
    Ok(Made {
        digest: image.digest,
        bytes: image.archive.len(),
    })
}

/// The program without what only a debugger reads.
fn stripped(program: &Path, folder: &Path) -> Result<Vec<u8>> {
    let copy: PathBuf = folder.join(format!(".stripped-{}", std::process::id()));
    let strip = run_quietly(
        Command::new("strip")
            .args(["--strip-all", "-o"])
            .args([&copy, program]),
    );
    let data = strip.and_then(|()| fs::read(&copy).context("read the stripped program"));
    let _absent_if_it_failed = fs::remove_file(&copy);
    data
}

/// By the name that images have for it.
fn architecture() -> Result<String> {
    let machine = output(Command::new("uname").arg("-m"))?;
    Ok(match machine.trim() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no image is made on {other}"),
    }
    .to_owned())
}
