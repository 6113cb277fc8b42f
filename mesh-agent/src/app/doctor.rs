//! `mesh-agent doctor`: what the agent needs of this machine, each tried for real.
//!
//! Looking and judging are apart: [`report`] is pure, so that every lack can be tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::capture::{self, Scratch, Tried};
use crate::cni;
use crate::config::Chain;
use crate::io::{Limits, RECOMMENDED_OPEN_FILES};
use crate::sys::{cgroup, kubepods, netns::Netns, process};

/// One line of the report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) what: String,
    pub(crate) present: bool,
    /// Without it the agent does not start; else it does less.
    pub(crate) needed: bool,
    /// What follows where it is not.
    pub(crate) consequence: String,
}

fn check(what: impl Into<String>, present: bool, consequence: impl Into<String>) -> Check {
    Check {
        what: what.into(),
        present,
        needed: true,
        consequence: consequence.into(),
    }
}

/// Without which the agent runs, and does less.
fn wish(what: impl Into<String>, present: bool, consequence: impl Into<String>) -> Check {
    Check {
        needed: false,
        ..check(what, present, consequence)
    }
}

/// What was found here.
#[derive(Clone, Debug)]
struct Machine {
    release: String,
    privileged: bool,
    cgroup2: Option<PathBuf>,
    cookies: bool,
    fwmark_accept: bool,
    ipv6: bool,
    open_files: u64,
    programs: bool,
    bpffs: Option<Bpffs>,
    /// Of a pod that is in another part of the cgroups than the kubelet's pods.
    astray: Option<PathBuf>,
    /// Programs of others that run where pods connect.
    neighbours: BTreeSet<String>,
    /// How the CNI plugin stands, where there is a chain for it.
    plugin: Option<cni::Standing>,
}

#[derive(Clone, Debug)]
struct Bpffs {
    mount: String,
    writable: bool,
    /// What the kernel takes of the programs; empty where nothing can be pinned.
    tried: Vec<Tried>,
}

#[must_use]
pub(crate) fn doctor(chain: &Chain, run_dir: &Path) -> Vec<Check> {
    report(&Machine::look(chain, run_dir))
}

fn report(machine: &Machine) -> Vec<Check> {
    let mut checks = vec![
        kernel(&machine.release),
        check(
            "CAP_NET_ADMIN and CAP_SYS_ADMIN",
            machine.privileged,
            "run the agent as root, or give it both; it will not start without",
        ),
        cgroup2(machine.cgroup2.as_deref()),
        check(
            "network namespace cookies",
            machine.cookies,
            "pods cannot be told apart: the agent will not start (Linux 5.14 has them)",
        ),
        check(
            "net.ipv4.tcp_fwmark_accept",
            machine.fwmark_accept,
            "connections cannot be delivered with the client's address: pods cannot be enrolled",
        ),
        wish(
            "IPv6",
            machine.ipv6,
            "pods with IPv6 addresses are enrolled with IPv4 alone: connections by IPv6 are refused",
        ),
        open_files(machine.open_files),
        check(
            "embedded kernel programs",
            machine.programs,
            "this agent was built without them: cargo xtask build-ebpf",
        ),
    ];
    checks.extend(bpffs(machine.bpffs.as_ref()));
    checks.extend(machine.astray.as_deref().map(astray));
    checks.extend(neighbours(&machine.neighbours));
    checks.extend(machine.plugin.as_ref().map(plugin));
    checks
}

/// Said only where there is one.
fn astray(group: &Path) -> Check {
    let what = format!(
        "pods' processes are below the kubelet's group of all pods ({} is not)",
        group.display()
    );
    let consequence = "what such a pod connects to is not captured, and the pod is not enrolled: where the kubelet's cgroup driver is systemd, give the container runtime the same (containerd: SystemdCgroup = true; CRI-O: cgroup_manager = \"systemd\"), restart it, and the pods";
    wish(what, false, consequence)
}

/// Said only where there are any: most machines have none.
fn neighbours(found: &BTreeSet<String>) -> Option<Check> {
    let what = format!(
        "connects of pods meet nobody else's programs first (here {})",
        capture::names(found)
    );
    let consequence = "one that puts a pod's address in the place of a Service's hides the Service from the agent: mutual TLS and policies hold, what the Service says does not count; `status` tells whether it does (Cilium: socketLB.hostNamespaceOnly=true; Calico: bpfConnectTimeLoadBalancing: Disabled)";
    (!found.is_empty()).then(|| wish(what, false, consequence))
}

