//! Where things are: the repository, its target directory, what verbs build.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Paths every verb needs.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub(crate) root: PathBuf,
    /// One target directory for all verbs, so that nothing is built twice.
    pub(crate) target: PathBuf,
}

impl Repo {
    pub(crate) fn locate() -> Result<Self> {
        // Whose program cargo runs, it says when it runs it: a target directory that was
        // copied has a program in it that was built for another tree.
        let built = env!("CARGO_MANIFEST_DIR");
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| built.into(), PathBuf::from);
        let root = manifest
            .parent()
            .context("find the repository above xtask/")?
            .to_path_buf();
        let target = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"]
            .iter()
            .find_map(env::var_os)
            .map_or_else(
                || root.join("target"),
                |dir| absolute(&root, Path::new(&dir)),
            );
        Ok(Self { root, target })
    }

    /// The kernel object that the agent embeds.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.target.join("bpf/mesh-ebpf.o")
    }

    /// Where `setup` installs bpf-linker.
    pub(crate) fn linker_root(&self) -> PathBuf {
        self.target.join("tools/bpf-linker")
    }

    /// A binary of the workspace built with `profile`.
    pub(crate) fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }
}

fn absolute(root: &Path, dir: &Path) -> PathBuf {
    if dir.is_absolute() {
        dir.to_path_buf()
    } else {
        root.join(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_target_directory_is_taken_from_the_root() {
        assert_eq!(absolute(Path::new("/r"), Path::new("t")), Path::new("/r/t"));
        assert_eq!(absolute(Path::new("/r"), Path::new("/t")), Path::new("/t"));
    }
}
