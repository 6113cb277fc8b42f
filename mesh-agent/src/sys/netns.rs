//! Network namespaces: opened once, named by cookie, entered for a moment.

mod egress;
mod pace;
mod search;
mod table;

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use super::cgroup;
use super::errno::remedy;
use crate::model::{NetnsRef, PodIps};
pub(crate) use pace::Pace;
pub(crate) use search::{Names, Search, find};

/// Processes of a pod's cgroup that are looked at, at most.
const MAX_PROCESSES: usize = 64;

const RUNNING: &str = "is the pod running, and is the annotation right?";
const AGAIN: &str = "it is tried again";

/// Why a namespace could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    #[error(
        "cannot open the network namespace {path}: {source}; {}", remedy(.source, RUNNING)
    )]
    Open { path: PathBuf, source: io::Error },
    #[error("{0} is not a network namespace file")]
    NotANetns(PathBuf),
    #[error("no process in the cgroup {0}: its network namespace cannot be told")]
    EmptyCgroup(PathBuf),
    #[error(
        "cannot read the processes of the cgroup {dir}: {source}; {}", remedy(.source, RUNNING)
    )]
    Cgroup { dir: PathBuf, source: io::Error },
    #[error(
        "the network namespace {path} has no address of the pod's ({ips}): it is another's, or its network is not set up yet"
    )]
    AnotherPods { path: PathBuf, ips: String },
    #[error("cannot enter the network namespace: {}; {}", .0, remedy(.0, AGAIN))]
    Enter(#[source] io::Error),
}

/// An open network namespace. The fd keeps it alive: drop it with the pod.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    cookie: u64,
    inode: u64,
}

impl Netns {
    /// Opens a pod's namespace, which must have an address of the pod's: numbers
    /// of processes are used again, and a process may have gone elsewhere.
    pub(crate) fn open(reference: &NetnsRef, ips: PodIps) -> Result<Self, NetnsError> {
        let mut result = Err(match reference {
            NetnsRef::Cgroup(dir) => NetnsError::EmptyCgroup(dir.clone()),
            NetnsRef::Path(_) | NetnsRef::Pid(_) => NetnsError::Enter(ErrorKind::NotFound.into()),
        });
        for path in files(reference)? {
            result = Self::at(&path).and_then(|netns| netns.of(ips, &path));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// One that somebody opened for a pod, who says which addresses the pod has in
    /// it; where none are said none are asked for.
    pub(crate) fn of_pod(opened: OwnedFd, ips: PodIps) -> Result<Self, NetnsError> {
        let netns = Self::of_file(opened.into(), Path::new("that was handed over"))?;
        if ips.is_empty() {
            return Ok(netns);
        }
        netns.of(ips, Path::new("that was handed over"))
    }

    fn of(self, ips: PodIps, path: &Path) -> Result<Self, NetnsError> {
        if self.has_any(ips).map_err(NetnsError::Enter)? {
            return Ok(self);
        }
        let ips: Vec<String> = ips.iter().map(|ip| ip.to_string()).collect();
        Err(NetnsError::AnotherPods {
            path: path.to_owned(),
            ips: ips.join(", "),
        })
    }

    /// Does any of these addresses belong to the namespace?
    pub(crate) fn has_any(&self, ips: PodIps) -> io::Result<bool> {
        let any = || -> io::Result<bool> {
            for ip in ips.iter() {
                if is_address_here(ip)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        self.run(any).flatten()
    }

    /// Does the reference name another namespace by now, which is the pod's? What
    /// names none keeps this one: processes may still live in it.
    #[must_use]
    pub(crate) fn has_moved(&self, reference: &NetnsRef, ips: PodIps) -> bool {
        let Ok(files) = files(reference) else {
            return false;
        };
        // Nearly always the first one tells.
        let is_this = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|m| m.ino() == self.inode);
        if files.iter().any(is_this) {
            return false;
        }
        Self::open(reference, ips).is_ok_and(|netns| netns.cookie != self.cookie)
    }

    /// The addresses of the families that the namespace has. One without any of them is
    /// of a pod that ends, and says nothing of families: an error.
    pub(crate) fn families(&self, ips: PodIps) -> io::Result<PodIps> {
        let Some(v6) = ips.v6 else { return Ok(ips) };
        let look = || -> io::Result<PodIps> {
            if !lacks_ipv6(v6)? {
                return Ok(ips);
            }
            let v4 = ips.v4.map(IpAddr::from);
            match v4.map_or(Ok(false), is_address_here)? {
                true => Ok(PodIps { v6: None, ..ips }),
                false => Err(ErrorKind::AddrNotAvailable.into()),
            }
        };
        self.run(look)?
    }

    /// The namespace of the calling thread.
    pub(crate) fn current() -> Result<Self, NetnsError> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// One that nobody else is in.
    pub(crate) fn fresh() -> Result<Self, NetnsError> {
        // A thread of its own: the caller stays where it is.
        let made = std::thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetnsError::Enter(e.into()))?;
            Self::current()
        });
        let panicked = |_| NetnsError::Enter(ErrorKind::Other.into());
        made.join().map_err(panicked)?
    }

