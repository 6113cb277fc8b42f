//! The call itself: its number, its attributes, its errors.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// bpf(2) with one member of `union bpf_attr`; what it gives.
///
/// # Safety
/// `A` has the layout of the member that the command takes, and what it points to
/// outlives the call and may be written to where the command writes.
pub(in crate::sys) unsafe fn call<A>(command: libc::c_long, attr: &mut A) -> io::Result<RawFd> {
    // SAFETY: by the caller; the size that is passed along is that of the member.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<A>()) };
    match RawFd::try_from(rc) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same, of a command that makes a descriptor.
///
/// # Safety
/// As [`call`]; and the command's answer is a descriptor.
pub(in crate::sys) unsafe fn open<A>(command: libc::c_long, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: by the caller.
    let fd = unsafe { call(command, attr) }?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel tells of an object (`BPF_OBJ_GET_INFO_BY_FD`).
///
/// # Safety
/// `I` is the beginning of what is told of objects of that kind, of integers alone.
pub(in crate::sys) unsafe fn info<I: Default>(object: BorrowedFd<'_>) -> io::Result<I> {
    const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = I::default();
    let mut attr = Attr {
        bpf_fd: object.as_raw_fd().unsigned_abs(),
        info_len: size_of::<I>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` has the layout of the info member; the kernel writes at most
    // `info_len` bytes of integers to `info`, which outlives the call.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}
