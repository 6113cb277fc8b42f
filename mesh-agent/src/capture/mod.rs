//! Loads, attaches and pins the kernel programs, and keeps their maps.
//!
//! The only module with aya. It never decides who is enrolled (`enrol` does)
//! and never touches traffic. Invariants: all pins live below
//! `BPFFS_DIR/abi-N`; every step of [`Capture::start`] may be repeated, so a
//! start that was killed half-way is completed by the next one; while any pin
//! is there, pods without an agent are refused unless they are fail-open.

mod agents;
mod clsact;
mod definitions;
mod enrolled;
mod error;
mod guards;
mod health;
mod known;
mod link_guard;
mod links;
mod lookup;
mod lost;
mod neighbours;
mod object;
mod owner;
mod pins;
mod posts;
mod privileges;
mod probe;
mod probers;
mod recover;
mod seat;
mod stats;
mod tuples;
mod versions;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError, RingBuf, SockHash};
use aya::programs::ProgramFd;
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_attach_type;
use mesh_common::abi::{PodAddr, RefusalEvent};

use crate::model::{OnAgentDown, PodIps};
use crate::sys::cgroup;
use crate::sys::netns::{self, Netns};
pub(crate) use error::Error;
use links::{Found, Link, Spot, Target};
pub(crate) use neighbours::{names, neighbours};
use object::OBJECT;
pub(crate) use owner::Owner;
use pins::Pins;
use posts::Post;
pub(crate) use posts::{LinkGuard, PodLinks};
pub(crate) use privileges::check_privileges;
pub(crate) use probe::{Scratch, Tried, probe};
pub(crate) use seat::Seat;
pub(crate) use stats::Stats;
pub(crate) use tuples::Tuples;

/// Where to attach and pin.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) bpffs_dir: PathBuf,
    /// The node's, as far as the agent sees it.
    pub(crate) cgroup_tree: PathBuf,
    /// Connect hooks see every process below it: the node's cgroup2 root.
    pub(crate) cgroup_root: PathBuf,
    /// The agent's own cgroup: exempt, and its dials are recorded.
    pub(crate) agent_cgroup: PathBuf,
    /// Below these, processes in unknown namespaces are refused.
    pub(crate) guard_cgroups: Vec<PathBuf>,
    /// The same until [`Capture::narrow_hold`] ends it, where no earlier agent left
    /// anything, or one that held itself: as after a reboot, pods may run already that
    /// are to be closed.
    pub(crate) hold: Option<PathBuf>,
    /// Of the node's own network namespace.
    pub(crate) node_cookie: u64,
    /// Where namespaces are sought of which only the cookies are known.
    pub(crate) names: netns::Names,
    pub(crate) link_guard: LinkGuard,
}

/// A program of the node's own: where it is attached, under which name.
#[derive(Clone, Debug)]
struct Hook {
    pin: String,
    program: &'static str,
    cgroup: PathBuf,
    kind: bpf_attach_type,
}

impl Config {
    /// In the order in which they are attached: what the agent dials must be
    /// known before anything is captured.
    fn hooks(&self) -> Result<Vec<Hook>, Error> {
        let connect = |program: &'static str, kind| Hook {
            pin: program.to_owned(),
            program,
            cgroup: self.cgroup_root.clone(),
            kind,
        };
        let dir = &self.agent_cgroup;
        let agent = sock_ops(pins::agent_pin(cgroup_id(dir)?), AGENT, dir);
        let mut hooks = vec![agent];
        hooks.push(connect(CONNECT4, bpf_attach_type::BPF_CGROUP_INET4_CONNECT));
        hooks.push(connect(
            "mesh_connect6",
            bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        ));
        Ok(hooks)
    }
}

const AGENT: &str = "mesh_sockops";
const CONNECT4: &str = "mesh_connect4";

fn sock_ops(pin: String, program: &'static str, dir: &Path) -> Hook {
    Hook {
        pin,
        program,
        cgroup: dir.to_owned(),
        kind: bpf_attach_type::BPF_CGROUP_SOCK_OPS,
    }
}

/// What stays in the kernel when the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnStop {
    /// Nothing: pods connect directly again.
    Remove,
    /// Everything: fail-closed pods are refused until the next agent is there.
    Keep,
}

/// One pod to capture.
#[derive(Debug)]
pub(crate) struct EnrolPod<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) ips: PodIps,
    pub(crate) on_agent_down: OnAgentDown,
    /// For each address that has none yet, one member of its listener group.
    pub(crate) listeners: &'a [(IpAddr, BorrowedFd<'a>)],
}

