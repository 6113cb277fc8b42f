//! splice(2): bytes from socket to socket through a pipe, without a copy to
//! user space and back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// A pipe: the end to read from, the end to write to. `bytes` is a wish: where
/// the system's limits say less, it is as large as pipes are.
pub(crate) fn pipe(bytes: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let _smaller = fcntl(&write, FcntlArg::F_SETPIPE_SZ(bytes));
    Ok((read, write))
}

/// Moves up to `most` bytes; one of the two must be a pipe. `WouldBlock` does
/// not say which of both it was.
pub(crate) fn transfer(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(splice(from, None, to, None, most, flags)?)
}
