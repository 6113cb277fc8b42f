//! The plugin's program in the node's folder of plugins.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use mesh_cni::PLUGIN;

/// No runtime runs such a name.
const UNFINISHED: &str = ".mesh-agent-cni.new";

/// Copies the program there, unless it is there already; a runtime never sees half
/// of one. Before any configuration names it.
pub(super) fn install(program: &Path, dir: &Path) -> io::Result<()> {
    let bytes = fs::read(program)?;
    let there = dir.join(PLUGIN);
    if fs::read(&there).is_ok_and(|found| found == bytes) && is_executable(&there) {
        return Ok(());
    }
    let unfinished = dir.join(UNFINISHED);
    gone(&unfinished)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o755);
    let mut file = options.open(&unfinished)?;
    io::copy(&mut &bytes[..], &mut file)?;
    // The mode above is less what the process's mask takes away.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&unfinished, &there)?;
    File::open(dir)?.sync_all()
}

pub(super) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Removes it; absent is fine.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    gone(&dir.join(UNFINISHED))?;
    gone(&dir.join(PLUGIN))
}

pub(super) fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
