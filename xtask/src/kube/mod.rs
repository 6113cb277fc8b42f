//! A Kubernetes cluster for tests and to play with: what it needs of the machine,
//! its programs and images, and commands that run while it is up.
//!
//! The recipe is in `tests/kube/`: scripts, so that it can be used by hand too.

mod needs;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{clean_cargo_environment, run as run_command};
use crate::image;
use crate::repo::Repo;

pub(crate) use needs::{ensure, missing};

/// Programs and images that the suites and the demo use.
const PARTS: &[&str] = &["kube", "tools", "debs", "dns", "echo", "images", "suite"];
/// The directory of the images that nodes get, for the suites.
pub(crate) const IMAGES: &str = "MESH_KUBE_IMAGES";

pub(crate) fn recipe(repo: &Repo) -> PathBuf {
    repo.root.join("tests/kube")
}

/// Builds what is not in the cache yet: minutes the first time, else nothing.
pub(crate) fn build(repo: &Repo) -> Result<()> {
    run_command(script(repo, "build.sh")?.args(PARTS))
}

/// The agent's image and the test application's, of programs that are built.
pub(crate) fn images(repo: &Repo, profile: &str) -> Result<PathBuf> {
    let folder = repo.target.join("image").join(profile);
    let pack = |name: &str| -> Result<()> {
        let program = repo.binary(profile, name);
        let (image, archive) = (format!("cluster.local/{name}:dev"), archive(&folder, name));
        let made = match name {
            "mesh-agent" => image::agent(repo, &program, &image, &archive),
            _ => image::program(repo, &program, &image, &archive),
        };
        let made = made.with_context(|| format!("make the image {image}"))?;
        eprintln!("{image}: {} bytes, {}", made.bytes, made.digest);
        Ok(())
    };
    pack("mesh-agent")?;
    pack("mesh-app")?;
    Ok(folder)
}

fn archive(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.tar"))
}

/// A command that begins with a cluster and ends with its end.
pub(crate) fn with_cluster(repo: &Repo, images: &Path) -> Result<Command> {
    let mut command = script(repo, "with.sh")?;
    command.env(IMAGES, images);
    Ok(command)
}

fn script(repo: &Repo, name: &str) -> Result<Command> {
    let mut command = Command::new(recipe(repo).join(name));
    command.current_dir(&repo.root);
    clean_cargo_environment(&mut command);
    needs::with_go(&mut command)?;
    Ok(command)
}
