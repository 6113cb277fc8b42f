use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::symlink;

use super::*;

const UID: &str = "0b1c2d3e-0000-4000-8000-000000000001";

/// A node's processes, and namespaces that a test made.
struct Processes(tempfile::TempDir);

impl Processes {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn finder(&self) -> Finder {
        let at = |name: &str| self.0.path().join(name);
        Finder::new(Node {
            cgroups: at("kubepods"),
            proc_dir: self.0.path().to_owned(),
            netns_dir: at("netns"),
            captured: Some(Captured {
                below: at("kubepods"),
                shown_root: at("kubepods/burstable/podagent/c0"),
            }),
        })
    }

    /// A group that is there.
    fn make_group(&self, path: &str) -> PathBuf {
        let dir = self.0.path().join(path);
        std::fs::create_dir_all(&dir).expect("made");
        dir
    }

    fn start(&self, pid: u32, netns: &Netns) {
        self.start_in(pid, netns, &format!("/../../pod{UID}/c1"));
    }

    /// `group`: as the agent is shown it.
    fn start_in(&self, pid: u32, netns: &Netns, group: &str) {
        let dir = self.0.path().join(pid.to_string());
        std::fs::create_dir_all(dir.join("ns")).expect("made");
        std::fs::write(dir.join("cgroup"), format!("0::{group}\n")).expect("written");
        let own = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
        symlink(own, dir.join("ns/net")).expect("linked");
    }

    fn end(&self, pid: u32) {
        let dir = self.0.path().join(pid.to_string());
        std::fs::remove_dir_all(dir).expect("removed");
    }
}

/// A namespace with the pod's address; none without the privileges to make one.
fn sandbox() -> Option<Netns> {
    let netns = Netns::fresh().ok()?;
    let up = || {
        let mut ip = std::process::Command::new("ip");
        ip.args(["link", "set", "lo", "up"]).status()
    };
    let done = netns.run(up).expect("entered").expect("ip runs");
    assert!(done.success());
    Some(netns)
}

fn pod() -> Workload {
    let mut pod = Workload::for_test("shop", "web");
    pod.uid = UID.into();
    pod.ips.v4 = Some(std::net::Ipv4Addr::LOCALHOST);
    pod
}

fn nobodys(_: u64) -> bool {
    false
}

#[test]
fn a_process_that_ends_leaves_the_others_to_say_where_the_pod_is() {
    let Some(netns) = sandbox() else { return };
    let node = Processes::new();
    (41..=43).for_each(|pid| node.start(pid, &netns));
    let mut finder = node.finder();
    let found = finder.find(&pod(), nobodys).expect("it is found");
    assert_eq!(found.cookie(), netns.cookie());
    for pid in [41, 42] {
        node.end(pid);
        assert!(finder.is_still(&netns), "{pid}");
        let found = finder.find(&pod(), nobodys).expect("it is found");
        assert_eq!(found.cookie(), netns.cookie());
    }
    node.end(43);
    assert!(!finder.is_still(&netns));
}

#[test]
fn processes_that_have_ended_since_they_were_seen_say_nothing() {
    let Some(netns) = sandbox() else { return };
    let node = Processes::new();
    (41..=42).for_each(|pid| node.start(pid, &netns));
    let mut finder = node.finder();
    finder.find(&pod(), nobodys).expect("it is found");
    (41..=42).for_each(|pid| node.end(pid));
    let found = finder.find(&pod(), nobodys);
    assert!(matches!(found, Err(NotFound::Nowhere)), "{found:?}");
    // The number is another process' by now, which is elsewhere.
    let Some(other) = sandbox() else { return };
    node.start(41, &other);
    let is_anothers = |cookie: u64| cookie == other.cookie();
    let found = finder.find(&pod(), is_anothers);
    assert!(found.is_err(), "{found:?}");
    assert!(!finder.is_still(&netns));
}

#[test]
fn a_pod_none_of_whose_processes_has_its_address_is_without_it() {
    let Ok(netns) = Netns::fresh() else { return };
    let node = Processes::new();
    node.start(41, &netns);
    let found = node.finder().find(&pod(), nobodys);
    let without = matches!(found, Err(NotFound::WithoutAddress { .. }));
    assert!(without, "{found:?}");
}

/// As with a kubelet on systemd, and containerd left on cgroupfs.
#[test]
fn a_pod_with_a_process_whose_connects_are_not_captured_is_told_with_both_groups() {
    let Some(netns) = sandbox() else { return };
    let node = Processes::new();
    node.make_group(&format!("kubepods/burstable/pod{UID}/c1"));
    node.start(41, &netns);
    let mut finder = node.finder();
    finder
        .check_captured(UID, false)
        .expect("it is below kubepods");
    let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
    let path = format!("system.slice/containerd.service/{slice}:cri-containerd:c2");
    let group = node.make_group(&path);
    node.start_in(42, &netns, &format!("/../../../../{path}"));
    let mut finder = node.finder();
    finder.find(&pod(), nobodys).expect("it is found");
    let told = finder
        .check_captured(UID, false)
        .expect_err("it is not captured");
    assert!(matches!(told, NotFound::Elsewhere { .. }), "{told:?}");
    let told = told.to_string();
    let captured = node.0.path().join("kubepods");
    for named in [group, captured] {
        assert!(told.contains(&*named.display().to_string()), "{told}");
    }
    assert!(told.contains("SystemdCgroup = true"), "{told}");
    let others = [UID, "0b1c2d3e-0000-4000-8000-000000000002"];
    let elsewhere = finder.elsewhere(others.into_iter());
    assert_eq!(elsewhere.expect("looked at"), BTreeSet::from([UID]));
}

#[test]
fn a_process_whose_group_is_gone_or_cannot_be_seen_is_not_said_to_be_elsewhere() {
    let Some(netns) = sandbox() else { return };
    let node = Processes::new();
    let path = format!("/../../../../system.slice/pod{UID}:cri-containerd:c2");
    node.start_in(41, &netns, &path);
    node.finder()
        .check_captured(UID, false)
        .expect("it has ended");
}

#[test]
fn of_many_processes_a_few_are_remembered() {
    let Some(netns) = sandbox() else { return };
    let node = Processes::new();
    (41..=60).for_each(|pid| node.start(pid, &netns));
    let mut finder = node.finder();
    finder.find(&pod(), nobodys).expect("it is found");
    assert_eq!(finder.seen[&netns.cookie()].len(), PATHS);
}
