//! Are the programs still attached and everything pinned? What somebody took
//! away is put back.

use std::os::fd::AsFd as _;
use std::path::Path;

use super::pins::{self, Pins};
use super::{Capture, Error};
use crate::sys::{bpf, netns::Netns};

impl Capture {
    /// Puts back the node's own links and the maps' pins; gives how many were missing.
    pub fn restore_node(&mut self) -> Result<usize, Error> {
        let mut missing = self.restore_map_pins()?;
        let root = self.config.cgroup_root.clone();
        for name in ["mesh_connect4", "mesh_connect6"] {
            if !is_attached(&self.pins.link(name)) {
                pins::unpin(&self.pins.link(name))?;
                self.attach_connect(name, &root)?;
                missing += 1;
            }
        }
        for (role, dir) in self.config.sock_ops() {
            if !is_attached(&self.pins.sock_ops(&role)) {
                self.attach_sock_ops(&role, &dir)?;
                missing += 1;
            }
        }
        Ok(missing)
    }

    /// Puts back an enrolled pod's link; was it missing?
    pub fn restore_pod(&mut self, netns: &Netns) -> Result<bool, Error> {
        let pin = self.pins.pod(netns.cookie());
        if is_attached(&pin) {
            return Ok(false);
        }
        pins::unpin(&pin)?;
        self.attach_pod(netns)?;
        Ok(true)
    }

    fn restore_map_pins(&mut self) -> Result<usize, Error> {
        if !self.pins.maps().is_dir() {
            self.pins = Pins::prepare(&self.config.bpffs_dir)?;
        }
        let mut missing = 0;
        for name in &self.pinned_maps {
            let path = self.pins.maps().join(name);
            if path.exists() {
                continue;
            }
            let map = self.ebpf.map(name);
            let map = map.ok_or_else(|| Error::Missing(name.clone()))?;
            map.pin(&path).map_err(|e| Error::Pins {
                dir: path,
                source: std::io::Error::other(e),
            })?;
            missing += 1;
        }
        Ok(missing)
    }
}

/// Is there a link at the pin, and is it attached to something?
pub(super) fn is_attached(pin: &Path) -> bool {
    bpf::open_pin(pin)
        .and_then(|link| bpf::link_target(link.as_fd()))
        .is_ok_and(|target| target != 0)
}
