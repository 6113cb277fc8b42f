//! The operating system's calls that have no safe wrapper: sockets, network
//! namespaces, cgroups, routes, bpf(2), splice(2).
//!
//! The only module of the agent with `unsafe`; each block names what makes it
//! sound. Nothing here decides anything, it does what it is told once.
#![expect(unsafe_code, reason = "this module is where it is allowed")]

pub mod bpf;
pub mod cgroup;
pub mod errno;
pub mod files;
pub(crate) mod heap;
pub mod kubepods;
pub mod link;
pub mod netns;
pub mod process;
pub mod programs;
pub mod route;
pub mod sock_diag;
pub mod socket;
pub mod splice;
pub mod sysctl;
