//! A pod: namespace, cgroup, addresses.

use std::path::PathBuf;

use crate::manifest::Port;

/// Port that every pod's server listens on, behind service port 80.
pub const APP_PORT: u16 = 8080;

/// A pod: namespace, cgroup, addresses.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub node: String,
    pub(crate) index: usize,
    pub(crate) netns: String,
    pub(crate) cgroup: PathBuf,
    /// Of a kubelet's pod.
    pub(crate) uid: Option<String>,
    pub(crate) ports: Vec<Port>,
    pub(crate) headless: bool,
}

impl Pod {
    #[must_use]
    pub fn v4(&self) -> String {
        format!("10.77.0.{}", self.index)
    }

    #[must_use]
    pub fn v6(&self) -> String {
        format!("fd77::{:x}", self.index)
    }

    /// Its network namespace's name, as in `ip netns`.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// As its cgroup is named by, where a kubelet named it.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.uid.as_deref().unwrap_or_default()
    }

    /// Its cgroup, below its node's.
    #[must_use]
    pub fn cgroup(&self) -> &std::path::Path {
        &self.cgroup
    }

    /// Addresses of the service in front of it, without ports.
    #[must_use]
    pub fn vip_addresses(&self) -> [String; 2] {
        [
            format!("10.96.0.{}", self.index),
            format!("fd96::{:x}", self.index),
        ]
    }

    /// Virtual addresses of the service in front of it, port 80.
    #[must_use]
    pub fn vips(&self) -> [String; 2] {
        let [v4, v6] = self.vip_addresses();
        [format!("{v4}:80"), format!("[{v6}]:80")]
    }

    /// The storm's targets for this pod: every service port at both VIPs (not
    /// where headless), then the pod's own addresses at every port.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        let [vip4, vip6] = self.vip_addresses();
        let (v4, v6) = (self.v4(), self.v6());
        let mut virtual_ones = vec![];
        let mut own = vec![];
        for port in &self.ports {
            let to = port.target_number();
            let (a4, a6) = (format!("{v4}:{to}"), format!("[{v6}]:{to}"));
            virtual_ones.push(format!("{vip4}:{}={a4}", port.port));
            virtual_ones.push(format!("[{vip6}]:{}={a6}", port.port));
            own.push(format!("{a4}={a4}"));
            own.push(format!("{a6}={a6}"));
        }
        if self.headless {
            return own;
        }
        virtual_ones.extend(own);
        virtual_ones
    }
}
