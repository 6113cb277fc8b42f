//! Loads, attaches and pins the kernel programs, and keeps their maps.
//!
//! The only room with aya. It never decides who is enrolled (`project` does)
//! and never touches traffic. Invariants: all pins live below
//! `BPFFS_DIR/abi-N`; every step of [`Capture::start`] may be repeated, so a
//! start that was killed half-way is completed by the next one; while any pin
//! is there, pods without an agent are refused unless they are fail-open.

mod clsact;
mod definitions;
mod error;
mod guards;
mod health;
mod link_guard;
mod lookup;
mod pins;
mod posts;
mod privileges;
mod probe;
mod stats;
mod tuples;

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData, RingBuf, SockHash};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, SockOps};
use aya::{Ebpf, EbpfLoader};
use mesh_common::abi::{Addr, Enrolled, FLAG_FAIL_OPEN, PodAddr, RefusalEvent};

use crate::model::{OnAgentDown, PodIps};
use crate::sys::{bpf, cgroup, netns::Netns};
pub use error::Error;
use pins::Pins;
pub use posts::{LinkGuard, PodLinks};
pub use privileges::check_privileges;
pub use probe::{Scratch, Tried, probe};
pub use stats::Stats;
pub use tuples::Tuples;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf.o"));

/// Where to attach and pin.
#[derive(Clone, Debug)]
pub struct Config {
    pub bpffs_dir: PathBuf,
    /// Connect hooks see every process below it: the node's cgroup2 root.
    pub cgroup_root: PathBuf,
    /// The agent's own cgroup: exempt, and its dials are recorded.
    pub agent_cgroup: PathBuf,
    /// Probers' (kubelet's) cgroups: their connections reach applications directly.
    pub probe_cgroups: Vec<PathBuf>,
    /// Below these, processes in unknown namespaces are refused.
    pub guard_cgroups: Vec<PathBuf>,
    pub link_guard: LinkGuard,
}

impl Config {
    /// The cgroups whose own connections are recorded, each with its role.
    fn sock_ops(&self) -> Vec<(String, PathBuf)> {
        let probes = self.probe_cgroups.iter().enumerate();
        let probes = probes.map(|(i, dir)| (format!("probe-{i}"), dir.clone()));
        let agent = ("agent".to_owned(), self.agent_cgroup.clone());
        std::iter::once(agent).chain(probes).collect()
    }
}

/// What stays in the kernel when the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// Nothing: pods connect directly again.
    Remove,
    /// Everything: fail-closed pods are refused until the next agent is there.
    Keep,
}

/// One pod to capture.
#[derive(Debug)]
pub struct EnrolPod<'a> {
    pub netns: &'a Netns,
    pub ips: PodIps,
    pub on_agent_down: OnAgentDown,
    /// One member of the listener group for each of the pod's addresses.
    pub listeners: &'a [(IpAddr, BorrowedFd<'a>)],
}

/// The attached programs and their maps.
pub struct Capture {
    ebpf: Ebpf,
    /// Of each pod's own program.
    lookup: lookup::Template,
    pins: Pins,
    config: Config,
    /// Maps that have a pin.
    pinned_maps: Vec<String>,
    /// cgroup ids of [`Config::guard_cgroups`].
    configured_guards: HashSet<u64>,
    /// By pod's namespace: the node's side of the links that are guarded.
    guarded_links: std::collections::HashMap<u64, Vec<u32>>,
    /// Forwards the programs' own log; only objects built with `--debug-log` have one.
    forward_log: Option<Box<dyn FnMut() + Send>>,
}