    /// The namespace at a path, whosever it is.
    pub(crate) fn at(path: &Path) -> Result<Self, NetnsError> {
        let opened = |source| NetnsError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(opened)?;
        Self::of_file(file, path)
    }

    /// `path`: for messages.
    fn of_file(file: File, path: &Path) -> Result<Self, NetnsError> {
        let opened = |source| NetnsError::Open {
            path: path.to_owned(),
            source,
        };
        let inode = file.metadata().map_err(opened)?.ino();
        let home = File::open("/proc/thread-self/ns/net").map_err(NetnsError::Enter)?;
        let cookie = match run_in(&home, &file, cookie_here) {
            Ok(cookie) => cookie.map_err(NetnsError::Enter)?,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                return Err(NetnsError::NotANetns(path.to_owned()));
            }
            Err(e) => return Err(NetnsError::Enter(e)),
        };
        Ok(Self {
            file,
            cookie,
            inode,
        })
    }

    /// Never used twice while the system runs, unlike the inode (`SO_NETNS_COOKIE`, Linux 5.14).
    #[must_use]
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    #[must_use]
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// The IPv6 link-local addresses of its interfaces.
    pub(crate) fn link_locals(&self) -> io::Result<Vec<Ipv6Addr>> {
        let mut found = Vec::new();
        let mut note = |line: &str| {
            let digits = line
                .get(..32)
                .and_then(|d| u128::from_str_radix(d, 16).ok());
            let ip = digits.map(Ipv6Addr::from);
            found.extend(ip.filter(Ipv6Addr::is_unicast_link_local));
            false
        };
        match self.run(|| table::any_line(IPV6_ADDRESSES, &mut note))? {
            // It has no IPv6.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
            Ok(_) => Ok(found),
        }
    }

    /// Runs `f` with the calling thread inside the namespace (about 4 us for
    /// the way there and back). `f` must not be async: the thread's namespace
    /// is what the next task would see.
    pub(crate) fn run<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        thread_local! {
            // Each thread's own namespace, opened once.
            static HOME: OnceCell<File> = const { OnceCell::new() };
        }
        HOME.with(|home| {
            let home = opened(home, || File::open("/proc/thread-self/ns/net"))?;
            run_in(home, &self.file, f)
        })
    }
}

/// What is opened once and kept. A failure is not kept: there may be a descriptor later.
fn opened(kept: &OnceCell<File>, open: impl FnOnce() -> io::Result<File>) -> io::Result<&File> {
    match kept.get() {
        Some(file) => Ok(file),
        None => {
            let file = open()?;
            Ok(kept.get_or_init(|| file))
        }
    }
}

/// The files that a reference stands for; of a cgroup one for each process.
fn files(reference: &NetnsRef) -> Result<Vec<PathBuf>, NetnsError> {
    let of_process = |pid: u32| PathBuf::from(format!("/proc/{pid}/ns/net"));
    match reference {
        NetnsRef::Path(path) => Ok(vec![path.clone()]),
        NetnsRef::Pid(pid) => Ok(vec![of_process(*pid)]),
        NetnsRef::Cgroup(dir) => {
            let pids = cgroup::processes(dir, MAX_PROCESSES);
            let pids = pids.map_err(|source| NetnsError::Cgroup {
                dir: dir.clone(),
                source,
            })?;
            Ok(pids.into_iter().map(of_process).collect())
        }
    }
}

/// Is it an address of the namespace that the calling thread is in?
fn is_address_here(ip: IpAddr) -> io::Result<bool> {
    match ip {
        // Where a foreign address can be bound as well, binding says nothing.
        IpAddr::V4(ip) => {
            Ok(can_bind(ip)?
                && (!can_bind(NOBODYS)? || table::any_line(IPV4_ROUTES, is_local(ip))?))
        }
        // Also one that is still being checked for duplicates.
        IpAddr::V6(ip) => {
            let own = digits(ip);
            match table::any_line(IPV6_ADDRESSES, |line| line.starts_with(&own)) {
                // It has no IPv6.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
                found => found,
            }
        }
    }
}

/// RFC 5737.
const NOBODYS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// True of a foreign address, too, in a namespace that never had one, for it has no
/// table of local ones yet, and where `ip_nonlocal_bind` is set.
fn can_bind(ip: Ipv4Addr) -> io::Result<bool> {
    // The address is asked for before a port: all ports may be in use.
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => Ok(true),
        Err(e) => match e.kind() {
            ErrorKind::AddrInUse => Ok(true),
            ErrorKind::AddrNotAvailable => Ok(false),
            _ => Err(e),
        },
    }
}