/// The attached programs and their maps.
pub(crate) struct Capture {
    ebpf: Ebpf,
    /// Of each pod's own program.
    lookup: lookup::Template,
    pins: Pins,
    /// Held for as long as the programs may be changed; none once another agent has them.
    owner: Option<Owner>,
    others: known::Others,
    lost: known::Lost,
    config: Config,
    /// The node's own, each with its link.
    hooks: Vec<(Hook, Link)>,
    probers: known::Probers,
    /// Of each enrolled namespace, by its cookie.
    pods: BTreeMap<u64, Link>,
    /// Maps that have a pin.
    pinned_maps: Vec<String>,
    /// Connect programs of other versions are attached.
    others_capture: bool,
    /// Agents of other versions run, and all are known to our programs, and this one to theirs.
    has_met_others: bool,
    /// Cgroups of pods that are enrolled there, to be guarded when these programs go,
    /// where not before.
    guards_wait: HashSet<u64>,
    /// cgroup ids of [`Config::guard_cgroups`].
    configured_guards: HashSet<u64>,
    /// By pod's namespace: the node's side of the links that are guarded.
    guarded_links: std::collections::HashMap<u64, Vec<u32>>,
    /// The kernel links of the guards, where the kernel has such.
    guards: BTreeMap<Post, Link>,
    /// Of searches for namespaces that something was taken from.
    seeks_missing: netns::Pace,
    /// What the last of these could not mend.
    unmended: Vec<String>,
    /// Of searches for namespaces that may be gone.
    seeks_gone: netns::Pace,
    /// Forwards the programs' own log; only objects built with `--debug-log` have one.
    forward_log: Option<Box<dyn FnMut() + Send>>,
}