fn plugin(standing: &cni::Standing) -> Check {
    let what = "CNI plugin in the node's chain";
    let late = "a new pod's first containers start before it is enrolled, in plaintext until then";
    match standing {
        cni::Standing::In(file) => wish(format!("{what} ({})", file.display()), true, ""),
        other => wish(
            what,
            false,
            format!("{other}: {late}; run the agent with --cni"),
        ),
    }
}

fn open_files(limit: u64) -> Check {
    let limits = Limits::of(limit, 1);
    let enough = match limits.connections_beside(0) {
        0 => "they leave none for connections".to_owned(),
        some => format!(
            "enough for about {some} connections at once, less {} for each enrolled pod, the rest is refused",
            limits.files_of_pod().div_ceil(2)
        ),
    };
    wish(
        format!("{RECOMMENDED_OPEN_FILES} open files or more (here {limit})"),
        limit >= RECOMMENDED_OPEN_FILES,
        format!("{enough}; raise LimitNOFILE"),
    )
}

fn kernel(release: &str) -> Check {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    check(
        format!("kernel 5.17 or newer (here {release})"),
        version >= (5, 17),
        "sk_lookup cannot tell looped SYNs: the agent will not start",
    )
}

fn cgroup2(mount: Option<&Path>) -> Check {
    let consequence = "connects cannot be captured; mount -t cgroup2 none /sys/fs/cgroup";
    match mount {
        Some(dir) => check(
            format!("cgroup2 mount ({})", dir.display()),
            true,
            consequence,
        ),
        None => check("cgroup2 mount", false, consequence),
    }
}

fn bpffs(found: Option<&Bpffs>) -> Vec<Check> {
    let Some(found) = found else {
        let consequence = "state cannot be pinned; mount -t bpf bpf /sys/fs/bpf";
        return vec![check("bpf file system", false, consequence)];
    };
    let mut checks = vec![check(
        format!("bpf file system, writable ({})", found.mount),
        found.writable,
        "state cannot be pinned; mount -o remount,rw it, as root",
    )];
    checks.extend(found.tried.iter().map(|tried| {
        let why = tried.refused.as_deref().unwrap_or_default();
        let consequence = format!(
            "the agent will not start: {why}; a newer kernel has it, or a security policy forbids it (seccomp, lockdown)"
        );
        check(tried.what.clone(), tried.refused.is_none(), consequence)
    }));
    checks
}

impl Machine {
    fn look(chain: &Chain, run_dir: &Path) -> Self {
        let release = nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let cgroup2 = cgroup::cgroup2_mount().ok();
        Self {
            release,
            privileged: capture::check_privileges().is_ok(),
            cookies: Netns::current().is_ok_and(|netns| netns.cookie() != 0),
            fwmark_accept: Path::new("/proc/sys/net/ipv4/tcp_fwmark_accept").exists(),
            ipv6: Path::new("/proc/sys/net/ipv6").exists(),
            // The agent raises its soft limit to this one.
            open_files: process::open_files().unwrap_or(0),
            programs: capture::has_programs(),
            bpffs: Bpffs::look(cgroup2.as_deref()),
            astray: cgroup2
                .as_deref()
                .and_then(|tree| kubepods::elsewhere(tree).ok().flatten()),
            neighbours: cgroup2.as_deref().map(others).unwrap_or_default(),
            plugin: cni::standing(&chain.settings(run_dir)),
            cgroup2,
        }
    }
}

/// At the node's own group, and where Kubernetes has its pods. Who may not look
/// is told so by the other checks.
fn others(cgroup2: &Path) -> BTreeSet<String> {
    let pods = ["kubepods", "kubepods.slice"].map(|name| cgroup2.join(name));
    let dirs = std::iter::once(cgroup2).chain(pods.iter().map(PathBuf::as_path));
    capture::neighbours(dirs).unwrap_or_default()
}