const IPV4_ROUTES: &str = "/proc/thread-self/net/fib_trie";

/// An address, and below it what it is, as the kernel prints its routes.
fn is_local(ip: Ipv4Addr) -> impl FnMut(&str) -> bool {
    let own = format!("|-- {ip}");
    let mut is_own = false;
    move |line| {
        let line = line.trim();
        if !line.starts_with('/') {
            is_own = line == own;
        }
        is_own && line == "/32 host LOCAL"
    }
}

const IPV6_ADDRESSES: &str = "/proc/thread-self/net/if_inet6";

/// Has the namespace of the calling thread neither this address nor any other
/// one that routers forward? So it is where IPv6 is switched off on its devices,
/// or not in the kernel.
fn lacks_ipv6(ip: Ipv6Addr) -> io::Result<bool> {
    const GLOBAL: &str = "00";
    let is_global = |line: &str| line.split_ascii_whitespace().nth(3) == Some(GLOBAL);
    let own = digits(ip);
    match table::any_line(IPV6_ADDRESSES, |l| is_global(l) || l.starts_with(&own)) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        found => found.map(|found| !found),
    }
}

/// As an address stands there.
fn digits(ip: Ipv6Addr) -> String {
    format!("{:032x}", u128::from(ip))
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn run_in<T>(home: &File, there: &File, f: impl FnOnce() -> T) -> io::Result<T> {
    /// Goes home also when `f` panics; a thread that cannot would run other
    /// tasks in a pod's namespace, so the process ends.
    struct GoHome<'h>(&'h File);
    impl Drop for GoHome<'_> {
        fn drop(&mut self) {
            if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
                std::process::abort();
            }
        }
    }
    setns(there, CloneFlags::CLONE_NEWNET)?;
    let _home = GoHome(home);
    Ok(f())
}

/// The cookie of the namespace that the calling thread is in.
fn cookie_here() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the buffer is eight bytes long, as `len` says, and outlives the call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if rc == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::errno;

    #[test]
    fn a_namespace_whose_addresses_are_taken_away_says_nothing_of_families() {
        let Ok(ended) = Netns::fresh() else {
            // Making one needs privileges.
            return;
        };
        let v6 = Some("fd00:9::9".parse().expect("an address"));
        for v4 in [Some([10, 9, 9, 9].into()), None] {
            let said = ended.families(PodIps { v4, v6 });
            assert!(said.is_err(), "{said:?}");
        }
    }

    /// As one that a runtime has just made for some other pod.
    #[test]
    fn a_namespace_that_never_had_an_address_is_nobodys() {
        let Ok(made) = Netns::fresh() else {
            // Making one needs privileges.
            return;
        };
        let v4 = Some([10, 9, 9, 9].into());
        let any = made.has_any(PodIps { v4, v6: None });
        assert!(!any.expect("it can be looked at"));
    }

    /// As in a pod of keepalived.
    #[test]
    fn where_any_address_can_be_bound_the_kernels_routes_say_which_are_its_own() {
        let Ok(any) = Netns::fresh() else { return };
        let bind_any = || crate::sys::sysctl::write("net.ipv4.ip_nonlocal_bind", "1");
        any.run(bind_any).expect("entered").expect("set");
        let (own, other) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 9, 9, 9));
        let has = |v4| {
            any.has_any(PodIps {
                v4: Some(v4),
                v6: None,
            })
        };
        assert!(!has(other).expect("looked at"));
        let routes = "Main:\n  |-- 127.0.0.1\n     /32 link UNICAST\nLocal:\n  |-- 10.9.9.0\n     /24 link UNICAST\n  |-- 127.0.0.1\n     /32 host LOCAL\n  |-- 127.255.255.255\n     /32 link BROADCAST\n";
        let is_in = |ip| routes.lines().any(is_local(ip));
        assert!(is_in(own) && !is_in(other));
        assert!(!is_in(Ipv4Addr::new(127, 255, 255, 255)));
        assert!(!is_in(Ipv4Addr::new(10, 9, 9, 0)));
    }

    #[test]
    fn a_thread_that_once_had_no_descriptor_for_its_home_finds_it_later() {
        let kept = OnceCell::new();
        let short = || Err(io::Error::from_raw_os_error(libc::EMFILE));
        let error = opened(&kept, short).expect_err("none is left");
        assert!(errno::is_shortage(&error), "{error}");
        opened(&kept, || File::open("/dev/null")).expect("there is one now");
        opened(&kept, || unreachable!("it is kept")).expect("opened once");
    }
}