impl Capture {
    pub fn start(config: &Config) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        check_privileges()?;
        let first = !config.bpffs_dir.exists();
        let started = Self::start_pinned(config);
        if started.is_err() && first {
            // Nothing of an earlier agent is lost, and the node is not half attached.
            let _shown_by_the_first_error = pins::remove_tree(&config.bpffs_dir);
        }
        started
    }

    fn start_pinned(config: &Config) -> Result<Self, Error> {
        let pins = Pins::prepare(&config.bpffs_dir)?;
        let pinned_maps = definitions::check(&pins)?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.maps())
            .load(OBJECT)
            .map_err(|e| Error::Load(Box::new(e)))?;
        let forward_log = forward_log(&mut ebpf);
        let mut capture = Self {
            forward_log,
            ebpf,
            lookup: lookup::Template::new(&pins, &pinned_maps)?,
            pins,
            config: config.clone(),
            pinned_maps,
            configured_guards: HashSet::new(),
            guarded_links: std::collections::HashMap::new(),
        };
        // Known before the hooks run: the agent's own connects must never be refused.
        capture.allow_agent(&config.agent_cgroup)?;
        capture.guard_configured(&config.guard_cgroups)?;
        capture.load_programs()?;
        for (role, dir) in config.sock_ops() {
            capture.attach_sock_ops(&role, &dir)?;
        }
        capture.relink_pods()?;
        capture.relink_guards()?;
        capture.attach_connect("mesh_connect4", &config.cgroup_root)?;
        capture.attach_connect("mesh_connect6", &config.cgroup_root)?;
        capture.pins.remove_other_versions()?;
        Ok(capture)
    }

    fn map<T>(&self, name: &'static str) -> Result<T, Error>
    where
        T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        // Opened by pin, not borrowed from the loader: typed views own their fd.
        let data = MapData::from_pin(self.pins.maps().join(name))
            .map_err(|source| Error::Map { name, source })?;
        let map = pins::typed(data).map_err(|source| Error::Map { name, source })?;
        T::try_from(map).map_err(|source| Error::Map { name, source })
    }

    fn allow_agent(&mut self, dir: &Path) -> Result<(), Error> {
        let mut map: HashMap<MapData, u64, u8> = self.map("AGENTS")?;
        let id = cgroup_id(dir)?;
        // A dead agent's id must not exempt whoever gets that cgroup next.
        let stale: Vec<u64> = map
            .keys()
            .filter_map(Result::ok)
            .filter(|k| *k != id)
            .collect();
        for key in stale {
            let _gone = map.remove(&key);
        }
        map.insert(id, 1, 0).map_err(|source| Error::Map {
            name: "AGENTS",
            source,
        })
    }

    fn load_programs(&mut self) -> Result<(), Error> {
        for (name, program) in self.ebpf.programs_mut() {
            // Never attached itself: each pod has a copy of its own.
            if matches!(program, aya::programs::Program::SkLookup(_)) {
                continue;
            }
            load(program).map_err(|source| Error::Program {
                name: name.to_owned(),
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    fn program<'e, T>(&'e mut self, name: &str) -> Result<&'e mut T, Error>
    where
        &'e mut T: TryFrom<&'e mut aya::programs::Program, Error = aya::programs::ProgramError>,
    {
        self.ebpf
            .program_mut(name)
            .ok_or_else(|| Error::Missing(name.to_owned()))?
            .try_into()
            .map_err(|source| Error::Program {
                name: name.to_owned(),
                source: Box::new(source),
            })
    }

    fn attach_connect(&mut self, name: &str, dir: &Path) -> Result<(), Error> {
        let pin = self.pins.link(name);
        if !health::is_attached(&pin) {
            // Of a link whose cgroup is gone, or that somebody detached.
            pins::unpin(&pin)?;
        }
        let program: &mut CgroupSockAddr = self.program(name)?;
        let fd = program.fd().map_err(|e| refused_to_attach(name, e))?;
        if pins::swap(&pin, fd.as_fd())? {
            return Ok(());
        }
        let cgroup = open_cgroup(dir)?;
        // "Single" coexists with others on links; "AllowMultiple" is EINVAL there.
        let attached = program.attach(cgroup, CgroupAttachMode::Single);
        let link = attached.and_then(|id| program.take_link(id));
        let link = link.map_err(|e| refused_to_attach(name, e))?;
        pins::pin(
            FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?,
            &pin,
        )
    }

    fn attach_sock_ops(&mut self, role: &str, dir: &Path) -> Result<(), Error> {
        // Not swapped but renewed: the cgroup of the last agent is not ours.
        let pin = self.pins.sock_ops(role);
        pins::unpin(&pin)?;
        let name = "mesh_sockops";
        let cgroup = open_cgroup(dir)?;
        let program: &mut SockOps = self.program(name)?;
        let attached = program.attach(cgroup, CgroupAttachMode::Single);
        let link = attached.and_then(|id| program.take_link(id));
        let link = link.map_err(|e| refused_to_attach(name, e))?;
        pins::pin(
            FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?,
            &pin,
        )
    }

    /// Gives pods that an earlier agent enrolled this agent's program.
    fn relink_pods(&mut self) -> Result<(), Error> {
        for cookie in self.pins.pod_cookies()? {
            let pin = self.pins.pod(cookie);
            let program = self.lookup_for(cookie)?;
            if pins::swap(&pin, program.as_fd()).is_err() {
                // Its namespace is gone: the link is dead.
                pins::unpin(&pin)?;
            }
        }
        Ok(())
    }

    fn lookup_for(&self, netns_cookie: u64) -> Result<OwnedFd, Error> {
        let loaded = self.lookup.program(netns_cookie);
        loaded.map_err(|source| Error::Lookup {
            verb: "load",
            source,
        })
    }

    /// Captures a pod; may be repeated, also with changed settings.
    ///
    /// Order: listeners, then the namespace's program, then the connect hook's
    /// entry, so that no connection is taken before it can be served.
    pub fn enrol(&mut self, pod: &EnrolPod<'_>) -> Result<(), Error> {
        let flags = match pod.on_agent_down {
            OnAgentDown::Closed => 0,
            OnAgentDown::Open => FLAG_FAIL_OPEN,
        };
        let mut listeners: SockHash<MapData, PodAddr> = self.map("LISTENERS")?;
        for (ip, fd) in pod.listeners {
            listeners
                .insert(pod_addr(pod.netns.cookie(), *ip), fd.as_raw_fd(), 0)
                .map_err(|source| Error::Map {
                    name: "LISTENERS",
                    source,
                })?;
        }
        self.attach_pod(pod.netns)?;
        let mut enrolled: HashMap<MapData, u64, Enrolled> = self.map("ENROLLED")?;
        let value = Enrolled {
            flags,
            reserved: 0,
            v4: pod
                .ips
                .v4
                .map_or(Addr::UNSET, |ip| Addr::from(IpAddr::V4(ip))),
            v6: pod
                .ips
                .v6
                .map_or(Addr::UNSET, |ip| Addr::from(IpAddr::V6(ip))),
            v6_link_local: pod
                .netns
                .link_local()
                .map_or(Addr::UNSET, |ip| Addr::from(IpAddr::V6(ip))),
        };
        enrolled
            .insert(pod.netns.cookie(), value, 0)
            .map_err(|source| Error::Map {
                name: "ENROLLED",
                source,
            })
    }

    fn attach_pod(&mut self, netns: &Netns) -> Result<(), Error> {
        let pin = self.pins.pod(netns.cookie());
        let program = self.lookup_for(netns.cookie())?;
        if pins::swap(&pin, program.as_fd())? {
            return Ok(());
        }
        let link = lookup::attach(&program, netns).map_err(|source| Error::Lookup {
            verb: "attach",
            source,
        })?;
        bpf::pin(link.as_fd(), &pin).map_err(|source| Error::Pins { dir: pin, source })
    }

    /// Lets go of a pod; what is already gone is fine.
    pub fn withdraw(&mut self, cookie: u64, ips: PodIps) -> Result<(), Error> {
        self.withdraw_links(cookie)?;
        let mut enrolled: HashMap<MapData, u64, Enrolled> = self.map("ENROLLED")?;
        let _absent = enrolled.remove(&cookie);
        pins::unpin(&self.pins.pod(cookie))?;
        let mut listeners: SockHash<MapData, PodAddr> = self.map("LISTENERS")?;
        for ip in ips.iter() {
            let _absent = listeners.remove(&pod_addr(cookie, ip));
        }
        Ok(())
    }

    /// What the kernel holds as enrolled, also what an earlier agent left.
    pub fn enrolled(&self) -> Result<Vec<(u64, PodIps)>, Error> {
        let map: HashMap<MapData, u64, Enrolled> = self.map("ENROLLED")?;
        Ok(map
            .iter()
            .filter_map(Result::ok)
            .map(|(cookie, pod)| (cookie, pod_ips(&pod)))
            .collect())
    }

    /// For the pages: counters and sizes.
    pub fn stats(&self) -> Result<Stats, Error> {
        Ok(Stats::new(self.map("COUNTERS")?, self.map("TUPLES")?))
    }

    /// For asking, from the data path, where the agent's own dials came to.
    pub fn tuples_handle(&self) -> Result<Tuples, Error> {
        Ok(Tuples::new(self.map("TUPLES")?))
    }

    /// Drains the refusal events that are there now, at most `limit`.
    pub fn refusals(&self, limit: usize) -> Result<Vec<RefusalEvent>, Error> {
        let mut ring: RingBuf<MapData> = self.map("EVENTS")?;
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(item) = ring.next()
        {
            events.extend(pins::event(&item));
        }
        Ok(events)
    }

    /// Forwards what the programs logged since the last call.
    pub fn forward_log(&mut self) {
        if let Some(forward) = &mut self.forward_log {
            forward();
        }
    }

    pub fn stop(self, on_stop: OnStop) -> Result<(), Error> {
        match on_stop {
            OnStop::Keep => Ok(()),
            OnStop::Remove => {
                clsact::remove_all(&self.pins.maps())?;
                self.pins.remove_all()
            }
        }
    }
}

/// Removes the pins of every version below `bpffs_dir`, and with them every attachment.
/// Gives the netns cookies of the pods that were enrolled.
pub fn cleanup(bpffs_dir: &Path) -> Result<Vec<u64>, Error> {
    for maps in pins::map_directories(bpffs_dir)? {
        clsact::remove_all(&maps)?;
    }
    pins::remove_tree(bpffs_dir)
}

fn pod_addr(netns_cookie: u64, ip: IpAddr) -> PodAddr {
    PodAddr {
        netns_cookie,
        address: ip.into(),
    }
}

fn pod_ips(pod: &Enrolled) -> PodIps {
    let mut ips = PodIps::default();
    for addr in [pod.v4, pod.v6] {
        match (addr.is_set(), IpAddr::from(addr)) {
            (false, _) => {}
            (true, IpAddr::V4(ip)) => ips.v4 = Some(ip),
            (true, IpAddr::V6(ip)) => ips.v6 = Some(ip),
        }
    }
    ips
}

fn refused_to_attach(name: &str, source: aya::programs::ProgramError) -> Error {
    Error::Attach {
        name: name.to_owned(),
        source: Box::new(source),
    }
}

fn open_cgroup(dir: &Path) -> Result<std::fs::File, Error> {
    std::fs::File::open(dir).map_err(|source| Error::Cgroup {
        dir: dir.to_owned(),
        source,
    })
}

fn cgroup_id(dir: &Path) -> Result<u64, Error> {
    cgroup::id(dir).map_err(|source| Error::Cgroup {
        dir: dir.to_owned(),
        source,
    })
}

fn forward_log(ebpf: &mut Ebpf) -> Option<Box<dyn FnMut() + Send>> {
    // An object without log code has no such map: nothing to forward.
    let mut logger = aya_log::EbpfLogger::init(ebpf).ok()?;
    Some(Box::new(move || logger.flush()))
}

fn load(program: &mut aya::programs::Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        aya::programs::Program::CgroupSockAddr(p) => p.load(),
        aya::programs::Program::SkLookup(p) => p.load(),
        aya::programs::Program::SockOps(p) => p.load(),
        aya::programs::Program::SchedClassifier(p) => p.load(),
        _ => Ok(()),
    }
}

/// Was this agent built with its kernel programs?
#[must_use]
pub fn has_programs() -> bool {
    !OBJECT.is_empty()
}
