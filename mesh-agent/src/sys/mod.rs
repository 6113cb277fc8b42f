//! The operating system's calls that have no safe wrapper: sockets, network
//! namespaces, cgroups, routes, bpf(2), splice(2).
//!
//! The only module of the agent with `unsafe`; each block names what makes it
//! sound. Nothing here decides anything, it does what it is told once.
#![expect(unsafe_code, reason = "this module is where it is allowed")]

pub(crate) mod bpf;
pub(crate) mod cgroup;
pub(crate) mod errno;
pub(crate) mod files;
pub(crate) mod heap;
pub(crate) mod kubepods;
pub(crate) mod link;
pub(crate) mod netns;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod route;
pub(crate) mod sock_diag;
pub(crate) mod socket;
pub(crate) mod splice;
pub(crate) mod sysctl;
