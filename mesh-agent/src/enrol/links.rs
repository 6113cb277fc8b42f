//! The second line on the pods' links, and what is to be told of it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::capture::{self, PodLinks};
use crate::model::{PodIps, Workload, WorkloadKey};
use crate::sys::netns::Netns;

use super::{DataPath, Failure, LocalPod, Reconciler, local_pod};

/// Other addresses that are told, at most.
const TOLD: usize = 4;
/// Between looks for links that a running pod was given.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

impl<D: DataPath> Reconciler<D> {
    /// Puts back what is missing at the pods' links, tries again what failed, and
    /// looks for new links now and then; gives how much was missing.
    pub(super) fn restore_links(&mut self) -> usize {
        let mut missing = 0;
        let now = Instant::now();
        self.links_lost
            .retain(|key, at| self.pods.contains_key(key) && now < *at + LOOK_AGAIN);
        for (key, pod) in &self.pods {
            match self.capture.restore_links(&pod.netns, pod.workload.ips) {
                Ok(0) => {}
                Ok(lost) => {
                    // What has gone with its link may come with another one.
                    self.links_lost.insert(key.clone(), now);
                    missing += lost;
                }
                Err(error) => {
                    tracing::error!(pod = %pod.workload.key, %error, "cannot put back the guards of its links");
                }
            }
        }
        let all = self.links_seen.elapsed() >= LOOK_AGAIN;
        if all {
            self.links_seen = Instant::now();
        }
        let is_looked_at = |key: &WorkloadKey| {
            self.unguarded_links.contains(key) || self.links_lost.contains_key(key)
        };
        let pods = self.pods.iter();
        let due = pods.filter(|(key, _)| all || is_looked_at(key));
        let due: Vec<_> = due
            .map(|(_, pod)| (pod.netns.clone(), pod.workload.clone()))
            .collect();
        for (netns, workload) in &due {
            self.guard_links(netns, workload);
        }
        if all {
            self.status_is_old |= self.look_at_egress(true);
        }
        missing
    }

    /// Do pods leave by other addresses than they did? `all`: also those that never had one.
    /// What cannot be looked at is as it was.
    pub(super) fn look_at_egress(&mut self, all: bool) -> bool {
        let is_another = |pod: &LocalPod| {
            let now = local_pod::egress(&pod.netns, &pod.workload);
            now.is_ok_and(|now| now != pod.egress())
        };
        // One that is replaced may be away as it is looked at.
        let had_one = &self.had_egress;
        let pods = self.pods.iter();
        let changed = pods.filter(|(key, pod)| (all || had_one.contains(*key)) && is_another(pod));
        let changed: Vec<_> = changed.map(|(key, _)| key.clone()).collect();
        let is_any = !changed.is_empty();
        self.egress_changed.extend(changed);
        is_any
    }

    /// Follows the annotation that leaves addresses of an enrolled pod alone. Where
    /// it fails, an address that is left alone no more may still be.
    pub(super) fn exclude(&mut self, workload: &Workload) -> Result<(), Failure> {
        let Some(pod) = self.pods.get(&workload.key) else {
            return Ok(());
        };
        let netns = pod.netns.clone();
        let cookie = netns.cookie();
        // What an earlier agent left is not known: the first time it is said anew.
        let known = self.excluded.get(&workload.key);
        let known = known.filter(|(of, _)| *of == cookie);
        if known.is_some_and(|(_, ips)| *ips == workload.on_node.excluded) {
            return Ok(());
        }
        let told = known.is_some();
        self.capture
            .exclude(cookie, &workload.on_node.excluded)
            .map_err(|error| Failure {
                error: error.into(),
                is_served: true,
            })?;
        let value = (cookie, workload.on_node.excluded.clone());
        self.excluded.insert(workload.key.clone(), value);
        if told {
            self.guard_links(&netns, workload);
        }
        Ok(())
    }

    /// Follows the ports that the pod's own probes name.
    pub(super) fn probe(&mut self, workload: &Workload) -> Result<(), capture::Error> {
        let Some(pod) = self.pods.get(&workload.key) else {
            return Ok(());
        };
        let ports = &workload.on_node.probe_ports;
        self.capture.set_probe_ports(pod.netns.cookie(), ports)
    }

