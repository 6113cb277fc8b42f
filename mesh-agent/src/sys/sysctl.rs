//! Settings of the network namespace that the calling thread is in.
//!
//! In a container that is not privileged `/proc/sys` is read-only. The agent then
//! writes through a procfs of its own, which is mounted nowhere and goes with its
//! descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::OnceLock;

/// `name`: as `net.ipv4.tcp_fwmark_accept`.
pub(crate) fn read(name: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/sys/{}", path(name)))
}

pub(crate) fn write(name: &str, value: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/{}", path(name)), value) {
        Err(e) if e.raw_os_error() == Some(libc::EROFS) => {}
        written => return written,
    }
    let fd = own_procfs()?.as_raw_fd();
    std::fs::write(format!("/proc/self/fd/{fd}/sys/{}", path(name)), value)
}

fn path(name: &str) -> String {
    name.replace('.', "/")
}

/// Made once; a failure is not kept.
fn own_procfs() -> io::Result<&'static File> {
    static OWN: OnceLock<File> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let own = mount_procfs()?;
    Ok(OWN.get_or_init(|| own.into()))
}

/// `fsopen`, `fsconfig`, `fsmount` (Linux 5.2).
fn mount_procfs() -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    /// No set-uid programs, devices or programs.
    const ATTRIBUTES: libc::c_uint = 0x2 | 0x4 | 0x8;
    // SAFETY: the name is a string that ends with zero and outlives the call.
    let context = fd(unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: this command takes neither key nor value.
    let created = unsafe {
        let none = std::ptr::null::<libc::c_char>();
        let context = context.as_raw_fd();
        libc::syscall(
            libc::SYS_fsconfig,
            context,
            FSCONFIG_CMD_CREATE,
            none,
            none,
            0,
        )
    };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain numbers.
    fd(unsafe {
        let context = context.as_raw_fd();
        libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, ATTRIBUTES)
    })
}

fn fd(returned: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(returned) {
        // SAFETY: the kernel has just given it to us, and to nobody else.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
