//! An API server that the mesh does not reach, while everybody else does.

use anyhow::{Context as _, Result};

use super::cluster::{Cluster, NODES};

/// The address of `kubernetes.default`: agents and pods use it, the kubelet does not.
const SERVICE: &str = "10.96.0.1";
/// What is behind it.
const SERVER: &str = "10.250.0.1";

/// Until it is dropped.
pub struct Absence<'c> {
    cluster: &'c Cluster,
}

impl Cluster {
    /// From now on agents and pods hear nothing on the connections that they have to the
    /// API server, and get no others: nobody listens.
    pub fn cut_off_api(&self) -> Result<Absence<'_>> {
        let absence = Absence { cluster: self };
        for node in NODES {
            for (table, chain, what) in rules() {
                absence.rule(node, &format!("-t {table} -I {chain} 1 {what}"))?;
            }
        }
        Ok(absence)
    }
}

fn rules() -> Vec<(&'static str, &'static str, String)> {
    // Reset at a closed port: a rule that rejects after the translation does not.
    let refused = format!("-d {SERVICE} -p tcp -j REDIRECT --to-ports 1");
    let silent = format!("-p tcp -m conntrack --ctorigdst {SERVICE} --ctreplsrc {SERVER} -j DROP");
    let counted = format!("-d {SERVICE} -p tcp --syn");
    let mut rules = vec![("raw", "OUTPUT", counted)];
    rules.extend(["OUTPUT", "PREROUTING"].map(|chain| ("nat", chain, refused.clone())));
    let all = ["INPUT", "OUTPUT", "FORWARD"];
    rules.extend(all.map(|chain| ("filter", chain, silent.clone())));
    rules
}

impl Absence<'_> {
    fn rule(&self, node: usize, words: &str) -> Result<String> {
        let all = format!("iptables {words}");
        let all: Vec<&str> = all.split_whitespace().collect();
        self.cluster.on_node(node, &all)
    }

    /// How often that node's agent tried to connect so far.
    pub fn tries(&self, node: usize) -> Result<u64> {
        let list = self.rule(node, "-t raw -nvxL OUTPUT")?;
        let line = list.lines().find(|line| line.contains(SERVICE));
        let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        count.with_context(|| format!("read {list}"))
    }
}

impl Drop for Absence<'_> {
    fn drop(&mut self) {
        for node in NODES {
            for (table, chain, what) in rules() {
                // Not there where it could not be made.
                let _ = self.rule(node, &format!("-t {table} -D {chain} {what}"));
            }
        }
    }
}
