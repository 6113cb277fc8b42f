//! Programs of others where pods connect: one that puts a pod's address in the
//! place of a Service's does it before the agent sees the connection, wherever
//! it is attached, for the mark that captures changes no address.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya_obj::generated::bpf_attach_type;

use crate::sys::programs;

/// As this agent's own are called, of all its versions.
const OWN: &str = "mesh_connect";
/// More are not told by name.
const MAX_NAMES: usize = 8;

/// Names of the others' programs that run when a process in one of these cgroups
/// connects. A cgroup that is gone has none.
pub(crate) fn neighbours<'d>(dirs: impl Iterator<Item = &'d Path>) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for dir in dirs {
        let cgroup = match File::open(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for kind in [
            bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
            bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        ] {
            for id in programs::effective(cgroup.as_fd(), kind as u32)? {
                match programs::name(id) {
                    // It went meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    named => found.extend(Some(named?).filter(|name| !name.starts_with(OWN))),
                }
            }
        }
    }
    Ok(found)
}

/// Quoted, for a sentence.
#[must_use]
pub(crate) fn names(neighbours: &BTreeSet<String>) -> String {
    let named = neighbours.iter().take(MAX_NAMES).map(|name| match &**name {
        "" => "one without a name".to_owned(),
        name => name.escape_default().to_string(),
    });
    let mut named: Vec<String> = named.collect();
    let others = neighbours.len().saturating_sub(MAX_NAMES);
    if others > 0 {
        named.push(format!("{others} more"));
    }
    named.join(", ")
}
