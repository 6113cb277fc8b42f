//! Network namespaces: opened once, named by cookie, entered for a moment.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::model::NetnsRef;

/// Why a namespace could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error(
        "cannot open the network namespace {path}: {source}; is the pod running, and is the annotation right?"
    )]
    Open { path: PathBuf, source: io::Error },
    #[error("{0} is not a network namespace file")]
    NotANetns(PathBuf),
    #[error("no process in the cgroup {0}: its network namespace cannot be told")]
    EmptyCgroup(PathBuf),
    #[error("cannot read {path}: {source}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("cannot enter the network namespace: {0}; the agent needs CAP_SYS_ADMIN")]
    Enter(io::Error),
}

/// An open network namespace. The fd keeps it alive: drop it with the pod.
#[derive(Debug)]
pub struct Netns {
    file: File,
    cookie: u64,
    inode: u64,
}

impl Netns {
    pub fn open(reference: &NetnsRef) -> Result<Self, NetnsError> {
        match reference {
            NetnsRef::Path(path) => Self::open_path(path),
            NetnsRef::Pid(pid) => Self::open_path(Path::new(&format!("/proc/{pid}/ns/net"))),
            NetnsRef::Cgroup(dir) => {
                let path = dir.join("cgroup.procs");
                let pids = std::fs::read_to_string(&path)
                    .map_err(|source| NetnsError::Cgroup { path, source })?;
                let pid = pids.lines().next();
                let pid = pid.ok_or_else(|| NetnsError::EmptyCgroup(dir.clone()))?;
                Self::open_path(Path::new(&format!("/proc/{pid}/ns/net")))
            }
        }
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    fn open_path(path: &Path) -> Result<Self, NetnsError> {
        let opened = |source| NetnsError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(opened)?;
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
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` with the calling thread inside the namespace (about 4 us for
    /// the way there and back). `f` must not be async: the thread's namespace
    /// is what the next task would see.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        thread_local! {
            // Each thread's own namespace, opened once.
            static HOME: io::Result<File> = File::open("/proc/thread-self/ns/net");
        }
        HOME.with(|home| match home {
            Ok(home) => run_in(home, &self.file, f),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        })
    }
}

/// Opens those namespaces of `cookies` that a file or a process still gives a name to.
#[must_use]
pub fn find(cookies: &[u64]) -> Vec<Netns> {
    let mut found = Vec::new();
    for reference in named() {
        // A process that ended meanwhile has no namespace to look at.
        if let Ok(netns) = Netns::open(&reference)
            && cookies.contains(&netns.cookie())
        {
            found.push(netns);
        }
    }
    found
}

/// Every namespace that a file or a process names, once.
fn named() -> Vec<NetnsRef> {
    let entries = |dir| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
    };
    let mut inodes = std::collections::HashSet::new();
    let mut found = Vec::new();
    for entry in entries("/run/netns").chain(entries("/var/run/netns")) {
        found.push((entry.path(), NetnsRef::Path(entry.path())));
    }
    for entry in entries("/proc") {
        if let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.push((entry.path().join("ns/net"), NetnsRef::Pid(pid)));
        }
    }
    found.retain(|(path, _)| std::fs::metadata(path).is_ok_and(|m| inodes.insert(m.ino())));
    found.into_iter().map(|(_, reference)| reference).collect()
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
