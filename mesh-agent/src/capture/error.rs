use std::io;
use std::path::PathBuf;

use aya::maps::MapError;

use crate::sys::errno::{remedy, told};
use crate::sys::netns::NetnsError;

const DOCTOR: &str = "`mesh-agent doctor` shows what this kernel lacks";
const AGAIN: &str = "it is tried again";

/// Why capture could not be set up; each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
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
    #[error(
        "cannot read or write pins below {dir}: {source}; {}",
        remedy(.source, "is the bpf file system mounted read-only?")
    )]
    Pins { dir: PathBuf, source: io::Error },
    #[error(
        "cannot use the cgroup {dir}: {source}; {}",
        remedy(.source, "is it a directory of a cgroup2 mount?")
    )]
    Cgroup { dir: PathBuf, source: io::Error },
    #[error(
        "another agent runs in the cgroup {dir}: give each one of its own, as a unit or a container has, or --agent-cgroup"
    )]
    SharedCgroup { dir: PathBuf },
    #[error("cannot look which connections of an agent that is gone are over: {0}")]
    Sockets(#[source] io::Error),
    #[error("the kernel refused the programs' maps; {}", remedy(.0, DOCTOR))]
    Load(#[source] Box<aya::EbpfError>),
    #[error(
        "the pin {path} is not the map that this agent would make, it is of another build; move the pods away, then run `mesh-agent cleanup`: it removes all pins, and pods that are still here are outside of the mesh until an agent has enrolled them"
    )]
    ForeignPin { path: PathBuf },
    #[error("map {name}: {}; {}", told(.source), of_map(.source))]
    Map {
        name: &'static str,
        source: MapError,
    },
    #[error("the kernel refused the program {name}; {}", remedy(.source, DOCTOR))]
    Program {
        name: String,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("cannot look for a map that lost its pin: {}; {}", told(.0), remedy(.0, DOCTOR))]
    Recover(#[source] MapError),
    #[error("cannot look for a map that lost its pin: {}; {}", told(.0), remedy(.0, DOCTOR))]
    RecoverPrograms(#[source] aya::programs::ProgramError),
    #[error("cannot open the pinned map {path}: {}; {}", told(.source), of_map(.source))]
    MapPin { path: PathBuf, source: MapError },
    #[error(
        "the kernel refused to {verb} a pod's copy of mesh_lookup: {source}; {}",
        remedy(.source, DOCTOR)
    )]
    Lookup {
        verb: &'static str,
        source: io::Error,
    },
    #[error("the kernel refused to attach {name}: {source}; {}", remedy(.source, DOCTOR))]
    Attach { name: String, source: io::Error },
    #[error(
        "cannot tell what is attached at {path}: {source}; nothing of it is changed; {}",
        remedy(.source, AGAIN)
    )]
    Link { path: PathBuf, source: io::Error },
    #[error(
        "the kernel refused to give the link {path} a new program: {source}; it keeps the one that it has; {}",
        remedy(.source, DOCTOR)
    )]
    Swap { path: PathBuf, source: io::Error },
    #[error(
        "the program that records the agent's connections was taken away while the pod's listeners were made: they are made again"
    )]
    Unrecorded,
    #[error("cannot look at the links of a pod: {}; {}", .0, remedy(.0, AGAIN))]
    Links(#[source] io::Error),
    #[error(
        "the kernel refused to guard the interface {ifindex}: {source}; {}",
        remedy(.source, DOCTOR)
    )]
    LinkGuard { ifindex: u32, source: io::Error },
    #[error("cannot look for the network namespaces of pods: {0}")]
    Search(#[source] NetnsError),
    #[error(
        "the cgroup {dir} is {depth} levels deep and the kernel programs see {} at most: its processes are not watched", mesh_common::abi::MAX_CGROUP_DEPTH - 1
    )]
    CgroupDepth { dir: PathBuf, depth: usize },
    #[error(
        "the embedded object has no usable program {0}: build it again with `cargo xtask build-ebpf`"
    )]
    Missing(String),
}

