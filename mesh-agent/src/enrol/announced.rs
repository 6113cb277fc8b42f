//! Which pods a container runtime told of.
//!
//! The runtime calls the plugin for each sandbox, if it uses the network that has the
//! plugin. A pod that runs, and that nobody told of, says that it uses another one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most pods that are remembered.
const MAX: usize = 2 * mesh_common::abi::MAX_PODS as usize;
/// A pod that was told of has its cgroup by then, or never.
const COMES: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Pod {
    /// It was not there then. Nothing of those that were there at the first look.
    not_before: Option<Instant>,
    is_told: bool,
    /// Its cgroup was seen.
    is_there: bool,
}

/// By the UID that the runtime knows.
#[derive(Debug, Default)]
pub(super) struct Announced {
    pods: BTreeMap<String, Pod>,
    looked: Option<Instant>,
}

impl Announced {
    /// The runtime told of it.
    pub(super) fn tell(&mut self, uid: &str, now: Instant) {
        if self.pods.len() >= MAX && !self.pods.contains_key(uid) {
            return;
        }
        let pod = self.pods.entry(uid.to_owned()).or_insert(Pod {
            not_before: Some(now),
            is_told: true,
            is_there: false,
        });
        pod.is_told = true;
    }

    /// These have cgroups now.
    pub(super) fn look(&mut self, now: Instant, present: &BTreeMap<String, Vec<PathBuf>>) {
        self.pods
            .retain(|uid, pod| match present.contains_key(uid) {
                true => true,
                false => {
                    let since = pod.not_before.unwrap_or(now);
                    !pod.is_there && now.saturating_duration_since(since) < COMES
                }
            });
        for uid in present.keys() {
            let is_full = self.pods.len() >= MAX;
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.is_there = true;
            } else if !is_full {
                let pod = Pod {
                    not_before: self.looked,
                    is_told: false,
                    is_there: true,
                };
                self.pods.insert(uid.clone(), pod);
            }
        }
        self.looked = Some(now);
    }

    /// Of a pod that nobody told of: a time at which it was not there yet.
    pub(super) fn untold(&self, uid: &str) -> Option<Instant> {
        let pod = self.pods.get(uid).filter(|pod| !pod.is_told);
        pod.and_then(|pod| pod.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(uids: &[&str]) -> BTreeMap<String, Vec<PathBuf>> {
        let group = |uid: &&str| ((*uid).to_owned(), Vec::new());
        uids.iter().map(group).collect()
    }

    #[test]
    fn a_pod_that_came_while_it_was_looked_and_that_nobody_told_of_is_known() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut announced = Announced::default();
        announced.look(at(0), &groups(&["before"]));
        announced.look(at(1), &groups(&["before"]));
        announced.tell("told", at(2));
        announced.look(at(2), &groups(&["before", "told", "untold"]));
        announced.look(at(3), &groups(&["before", "told", "untold"]));
        assert_eq!(
            announced.untold("before"),
            None,
            "of an earlier agent's time"
        );
        assert_eq!(announced.untold("told"), None);
        assert_eq!(announced.untold("untold"), Some(at(1)));
        // Its word may come before its cgroup is seen, and after.
        announced.tell("early", at(3));
        announced.look(at(4), &groups(&["untold"]));
        announced.look(at(5), &groups(&["untold", "early"]));
        announced.tell("untold", at(6));
        assert_eq!(announced.untold("early"), None);
        assert_eq!(announced.untold("untold"), None);
        assert_eq!(announced.pods.len(), 2, "who is gone is forgotten");
    }

    #[test]
    fn what_is_remembered_of_pods_that_never_come_has_a_bound() {
        let begun = Instant::now();
        let mut announced = Announced::default();
        for n in 0..MAX + 10 {
            announced.tell(&n.to_string(), begun);
        }
        assert_eq!(announced.pods.len(), MAX);
        announced.look(begun + COMES, &groups(&["0"]));
        assert_eq!(announced.pods.len(), 1);
    }
}