impl Bpffs {
    fn look(cgroup2: Option<&Path>) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "bpf").then_some(path)
        })?;
        let pins = own(Path::new(mount));
        let writable = pins.is_some();
        let group = cgroup2.and_then(own);
        let tried = pins.as_ref().map(|pins| {
            capture::probe(&Scratch {
                pins: pins.clone(),
                cgroup: group.clone(),
            })
        });
        for dir in pins.iter() {
            gone(dir, fs::remove_dir_all(dir));
        }
        // The files in a cgroup are the kernel's: it goes without them.
        for dir in group.iter() {
            gone(dir, fs::remove_dir(dir));
        }
        Some(Self {
            mount: mount.to_owned(),
            writable,
            tried: tried.unwrap_or_default(),
        })
    }
}

/// A directory of our own in there; none where it cannot be made.
fn own(dir: &Path) -> Option<PathBuf> {
    let own = dir.join(format!("mesh-doctor-{}", std::process::id()));
    fs::create_dir(&own).ok().map(|()| own)
}

fn gone(dir: &Path, removed: std::io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(%error, dir = %dir.display(), "cannot remove it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Machine {
        let tried = |what: &str| Tried {
            what: what.to_owned(),
            refused: None,
        };
        Machine {
            release: "6.1.0-13-amd64".to_owned(),
            privileged: true,
            cgroup2: Some("/sys/fs/cgroup".into()),
            cookies: true,
            fwmark_accept: true,
            ipv6: true,
            open_files: 20_000,
            programs: true,
            bpffs: Some(Bpffs {
                mount: "/sys/fs/bpf".to_owned(),
                writable: true,
                tried: vec![tried("maps"), tried("program mesh_lookup")],
            }),
            astray: None,
            neighbours: BTreeSet::new(),
            plugin: Some(cni::Standing::In("/etc/cni/net.d/10-a.conflist".into())),
        }
    }

    fn missing(machine: &Machine) -> Vec<Check> {
        let checks = report(machine).into_iter();
        checks.filter(|check| !check.present).collect()
    }

    #[test]
    fn a_machine_that_has_all_of_it_lacks_nothing() {
        assert_eq!(missing(&whole()), []);
    }

    #[test]
    fn each_lack_is_one_line_that_says_what_follows() {
        type Lack = (fn(&mut Machine), &'static str);
        let lacks: [Lack; 17] = [
            (|m| m.release = "5.16.9".to_owned(), "looped SYNs"),
            (|m| m.release = "4.19".to_owned(), "looped SYNs"),
            (|m| m.privileged = false, "as root"),
            (|m| m.cgroup2 = None, "mount -t cgroup2"),
            (|m| m.cookies = false, "Linux 5.14"),
            (|m| m.fwmark_accept = false, "cannot be enrolled"),
            (|m| m.ipv6 = false, "IPv4 alone"),
            (|m| m.open_files = 1024, "LimitNOFILE"),
            (|m| m.open_files = 1024, "392 connections at once, less 4"),
            (|m| m.open_files = 128, "none for connections"),
            (|m| m.programs = false, "cargo xtask build-ebpf"),
            (|m| m.bpffs = None, "mount -t bpf"),
            (|m| bpffs_of(m).writable = false, "remount,rw"),
            (
                |m| bpffs_of(m).tried[1].refused = Some("invalid argument".to_owned()),
                "will not start: invalid argument",
            ),
            (
                |m| m.astray = Some("/sys/fs/cgroup/system.slice/x".into()),
                "SystemdCgroup = true",
            ),
            (
                |m| m.neighbours.extend(["cil_sock4_connect".to_owned()]),
                "hides the Service",
            ),
            (
                |m| m.plugin = Some(cni::Standing::Waits("10-a.conflist".into())),
                "before it is enrolled",
            ),
        ];
        for (take_away, said) in lacks {
            let mut machine = whole();
            take_away(&mut machine);
            let missing = missing(&machine);
            let [one] = &missing[..] else {
                panic!("{said}: {missing:?}");
            };
            assert!(one.consequence.contains(said), "{said:?}: {one:?}");
        }
    }

    fn bpffs_of(machine: &mut Machine) -> &mut Bpffs {
        machine.bpffs.as_mut().expect("a bpf file system")
    }
}
