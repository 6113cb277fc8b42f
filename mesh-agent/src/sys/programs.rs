//! Which programs the kernel runs at a cgroup, whoever attached them.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Programs of one cgroup and attach type that are told of; the kernel takes at
/// most 64 in each cgroup.
const MAX_PROGRAMS: usize = 256;
/// Of a program's name.
const NAME: usize = 16;

/// Ids of those that run for a process in the cgroup, its ancestors' too
/// (`BPF_PROG_QUERY`).
pub fn effective(cgroup: BorrowedFd<'_>, attach: u32) -> io::Result<Vec<u32>> {
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
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(attr.count).unwrap_or(MAX_PROGRAMS);
    Ok(ids[..count.min(MAX_PROGRAMS)].to_vec())
}

/// What a program calls itself; empty where it has no name.
pub fn name(id: u32) -> io::Result<String> {
    let program = open(id)?;
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    /// The beginning of `struct bpf_prog_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        before: [u64; 8],
        name: [u8; NAME],
    }
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let attr = Attr {
        bpf_fd: program.as_raw_fd().unsigned_abs(),
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` has the layout of the info member of `union bpf_attr`; the kernel
    // writes at most `info_len` bytes of integers to `info`, which outlives the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = info.name.iter().position(|b| *b == 0).unwrap_or(NAME);
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}

fn open(id: u32) -> io::Result<OwnedFd> {
    const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
    let attr = [id, 0, 0];
    // SAFETY: `attr` has the layout of the member of `union bpf_attr` that this call
    // takes, and lives through it.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_GET_FD_BY_ID,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    match i32::try_from(rc) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