impl Error {
    /// Is it no answer? What is attached was not seen, and nothing was changed.
    pub(crate) fn is_unasked(&self) -> bool {
        matches!(
            self,
            Self::Link { .. } | Self::MapPin { .. } | Self::Links(_) | Self::Search(_)
        )
    }
}

/// Of a map that was whole when the agent began.
fn of_map(error: &MapError) -> &'static str {
    match error {
        MapError::InvalidMapType { .. }
        | MapError::InvalidKeySize { .. }
        | MapError::InvalidValueSize { .. } => {
            "another map has its pin: the agent says which when it is started again"
        }
        error => remedy(error, AGAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(errno: i32) -> Vec<Error> {
        let io = || io::Error::from_raw_os_error(errno);
        let syscall = || aya::sys::SyscallError {
            call: "bpf_obj_get",
            io_error: io(),
        };
        let path = || PathBuf::from("/sys/fs/bpf/x");
        vec![
            Error::Pins {
                dir: path(),
                source: io(),
            },
            Error::Cgroup {
                dir: path(),
                source: io(),
            },
            Error::Load(Box::new(MapError::from(syscall()).into())),
            Error::Map {
                name: "ENROLLED",
                source: syscall().into(),
            },
            Error::Program {
                name: "mesh_sockops".to_owned(),
                source: Box::new(syscall().into()),
            },
            Error::Recover(syscall().into()),
            Error::RecoverPrograms(syscall().into()),
            Error::MapPin {
                path: path(),
                source: syscall().into(),
            },
            Error::Lookup {
                verb: "load",
                source: io(),
            },
            Error::Attach {
                name: "netns-1".to_owned(),
                source: io(),
            },
            Error::Link {
                path: path(),
                source: io(),
            },
            Error::Swap {
                path: path(),
                source: io(),
            },
            Error::Links(io()),
            Error::LinkGuard {
                ifindex: 1,
                source: io(),
            },
        ]
    }

    #[test]
    fn who_has_used_up_something_is_told_what_and_never_to_let_pods_go() {
        for (errno, what) in [
            (libc::EMFILE, "LimitNOFILE"),
            (libc::ENFILE, "fs.file-max"),
            (libc::ENOMEM, "memory"),
            (libc::ENOSPC, "room"),
            (libc::EPERM, "CAP_"),
        ] {
            for error in all(errno) {
                let said = error.to_string();
                assert!(said.contains(what), "{errno}: {said}");
                assert!(!said.contains("cleanup"), "{errno}: {said}");
                assert!(!said.contains("another build"), "{errno}: {said}");
                assert!(!said.contains(DOCTOR), "the kernel lacks nothing: {said}");
            }
        }
        for error in all(libc::EINVAL) {
            assert!(!error.to_string().contains("cleanup"), "{error}");
        }
    }

    #[test]
    fn a_map_that_cannot_be_used_says_what_the_kernel_said() {
        let error = all(libc::EMFILE).remove(3);
        assert!(matches!(error, Error::Map { .. }));
        let said = error.to_string();
        assert!(said.contains("Too many open files"), "{said}");
        assert_eq!(said.matches("Too many open files").count(), 1, "{said}");
    }

    #[test]
    fn only_a_pin_of_another_build_is_said_to_be_one() {
        let size = MapError::InvalidKeySize {
            size: 4,
            expected: 8,
        };
        let error = Error::Map {
            name: "ENROLLED",
            source: size,
        };
        assert!(
            error.to_string().contains("another map has its pin"),
            "{error}"
        );
        let foreign = Error::ForeignPin {
            path: "/sys/fs/bpf/x".into(),
        };
        let said = foreign.to_string();
        assert!(
            said.contains("cleanup") && said.contains("outside of the mesh"),
            "{said}"
        );
    }
}
