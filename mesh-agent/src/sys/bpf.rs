//! bpf(2) calls that aya does not offer.

pub(super) mod call;
mod word;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub(crate) use word::Word;

/// A program for [`load`], its maps already in it by descriptor.
#[derive(Debug)]
pub(crate) struct Code<'c> {
    /// `BPF_PROG_TYPE_*`.
    pub(crate) kind: u32,
    /// `BPF_*`, an attach type.
    pub(crate) attach: u32,
    /// At most 15 bytes.
    pub(crate) name: &'c str,
    pub(crate) license: &'c CStr,
    /// As the kernel takes them, one of eight bytes each.
    pub(crate) instructions: &'c [u64],
}

/// Has the kernel verify and load a program (`BPF_PROG_LOAD`).
pub(crate) fn load(code: &Code<'_>) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    #[repr(C)]
    struct Attr {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach: u32,
    }
    let mut attr = Attr {
        kind: code.kind,
        instruction_count: u32::try_from(code.instructions.len()).unwrap_or(u32::MAX),
        instructions: code.instructions.as_ptr() as u64,
        license: code.license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: name(code.name),
        ifindex: 0,
        attach: code.attach,
    };
    // SAFETY: `attr` has the layout of the program member of `union bpf_attr`; the
    // instructions and the string that it points to outlive the call.
    unsafe { call::open(BPF_PROG_LOAD, &mut attr) }
}

/// As the kernel takes names: at most 15 bytes, and a zero.
fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(text.bytes().take(15)) {
        *to = from;
    }
    name
}

/// Attaches a program to a cgroup or a network namespace (`BPF_LINK_CREATE`, Linux 5.7).
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach: u32,
) -> io::Result<OwnedFd> {
    link_create_at(program, target.as_raw_fd().unsigned_abs(), attach, 0)
}

/// Attaches a classifier to an interface of the calling thread's namespace, before
/// all that are there (`BPF_LINK_CREATE` with `BPF_TCX_*`, Linux 6.6).
pub(crate) fn link_create_first(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach: u32,
) -> io::Result<OwnedFd> {
    const BPF_F_BEFORE: u32 = 1 << 3;
    link_create_at(program, ifindex, attach, BPF_F_BEFORE)
}

fn link_create_at(
    program: BorrowedFd<'_>,
    target: u32,
    attach: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    #[repr(C)]
    struct Attr {
        program_fd: u32,
        /// A descriptor, or an interface's index.
        target: u32,
        attach: u32,
        flags: u32,
    }
    let mut attr = Attr {
        program_fd: program.as_raw_fd().unsigned_abs(),
        target,
        attach,
        flags,
    };
    // SAFETY: `attr` has the layout of the link_create member of `union bpf_attr`
    //.
    unsafe { call::open(BPF_LINK_CREATE, &mut attr) }
}

/// The layout of the object member of `union bpf_attr`.
#[repr(C)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Gives a link a name on a bpf file system (`BPF_OBJ_PIN`).
pub(crate) fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    const BPF_OBJ_PIN: libc::c_long = 6;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: link.as_raw_fd().unsigned_abs(),
        file_flags: 0,
    };
    // SAFETY: `attr` has the layout that this call takes; the string that it
    // points to outlives the call.
    unsafe { call::call(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Swaps the program of a live link (`BPF_LINK_UPDATE`, Linux 5.7): no moment without one.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_UPDATE: libc::c_long = 29;
    #[repr(C)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr {
        link_fd: link.as_raw_fd().unsigned_abs(),
        new_prog_fd: program.as_raw_fd().unsigned_abs(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: `attr` has the layout of the link_update member of `union bpf_attr`
    //.
    unsafe { call::call(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Opens a pinned link (`BPF_OBJ_GET`).
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_long = 7;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: `attr` has the layout that this call takes; the string that it
    // points to outlives the call.
    unsafe { call::open(BPF_OBJ_GET, &mut attr) }
}

/// Detaches a link now (`BPF_LINK_DETACH`, Linux 5.9). Dropping its last
/// reference detaches it too, but from a work queue: a moment later.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;
    let mut link_fd = link.as_raw_fd().unsigned_abs();
    // SAFETY: the link_detach member of `union bpf_attr` is one u32, which
    // lives through the call; its size is passed along.
    unsafe { call::call(BPF_LINK_DETACH, &mut link_fd) }.map(drop)
}

/// The beginning of `struct bpf_link_info`.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    padding: u32,
    /// `cgroup.cgroup_id`, or `netns.netns_ino` or `tcx.ifindex` and an attach type.
    target: [u32; 2],
    rest: [u64; 8],
}

/// What a link is attached to: id of the cgroup, inode of the network namespace,
/// or index of the interface; 0 once it is detached. For links of these three kinds.
pub(crate) fn link_target(link: BorrowedFd<'_>) -> io::Result<u64> {
    const BPF_LINK_TYPE_NETNS: u32 = 5;
    const BPF_LINK_TYPE_TCX: u32 = 11;
    let info = link_info(link)?;
    let [first, second] = info.target;
    if matches!(info.kind, BPF_LINK_TYPE_NETNS | BPF_LINK_TYPE_TCX) {
        return Ok(first.into());
    }
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    Ok(u64::from_ne_bytes(bytes))
}

/// Id of a link's program.
pub(crate) fn link_program(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(link_info(link)?.program_id)
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: it is the beginning of `struct bpf_link_info`, integers alone.
    unsafe { call::info(link) }
}