impl Capture {
    /// `owner`: of the configured directory of pins.
    pub(crate) fn start(config: &Config, owner: Owner) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        check_privileges()?;
        let first = owner.found_nothing();
        let started = Self::start_pinned(config, owner);
        if started.is_err() && first {
            // Nothing of an earlier agent is lost, and the node is not half attached.
            let _shown_by_the_first_error = pins::remove_tree(&config.bpffs_dir);
        }
        started
    }

    fn start_pinned(config: &Config, owner: Owner) -> Result<Self, Error> {
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
            lookup: lookup::Template::new(&pins.maps(), &pinned_maps)?,
            pins,
            owner: Some(owner),
            others: known::Others::default(),
            lost: known::Lost::default(),
            config: config.clone(),
            hooks: Vec::new(),
            probers: known::Probers::default(),
            pods: BTreeMap::new(),
            pinned_maps,
            others_capture: false,
            has_met_others: false,
            guards_wait: HashSet::new(),
            configured_guards: HashSet::new(),
            guarded_links: std::collections::HashMap::new(),
            guards: BTreeMap::new(),
            seeks_missing: netns::Pace::default(),
            unmended: Vec::new(),
            seeks_gone: netns::Pace::default(),
        };
        // Known before the hooks run: the agent's own connects must never be refused.
        capture.join_agents(&config.agent_cgroup)?;
        capture.begin_hold()?;
        capture.read_probe_ports()?;
        capture.load_programs()?;
        // Before anything is captured: what both dial must be known to both's programs.
        capture.meet_other_versions()?;
        capture.take_over_pods()?;
        capture.relink_guards()?;
        for hook in config.hooks()? {
            let link = capture.attach_hook(&hook)?;
            capture.hooks.push((hook, link));
        }
        capture.pins.remove_unfinished()?;
        capture.lookup.prepare();
        Ok(capture)
    }

    fn map<T>(&self, name: &'static str) -> Result<T, Error>
    where
        T: TryFrom<aya::maps::Map, Error = MapError>,
    {
        map_in(&self.pins.maps(), name)
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

    fn program_fd(&self, name: &str) -> Result<&ProgramFd, Error> {
        use aya::programs::Program;
        let program = self.ebpf.program(name);
        let program = program.ok_or_else(|| Error::Missing(name.to_owned()))?;
        let fd = match program {
            Program::CgroupSockAddr(program) => program.fd(),
            Program::SockOps(program) => program.fd(),
            Program::SchedClassifier(program) => program.fd(),
            _ => return Err(Error::Missing(name.to_owned())),
        };
        fd.map_err(|source| Error::Program {
            name: name.to_owned(),
            source: Box::new(source),
        })
    }

    /// The directory is opened anew: a prober that is restarted has another one
    /// of the same name.
    fn attach_hook(&self, hook: &Hook) -> Result<Link, Error> {
        let cgroup = open_cgroup(&hook.cgroup)?;
        let spot = Spot {
            program: self.program_fd(hook.program)?.as_fd(),
            target: Target::Object {
                fd: cgroup.as_fd(),
                id: cgroup_id(&hook.cgroup)?,
            },
            kind: hook.kind as u32,
        };
        Link::attach(self.pins.link(&hook.pin), &spot)
    }

    /// Gives pods that an earlier agent enrolled this agent's program. One that is
    /// detached is no pod that is gone yet: [`Self::sweep`] tells, when those that
    /// are wanted have theirs again.
    fn take_over_pods(&mut self) -> Result<(), Error> {
        for cookie in self.pins.pod_cookies()? {
            let program = || self.lookup_for(cookie);
            if let Some(link) = Link::take_over(self.pins.pod(cookie), program)? {
                self.pods.insert(cookie, link);
            }
        }
        Ok(())
    }

    /// Of a namespace that is gone: no cookie is used twice.
    fn forget(&mut self, cookie: u64) -> Result<(), Error> {
        self.withdraw_links(cookie)?;
        self.forget_probe_ports(cookie)?;
        absent_is_fine("ENROLLED", self.enrolled_map()?.remove(&cookie))?;
        pins::remove(&self.pins.pod(cookie))?;
        self.pods.remove(&cookie);
        Ok(())
    }

    fn lookup_for(&self, netns_cookie: u64) -> Result<OwnedFd, Error> {
        let loaded = self.lookup.program(netns_cookie);
        loaded.map_err(|source| Error::Lookup {
            verb: "load",
            source,
        })
    }

    /// Is the namespace's program detached, as it is where the namespace is gone? What
    /// cannot be looked at is not.
    #[must_use]
    pub(crate) fn is_detached(&self, netns_cookie: u64) -> bool {
        let link = self.pods.get(&netns_cookie);
        link.is_some_and(|link| matches!(link.look(), Ok(Found::Detached)))
    }

    /// Is our program at the namespace, as far as it is known?
    #[must_use]
    pub(crate) fn has_program(&self, netns_cookie: u64) -> bool {
        self.pods.contains_key(&netns_cookie)
    }

    /// Where namespaces are sought of which only the cookies are known.
    #[must_use]
    pub(crate) fn names(&self) -> &netns::Names {
        &self.config.names
    }

    /// Captures a pod; may be repeated, also with changed settings, which then
    /// take the place of the old ones in one step each.
    ///
    /// Order: listeners, then the namespace's program, then the connect hook's
    /// entry, so that no connection is taken before it can be served.
    pub(crate) fn enrol(&mut self, pod: &EnrolPod<'_>) -> Result<(), Error> {
        let cookie = pod.netns.cookie();
        if !pod.listeners.is_empty() {
            self.must_have_recorded()?;
        }
        let mut listeners = self.listeners_map()?;
        for (ip, fd) in pod.listeners {
            listeners
                .insert(pod_addr(cookie, *ip), fd.as_raw_fd(), 0)
                .map_err(|source| Error::Map {
                    name: "LISTENERS",
                    source,
                })?;
        }
        let link = self.pods.get(&cookie);
        let found = link.map_or(Ok(Found::Detached), Link::look)?;
        if found == Found::Detached {
            let link = self.attach_pod(pod.netns)?;
            self.pods.insert(cookie, link);
        }
        self.write_enrolled(pod)
    }

    /// What a listener answers leaves its pod only where the agent's own program
    /// was there when it began to listen. One that is there now has been all the
    /// time: nobody but us puts it back.
    fn must_have_recorded(&self) -> Result<(), Error> {
        let agents = self.hooks.iter().find(|(hook, _)| hook.program == AGENT);
        match agents.map(|(_, link)| link.look()).transpose()? {
            Some(Found::Whole | Found::PinnedAgain) => Ok(()),
            Some(Found::Detached) | None => Err(Error::Unrecorded),
        }
    }

    fn attach_pod(&self, netns: &Netns) -> Result<Link, Error> {
        let program = self.lookup_for(netns.cookie())?;
        let spot = Spot {
            program: program.as_fd(),
            target: Target::Object {
                fd: netns.as_fd(),
                id: netns.inode(),
            },
            kind: bpf_attach_type::BPF_SK_LOOKUP as u32,
        };
        Link::attach(self.pins.pod(netns.cookie()), &spot)
    }

    /// A pod has these addresses no more; the listeners close afterwards.
    pub(crate) fn drop_addresses(&mut self, cookie: u64, ips: &[IpAddr]) -> Result<(), Error> {
        let mut listeners = self.listeners_map()?;
        for ip in ips {
            absent_is_fine("LISTENERS", listeners.remove(&pod_addr(cookie, *ip)))?;
        }
        Ok(())
    }

    /// Lets go of a pod; what is already gone is fine.
    pub(crate) fn withdraw(&mut self, cookie: u64, ips: PodIps) -> Result<(), Error> {
        self.withdraw_links(cookie)?;
        self.forget_probe_ports(cookie)?;
        absent_is_fine("ENROLLED", self.enrolled_map()?.remove(&cookie))?;
        // Known for as long as its pin is there.
        match self.pods.get(&cookie) {
            Some(link) => link.remove()?,
            None => pins::remove(&self.pins.pod(cookie))?,
        }
        self.pods.remove(&cookie);
        self.forget_in_other_versions(cookie)?;
        let ips: Vec<IpAddr> = ips.iter().collect();
        self.drop_addresses(cookie, &ips)
    }

    fn listeners_map(&self) -> Result<SockHash<MapData, PodAddr>, Error> {
        self.map("LISTENERS")
    }

    /// For the pages: counters and sizes.
    pub(crate) fn stats(&self) -> Result<Stats, Error> {
        Ok(Stats::new(self.map("COUNTERS")?, self.map("TUPLES")?))
    }

    /// For asking, from the data path, where the agent's own dials came to.
    pub(crate) fn tuples_handle(&self) -> Result<Tuples, Error> {
        Ok(Tuples::new(self.map("TUPLES")?))
    }

    /// Drains the refusal events that are there now, at most `limit`.
    pub(crate) fn refusals(&self, limit: usize) -> Result<Vec<RefusalEvent>, Error> {
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
    pub(crate) fn forward_log(&mut self) {
        if let Some(forward) = &mut self.forward_log {
            forward();
        }
    }

    /// Lets another agent have the programs, and all that is pinned. What is attached
    /// stays so; this one changes nothing any more, and adds guards of new pods alone.
    pub(crate) fn hand_over(&mut self) {
        self.owner = None;
    }

    pub(crate) fn stop(self, on_stop: OnStop) -> Result<(), Error> {
        match on_stop {
            OnStop::Keep => Ok(()),
            OnStop::Remove => remove_all(&self.config.bpffs_dir).map(drop),
        }
    }
}

/// Removes the pins of every version below `bpffs_dir`, and with them every attachment.
/// Gives the netns cookies of the pods that were enrolled. Refused while an agent runs.
pub(crate) fn cleanup(bpffs_dir: &Path) -> Result<Vec<u64>, Error> {
    if !pins::is_there(bpffs_dir)? {
        return Ok(Vec::new());
    }
    let _owner = Owner::of(bpffs_dir)?;
    remove_all(bpffs_dir)
}

/// Every version's pins below the directory, and with them every attachment; gives
/// the cookies of pods that were found.
fn remove_all(root: &Path) -> Result<Vec<u64>, Error> {
    if !pins::is_there(root)? {
        return Ok(Vec::new());
    }
    for maps in pins::map_directories(root)? {
        clsact::remove_all(&maps)?;
    }
    pins::remove_tree(root)
}

/// Opened by pin, not borrowed from the loader: typed views own their fd.
fn map_in<T>(maps: &Path, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let path = maps.join(name);
    let data = MapData::from_pin(&path).map_err(|source| Error::MapPin { path, source })?;
    let map = pins::typed(data).map_err(|source| Error::Map { name, source })?;
    T::try_from(map).map_err(|source| Error::Map { name, source })
}

fn pod_addr(netns_cookie: u64, ip: IpAddr) -> PodAddr {
    PodAddr {
        netns_cookie,
        address: ip.into(),
    }
}

/// Of removing from a map what may not be there.
fn absent_is_fine(name: &'static str, removed: Result<(), MapError>) -> Result<(), Error> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        removed => removed.map_err(|source| Error::Map { name, source }),
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
        aya::programs::Program::SockOps(p) => p.load(),
        aya::programs::Program::SchedClassifier(p) => p.load(),
        _ => Ok(()),
    }
}

/// Was this agent built with its kernel programs?
#[must_use]
pub(crate) fn has_programs() -> bool {
    !OBJECT.is_empty()
}
