//! `mesh-agent doctor`: what the agent needs of this machine, each tried for real.

use std::fs;
use std::path::Path;

use crate::capture;
use crate::sys::{cgroup, netns::Netns};

/// One line of the report.
pub struct Check {
    pub what: String,
    pub present: bool,
    /// What follows where it is not.
    pub consequence: &'static str,
}

fn check(what: impl Into<String>, present: bool, consequence: &'static str) -> Check {
    Check {
        what: what.into(),
        present,
        consequence,
    }
}

#[must_use]
pub fn doctor() -> Vec<Check> {
    let mut checks = vec![
        kernel(),
        privileges(),
        cgroup2(),
        check(
            "network namespace cookies",
            Netns::current().is_ok_and(|netns| netns.cookie() != 0),
            "pods cannot be told apart: the agent will not start (Linux 5.14 has them)",
        ),
        check(
            "net.ipv4.tcp_fwmark_accept",
            Path::new("/proc/sys/net/ipv4/tcp_fwmark_accept").exists(),
            "connections cannot be delivered with the client's address: pods cannot be enrolled",
        ),
        check(
            "IPv6",
            Path::new("/proc/sys/net/ipv6").exists(),
            "pods with IPv6 addresses cannot be enrolled",
        ),
        open_files(),
        check(
            "embedded kernel programs",
            capture::has_programs(),
            "this agent was built without them: cargo xtask build-ebpf",
        ),
    ];
    checks.extend(bpffs());
    checks
}

fn kernel() -> Check {
    let release = nix::sys::utsname::uname()
        .map(|u| u.release().to_string_lossy().into_owned())
        .unwrap_or_default();
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

fn privileges() -> Check {
    check(
        "CAP_NET_ADMIN and CAP_SYS_ADMIN",
        capture::check_privileges().is_ok(),
        "run the agent as root, or give it both; it will not start without",
    )
}

fn cgroup2() -> Check {
    match cgroup::cgroup2_mount() {
        Ok(dir) => check(format!("cgroup2 mount ({})", dir.display()), true, ""),
        Err(_) => check(
            "cgroup2 mount",
            false,
            "connects cannot be captured; mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

/// Present and writable, and what the kernel takes of the programs: tried in a
/// directory of its own there.
fn bpffs() -> Vec<Check> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        (fields.next()? == "bpf").then_some(path)
    });
    let Some(mount) = mount else {
        return vec![check(
            "bpf file system",
            false,
            "state cannot be pinned; mount -t bpf bpf /sys/fs/bpf",
        )];
    };
    let scratch = Path::new(mount).join(format!("mesh-doctor-{}", std::process::id()));
    let writable = fs::create_dir(&scratch).is_ok();
    let mut checks = vec![check(
        format!("bpf file system, writable ({mount})"),
        writable,
        "state cannot be pinned; mount -o remount,rw it, as root",
    )];
    if writable {
        checks.extend(capture::probe(&scratch).into_iter().map(|(what, present)| {
            let consequence = "the kernel refuses a part of the programs: the agent will not start";
            check(what, present, consequence)
        }));
        if let Err(error) = fs::remove_dir_all(&scratch) {
            tracing::warn!(%error, dir = %scratch.display(), "cannot remove it");
        }
    }
    checks
}

fn open_files() -> Check {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let soft = limit.map_or(0, |(soft, _)| soft);
    check(
        format!("16384 open files or more (here {soft})"),
        soft >= 16_384,
        "two for each connection: lower --max-connections, or raise LimitNOFILE",
    )
}
