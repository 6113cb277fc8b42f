//! Pins of an agent, and what root does with the kernel links at them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::World;

const PROGRAM: &str = include_str!("links.py");

impl World {
    /// The pins of the node's agent in a directory (`links` or `maps`) whose names
    /// begin so, in order.
    pub fn pinned(&self, node: &str, dir: &str, begin: &str) -> Result<Vec<PathBuf>> {
        let version = fs::read_dir(self.pins(node))?.next();
        let dir = version.context("a version")??.path().join(dir);
        let mut pins = Vec::new();
        for pin in fs::read_dir(dir)? {
            let pin = pin?;
            if pin.file_name().to_string_lossy().starts_with(begin) {
                pins.push(pin.path());
            }
        }
        pins.sort();
        Ok(pins)
    }
}

/// Detaches the links at these pins, which stay.
pub fn detach_links(pins: &[PathBuf]) -> Result<()> {
    let detached = run("detach", pins)?;
    ensure!(detached == pins.len(), "{detached} of {pins:?}");
    Ok(())
}

/// How many of the links at these pins are attached.
pub fn attached_links(pins: &[impl AsRef<Path>]) -> Result<usize> {
    run("count", pins)
}

fn run(verb: &str, pins: &[impl AsRef<Path>]) -> Result<usize> {
    let mut python = Command::new("python3");
    python.args(["-c", PROGRAM, verb]);
    let out = python.args(pins.iter().map(AsRef::as_ref)).output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    said.trim()
        .parse()
        .with_context(|| format!("{verb}: {out:?}"))
}
