//! bpf(2) calls that aya does not offer.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Swaps the program of a live link (`BPF_LINK_UPDATE`, Linux 5.7): no moment without one.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_UPDATE: libc::c_long = 29;
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr = Attr {
        link_fd: link.as_raw_fd().unsigned_abs(),
        new_prog_fd: program.as_raw_fd().unsigned_abs(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: `attr` has the layout of the link_update member of `union bpf_attr`
    // and lives through the call; its size is passed along.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_UPDATE,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens a pinned link (`BPF_OBJ_GET`).
pub fn open_pin(path: &std::path::Path) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    use std::os::unix::ffi::OsStrExt as _;
    const BPF_OBJ_GET: libc::c_long = 7;
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `attr` has the layout of the object member of `union bpf_attr`;
    // the string it points to outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh fd that nobody else owns.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}

/// Detaches a link now (`BPF_LINK_DETACH`, Linux 5.9). Dropping its last
/// reference detaches it too, but from a work queue: a moment later.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;
    let link_fd = link.as_raw_fd().unsigned_abs();
    // SAFETY: the link_detach member of `union bpf_attr` is one u32, which
    // lives through the call; its size is passed along.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw const link_fd,
            size_of::<u32>(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What a link is attached to (`BPF_OBJ_GET_INFO_BY_FD`): id of the cgroup or
/// inode of the network namespace; 0 once it is detached. For links of these two kinds.
pub fn link_target(link: BorrowedFd<'_>) -> io::Result<u64> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    const BPF_LINK_TYPE_NETNS: u32 = 5;
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program_id: u32,
        padding: u32,
        /// `cgroup.cgroup_id`, or `netns.netns_ino` and `netns.attach_type`.
        target: [u32; 2],
        rest: [u64; 8],
    }
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let attr = Attr {
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` has the layout of the info member of `union bpf_attr`; the
    // kernel writes at most `info_len` bytes of integers to `info`, which
    // outlives the call.
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
    let [first, second] = info.target;
    if info.kind == BPF_LINK_TYPE_NETNS {
        return Ok(first.into());
    }
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    Ok(u64::from_ne_bytes(bytes))
}
