//! Which programs the kernel runs at a cgroup, whoever attached them.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use super::bpf::call;

/// Programs of one cgroup and attach type that are told of; the kernel takes at
/// most 64 in each cgroup.
const MAX_PROGRAMS: usize = 256;
/// Of a program's name.
const NAME: usize = 16;

/// Ids of those that run for a process in the cgroup, its ancestors' too
/// (`BPF_PROG_QUERY`).
pub(crate) fn effective(cgroup: BorrowedFd<'_>, attach: u32) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    const BPF_F_QUERY_EFFECTIVE: u32 = 1;
    #[repr(C)]
    struct Attr {
        target_fd: u32,
        attach: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attr = Attr {
        target_fd: cgroup.as_raw_fd().unsigned_abs(),
        attach,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        ids: (&raw mut ids) as u64,
        count: MAX_PROGRAMS as u32,
        padding: 0,
    };
    // SAFETY: `attr` has the layout of the query member of `union bpf_attr`; the
    // kernel writes its count and at most as many ids as it says there is room for,
    // all of which outlive the call.
    unsafe { call::call(BPF_PROG_QUERY, &mut attr) }?;
    let count = usize::try_from(attr.count).unwrap_or(MAX_PROGRAMS);
    Ok(ids[..count.min(MAX_PROGRAMS)].to_vec())
}

/// What a program calls itself; empty where it has no name.
pub(crate) fn name(id: u32) -> io::Result<String> {
    let program = open(id)?;
    /// The beginning of `struct bpf_prog_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        before: [u64; 8],
        name: [u8; NAME],
    }
    // SAFETY: as it says, and integers alone.
    let info: Info = unsafe { call::info(program.as_fd()) }?;
    let end = info.name.iter().position(|b| *b == 0).unwrap_or(NAME);
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}

/// The program with that id.
pub(crate) fn open(id: u32) -> io::Result<OwnedFd> {
    const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
    let mut attr = [id, 0, 0];
    // SAFETY: `attr` has the layout of the member of `union bpf_attr` that this call
    // takes.
    unsafe { call::open(BPF_PROG_GET_FD_BY_ID, &mut attr) }
}
