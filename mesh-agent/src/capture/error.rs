use std::io;
use std::path::PathBuf;

/// Why capture could not be set up; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this agent was built without its kernel programs; run `cargo xtask build-ebpf` and build it again"
    )]
    NoObject,
    #[error("the agent lacks {missing}; run it as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    Privileges { missing: &'static str },
    #[error("{dir} is not on a bpf file system; mount one: mount -t bpf bpf /sys/fs/bpf")]
    NoBpffs { dir: PathBuf },
    #[error(
        "an agent that runs on this node owns the pins below {dir}: stop it first, or give another --bpffs-dir"
    )]
    Owned { dir: PathBuf },
    #[error("cannot write pins below {dir}: {source}; is the bpf file system mounted read-only?")]
    Pins { dir: PathBuf, source: io::Error },
    #[error("cannot use the cgroup {dir}: {source}; is it a directory of a cgroup2 mount?")]
    Cgroup { dir: PathBuf, source: io::Error },
    #[error(
        "the kernel refused the programs' maps; `mesh-agent doctor` shows what this kernel lacks"
    )]
    Load(#[source] Box<aya::EbpfError>),
    #[error(
        "the pin {path} is not the map that this agent would make, it is of another build; run `mesh-agent cleanup`: it removes all pins"
    )]
    ForeignPin { path: PathBuf },
    #[error("map {name}: {source}; if its pin is of another build, run `mesh-agent cleanup`")]
    Map {
        name: &'static str,
        source: aya::maps::MapError,
    },
    #[error(
        "the kernel refused the program {name}; `mesh-agent doctor` shows what this kernel lacks"
    )]
    Program {
        name: String,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("cannot look for a map that lost its pin: {0}; the agent needs CAP_SYS_ADMIN")]
    Recover(#[source] aya::maps::MapError),
    #[error("cannot look for a map that lost its pin: {0}; the agent needs CAP_SYS_ADMIN")]
    RecoverPrograms(#[source] aya::programs::ProgramError),
    #[error("cannot open the pinned map {path}: {source}")]
    MapPin {
        path: PathBuf,
        source: aya::maps::MapError,
    },
    #[error(
        "the kernel refused to {verb} a pod's copy of mesh_lookup: {source}; `mesh-agent doctor` shows what this kernel lacks"
    )]
    Lookup {
        verb: &'static str,
        source: io::Error,
    },
    #[error(
        "the kernel refused to attach {name}: {source}; `mesh-agent doctor` shows what this kernel lacks"
    )]
    Attach { name: String, source: io::Error },
    #[error(
        "cannot tell what is attached at {path}: {source}; nothing of it is changed, and it is looked at again"
    )]
    Link { path: PathBuf, source: io::Error },
    #[error(
        "the kernel refused to give the link {path} a new program: {source}; `mesh-agent cleanup` removes it"
    )]
    Swap { path: PathBuf, source: io::Error },
    #[error(
        "the program that records the agent's connections was taken away while the pod's listeners were made: they are made again"
    )]
    Unrecorded,
    #[error("cannot look at the links of a pod: {0}; the agent needs CAP_NET_ADMIN")]
    Links(#[source] io::Error),
    #[error(
        "the kernel refused to guard the interface {ifindex}: {source}; `mesh-agent doctor` shows what this kernel lacks"
    )]
    LinkGuard { ifindex: u32, source: io::Error },
    #[error(
        "the cgroup {dir} is {depth} levels deep and the kernel programs see {} at most: its processes are not watched", mesh_common::abi::MAX_CGROUP_DEPTH - 1
    )]
    CgroupDepth { dir: PathBuf, depth: usize },
    #[error(
        "the embedded object has no usable program {0}: build it again with `cargo xtask build-ebpf`"
    )]
    Missing(String),
}
