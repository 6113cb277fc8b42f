//! Links, addresses and settings, through iproute2 and sysctls.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{Pod, World, eventually};

/// A network namespace of a world.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    Pod(&'a Pod),
    Node(&'a str),
}

impl<'a> From<&'a Pod> for Place<'a> {
    fn from(pod: &'a Pod) -> Self {
        Self::Pod(pod)
    }
}

impl<'a> From<&'a str> for Place<'a> {
    fn from(node: &'a str) -> Self {
        Self::Node(node)
    }
}

pub(crate) fn ip(args: &str) -> Result<()> {
    let out = Command::new("ip").args(args.split(' ')).output()?;
    if !out.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// The node's own address.
pub(crate) fn node_v4(index: usize) -> String {
    format!("10.77.0.{}", 200 + index)
}

/// A node's namespace: a bridge for its pods, joined to the first node's.
pub(crate) fn make_node(netns: &str, index: usize, first: Option<&str>) -> Result<()> {
    ip(&format!("netns add {netns}"))?;
    ip(&format!("-n {netns} link set lo up"))?;
    ip(&format!("-n {netns} link add br0 type bridge"))?;
    ip(&format!("-n {netns} link set br0 up"))?;
    ip(&format!(
        "-n {netns} addr add {}/24 dev br0",
        node_v4(index)
    ))?;
    let Some(first) = first else { return Ok(()) };
    let port = format!("to-n{index}");
    ip(&format!(
        "link add {port} netns {first} type veth peer name wire netns {netns}"
    ))?;
    ip(&format!("-n {first} link set {port} master br0 up"))?;
    ip(&format!("-n {netns} link set wire master br0 up"))
}

/// A pod's namespace, its link `eth0` at the node's bridge, both families.
pub(crate) fn make_pod(pod: &Pod, node_netns: &str) -> Result<()> {
    let netns = &pod.netns;
    let outside = format!("v-{}", pod.name);
    ip(&format!("-n {netns} link set lo up"))?;
    // A pod that comes again has the same: neighbours remember it for a while.
    let mac = format!(
        "02:00:00:77:{:02x}:{:02x}",
        pod.index >> 8,
        pod.index & 0xff
    );
    ip(&format!(
        "link add eth0 address {mac} netns {netns} type veth peer name {outside} netns {node_netns}"
    ))?;
    ip(&format!("-n {node_netns} link set {outside} master br0 up"))?;
    ip(&format!("-n {netns} addr add {}/24 dev eth0", pod.v4()))?;
    ip(&format!(
        "-n {netns} addr add {}/64 dev eth0 nodad",
        pod.v6()
    ))?;
    // The one that the kernel gives it by its MAC is there at once so, and not only
    // when nobody answered to it.
    let link_local = format!("fe80::ff:fe77:{:x}", pod.index);
    ip(&format!(
        "-n {netns} addr add {link_local}/64 dev eth0 nodad"
    ))?;
    ip(&format!("-n {netns} link set eth0 up"))?;
    ip(&format!("-n {netns} route add default dev eth0"))?;
    ip(&format!("-n {netns} -6 route add default dev eth0"))
}

impl World {
    /// Waits until the kernel has noticed that every link is up, up to a second
    /// after it is: before that bridges drop what comes in.
    pub fn links_up(&self) -> Result<()> {
        let up = |node: &String| {
            let netns = self.netns(node);
            let out = Command::new("ip")
                .args(["-n", &netns, "-o", "link", "show", "master", "br0"])
                .output();
            out.is_ok_and(|o| {
                let text = String::from_utf8_lossy(&o.stdout).into_owned();
                text.lines().all(|l| l.contains("state UP"))
            })
        };
        if eventually(Duration::from_secs(10), || self.nodes.iter().all(up)) {
            return Ok(());
        }
        bail!("the links of {} do not come up", self.id)
    }

    /// Sets a sysctl, for example `net.ipv4.tcp_syncookies`, in one namespace.
    pub fn set_sysctl<'a>(
        &self,
        place: impl Into<Place<'a>>,
        name: &str,
        value: &str,
    ) -> Result<()> {
        // Written with the shell: sysctl(8) is not on every machine.
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let out = self
            .command_in(place.into(), "sh")
            .args(["-c", "printf %s \"$2\" > \"$1\"", "sh", &path, value])
            .output()?;
        if !out.status.success() {
            bail!("set {name}: {}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(())
    }

    /// The node's end of the wire to the first node (of n1: to n2).
    #[must_use]
    pub fn wire(&self, node: &str) -> &'static str {
        if self.nodes.first().is_some_and(|n| n == node) {
            "to-n2"
        } else {
            "wire"
        }
    }

    /// Rules and capture routes in the pod's namespace, as text; empty when none.
    pub fn capture_rules(&self, pod: &Pod) -> Result<String> {
        let mut text = String::new();
        for family in ["-4", "-6"] {
            let out = Command::new("ip")
                .args(["-n", &pod.netns, family, "rule"])
                .output()?;
            let rules = String::from_utf8_lossy(&out.stdout).into_owned();
            text.extend(rules.lines().filter(|l| l.contains("fwmark")));
        }
        Ok(text)
    }

    /// The agent's classifiers at the node's end of the pod's link (not kernel links).
    #[must_use]
    pub fn classifiers(&self, pod: &Pod) -> usize {
        let of = |side: &str| {
            let shown = Command::new("tc")
                .args(["-n", &self.netns(&pod.node), "filter", "show", "dev"])
                .args([&format!("v-{}", pod.name), side])
                .output();
            let shown = shown.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
            let shown = shown.unwrap_or_default();
            shown.lines().filter(|line| line.contains("mesh_")).count()
        };
        of("ingress") + of("egress")
    }
}
