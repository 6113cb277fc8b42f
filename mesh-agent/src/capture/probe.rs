//! What this kernel takes of all that capture needs, each tried once and for real.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, Program, ProgramError, SchedClassifier, TcAttachType, tc};

use aya_obj::generated::bpf_attach_type;

use super::lookup::Template;
use super::posts::LinkGuard;
use super::{OBJECT, definitions, load};
use crate::sys::bpf;
use crate::sys::netns::Netns;

/// Where it is tried; both are the caller's to make and to remove.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    /// On a bpf file system.
    pub(crate) pins: PathBuf,
    /// A cgroup2 directory without processes.
    pub(crate) cgroup: Option<PathBuf>,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) what: String,
    /// Why the kernel refused it.
    pub(crate) refused: Option<String>,
}

/// Makes the maps, loads the programs, attaches them where nothing passes.
/// What follows from something refused is not tried.
#[must_use]
pub(crate) fn probe(scratch: &Scratch) -> Vec<Tried> {
    let mut tried = Vec::new();
    let loaded = EbpfLoader::new()
        .default_map_pin_directory(&scratch.pins)
        .load(OBJECT);
    let maps = "maps (hash, per-CPU array, ring buffer, sock hash) and their pins";
    let Some(mut ebpf) = note(&mut tried, maps, loaded) else {
        return tried;
    };
    let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let Some(program) = ebpf.program_mut(&name) else {
            continue;
        };
        // Each pod has a copy of that one, made otherwise.
        if matches!(program, Program::SkLookup(_)) {
            continue;
        }
        let loaded = load(program);
        if note(&mut tried, &format!("program {name}"), loaded).is_none() {
            continue;
        }
        if let Some(attached) = attach(program, &name, scratch) {
            note(
                &mut tried,
                &format!("attaching {name}, with a pin"),
                attached,
            );
        }
    }
    let loaded = copy_of_lookup(scratch);
    if let Some(program) = note(&mut tried, "program mesh_lookup", loaded) {
        let attached = in_a_namespace_of_its_own(&program, &scratch.pins.join("link-mesh_lookup"));
        note(&mut tried, "attaching mesh_lookup, with a pin", attached);
    }
    tried
}

/// As a pod's.
fn copy_of_lookup(scratch: &Scratch) -> Result<OwnedFd, Failed> {
    let template = Template::new(&scratch.pins, &definitions::names()?)?;
    Ok(template.program(1)?)
}

fn to_cgroup(
    dir: &Path,
    attach: impl FnOnce(std::fs::File) -> Result<(), Failed>,
) -> Result<(), Failed> {
    attach(std::fs::File::open(dir)?)
}

/// `None` where there is nowhere to attach it to.
fn attach(program: &mut Program, name: &str, scratch: &Scratch) -> Option<Result<(), Failed>> {
    let pin = scratch.pins.join(format!("link-{name}"));
    match program {
        Program::CgroupSockAddr(program) => Some(to_cgroup(scratch.cgroup.as_ref()?, |dir| {
            let id = program.attach(dir, CgroupAttachMode::Single)?;
            pinned(FdLink::try_from(program.take_link(id)?)?, &pin)
        })),
        Program::SockOps(program) => Some(to_cgroup(scratch.cgroup.as_ref()?, |dir| {
            let id = program.attach(dir, CgroupAttachMode::Single)?;
            pinned(FdLink::try_from(program.take_link(id)?)?, &pin)
        })),
        Program::SchedClassifier(program) => Some(at_a_link_of_its_own(program)),
        _ => None,
    }
}

fn at_a_link_of_its_own(program: &mut SchedClassifier) -> Result<(), Failed> {
    let netns = Netns::fresh()?;
    netns.run(|| {
        if LinkGuard::of_kernel() == LinkGuard::Clsact {
            tc::qdisc_add_clsact("lo")?;
        }
        let id = program.attach("lo", TcAttachType::Ingress)?;
        Ok(program.detach(id)?)
    })?
}

/// Detached again with its pin.
fn in_a_namespace_of_its_own(program: &OwnedFd, pin: &Path) -> Result<(), Failed> {
    let netns = Netns::fresh()?;
    let kind = bpf_attach_type::BPF_SK_LOOKUP as u32;
    let link = bpf::link_create(program.as_fd(), netns.as_fd(), kind)?;
    bpf::pin(link.as_fd(), pin)?;
    Ok(std::fs::remove_file(pin)?)
}

/// Detached again with its pin.
fn pinned(link: FdLink, pin: &Path) -> Result<(), Failed> {
    let link = link.pin(pin).map_err(std::io::Error::other)?;
    drop(link.unpin()?);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Classifier(#[from] tc::TcError),
    #[error(transparent)]
    Capture(#[from] super::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Netns(#[from] crate::sys::netns::NetnsError),
}

fn note<T, E: std::error::Error>(
    tried: &mut Vec<Tried>,
    what: &str,
    result: Result<T, E>,
) -> Option<T> {
    let refused = result.as_ref().err().map(whole);
    tried.push(Tried {
        what: what.to_owned(),
        refused,
    });
    result.ok()
}

/// The error and what is behind it.
fn whole(error: &impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
