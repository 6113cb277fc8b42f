//! Agents whose kernel programs and maps are of another layout, and the pins of each.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::World;
use crate::world::binary;

/// Pins of this agent's own version.
const OWN: &str = "abi-7";
/// Pins of a copy of it that calls them by another name, which is as long.
pub const ANOTHER_VERSION: &str = "abi-8";

impl World {
    /// The program before an agent's, as [`World::spawn_successor_by`] takes it, that becomes
    /// an agent of another version, as far as anybody can tell.
    pub fn by_another_version(&self) -> Result<Vec<String>> {
        let mut program = std::fs::read(binary("MESH_AGENT_BIN", "mesh-agent"))?;
        let places: Vec<usize> = (0..program.len().saturating_sub(OWN.len()))
            .filter(|at| program[*at..].starts_with(OWN.as_bytes()))
            .collect();
        ensure!(!places.is_empty(), "the version's name is another one");
        for at in places {
            program[at..at + OWN.len()].copy_from_slice(ANOTHER_VERSION.as_bytes());
        }
        let [made, copy] = ["another-agent.made", "another-agent"].map(|n| self.dir().join(n));
        std::fs::write(&made, program)?;
        // Written by another process: one that another test starts meanwhile would have it open
        // for writing as this one, and it could not be run.
        let mut install = Command::new("install");
        let installed = install.args(["-m", "755"]).args([&made, &copy]).status()?;
        ensure!(installed.success(), "install: {installed}");
        let becomes = format!("shift; exec {} \"$@\"", copy.display());
        Ok(["sh", "-c", &becomes, "sh"].map(str::to_owned).into())
    }

    /// The versions that have pins on the node.
    pub fn versions(&self, node: &str) -> Result<Vec<String>> {
        let dirs = std::fs::read_dir(self.pins(node)).context("pins")?;
        let names = dirs.filter_map(|d| d.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }
}
