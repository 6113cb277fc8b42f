//! The shared libraries that a program needs, and their loader.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::output;

/// Each by the path at which the loader finds it; none for a static program.
pub(super) fn of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let said = match output(Command::new("ldd").arg(program).env("LC_ALL", "C")) {
        Ok(said) => said,
        // ldd's answer to a program without a loader is a failure.
        Err(error) if error.to_string().contains("not a dynamic executable") => String::new(),
        Err(error) => return Err(error),
    };
    paths(&said)
}

/// From lines such as `libc.so.6 => /lib/x/libc.so.6 (0x7f…)`; the loader has no
/// arrow, and what the kernel provides has no path.
fn paths(said: &str) -> Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for line in said.lines().map(str::trim) {
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        if place.starts_with("not found") {
            bail!("a library that the program needs is missing: {line}");
        }
        if place.starts_with('/') {
            let path = place.split(" (").next().unwrap_or(place);
            paths.insert(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_is_left_out() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x01)\n\t\
                    /lib64/ld-linux-x86-64.so.2 (0x02)\n";
        let found = paths(said).expect("paths");
        let expected = [
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(found, expected.map(PathBuf::from).into());
        assert_eq!(paths("\tstatically linked\n").expect("none").len(), 0);
    }

    #[test]
    fn a_missing_library_is_a_mistake() {
        let error = paths("\tlibx.so.1 => not found\n").expect_err("missing");
        assert!(error.to_string().contains("libx.so.1"), "{error}");
    }
}