    /// Guards the pod's links. The first line holds without: a failure is a
    /// warning, and is tried again.
    pub(super) fn guard_links(&mut self, netns: &Netns, workload: &Workload) {
        let key = &workload.key;
        let links = self.capture.guard_links(netns, workload.ips);
        if links.is_err() {
            self.unguarded_links.insert(key.clone());
        } else {
            self.unguarded_links.remove(key);
        }
        let excluded = &workload.on_node.excluded;
        let mut told = self.excluded.get(key).map_or(excluded, |e| &e.1).clone();
        // That nothing is reached at it is what it is for.
        told.extend(netns.egress(workload.ips).unwrap_or_default().iter());
        let warning = warning((links.as_ref(), workload.ips), &told);
        if self.link_warnings.get(key) == warning.as_ref() {
            return;
        }
        self.status_is_old = true;
        match warning {
            Some(warning) => {
                tracing::warn!(pod = %key, "{warning}");
                self.link_warnings.insert(key.clone(), warning);
            }
            None => {
                tracing::info!(pod = %key, "its links are guarded");
                self.link_warnings.remove(key);
            }
        }
    }
}

/// `told`: addresses of which nothing has to be said.
fn warning(
    (links, own): (Result<&PodLinks, &capture::Error>, PodIps),
    told: &[IpAddr],
) -> Option<String> {
    let links = match links {
        Ok(links) => links,
        Err(error) => return Some(format!("its links are not guarded: {error}")),
    };
    let mut parts = Vec::new();
    if !links.unguarded.is_empty() {
        parts.push(format!(
            "its interface {} has no other end on this node, so nothing there refuses what a raw \
             socket or rules of its own send past the agent",
            links.unguarded.join(", ")
        ));
    }
    if !links.redirecting.is_empty() {
        parts.push(format!(
            "its interface {} is a netkit device: what a program there redirects (as Cilium's do) \
             passes no guard",
            links.redirecting.join(", ")
        ));
    }
    let beside = links.beside.iter().filter(|(_, ip)| !told.contains(ip));
    let lacking = beside
        .clone()
        .find(|(_, ip)| own.same_family(*ip).is_none());
    let mut beside: Vec<String> = beside
        .take(TOLD + 1)
        .map(|(name, ip)| format!("{ip} ({name})"))
        .collect();
    if let Some(more) = beside.get_mut(TOLD) {
        "others".clone_into(more);
    }
    if !beside.is_empty() {
        parts.push(format!(
            "connections to its address {} are refused, as it is not in status.podIPs; the \
             annotation mesh-agent.io/exclude-addresses leaves an address alone",
            beside.join(", ")
        ));
    }
    if let Some((_, ip)) = lacking {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        parts.push(format!(
            "it has no {family} address in status.podIPs, so what it connects to by {family} is \
             refused, whatever is excluded; its network has to give it one there, or an address \
             that is only to leave by (169.254.0.0/16, fd00::ac:0/118)"
        ));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_names_interfaces_and_a_few_addresses() {
        let own = PodIps::from(IpAddr::from([10, 0, 0, 5]));
        assert_eq!(warning((Ok(&PodLinks::default()), own), &[]), None);
        let beside = |n: u8| ("net1".to_owned(), [10, 9, 0, n].into());
        let links = PodLinks {
            unguarded: vec!["eth0".to_owned()],
            redirecting: vec!["nk0".to_owned()],
            beside: (1..=6).map(beside).collect(),
        };
        let told = [[10, 9, 0, 1].into()];
        let text = warning((Ok(&links), own), &told).expect("a warning");
        assert!(!text.contains("no IPv4"), "{text}");
        assert!(text.contains("interface eth0"), "{text}");
        assert!(text.contains("interface nk0 is a netkit"), "{text}");
        assert!(text.contains("10.9.0.5 (net1), others"), "{text}");
        assert!(
            !text.contains("10.9.0.1") && !text.contains("10.9.0.6"),
            "{text}"
        );
    }

    #[test]
    fn a_pod_without_an_address_of_a_family_is_told_what_that_means_and_what_helps() {
        let own = PodIps::from("fd77::1".parse::<IpAddr>().expect("an address"));
        let links = PodLinks {
            beside: vec![("net1".to_owned(), [10, 9, 0, 5].into())],
            ..PodLinks::default()
        };
        let text = warning((Ok(&links), own), &[]).expect("a warning");
        assert!(text.contains("no IPv4 address"), "{text}");
        assert!(text.contains("by IPv4 is refused"), "{text}");
    }
}
