//! Files and messages as the standard library has no call for them.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Has two files change their names, at one moment for whoever looks.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (one, other) = (text(one)?, text(other)?);
    // SAFETY: both are strings with an end that outlive the call.
    let rc = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A message and the descriptors beside it, which are closed with it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) length: usize,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Of the message or of its descriptors there was more.
    pub(crate) is_cut: bool,
}

/// Receives one message from a socket that keeps them apart.
pub(crate) fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Message> {
    let mut space = nix::cmsg_space!([i32; 4]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let socket = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), flags)?;
    let cut = MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC;
    let is_cut = message.flags.intersects(cut);
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: the kernel has just opened them for this process, and nobody
            // else has their numbers.
            let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
            descriptors.extend(received.into_iter().map(owned));
        }
    }
    Ok(Message {
        length: message.bytes,
        descriptors,
        is_cut,
    })
}
