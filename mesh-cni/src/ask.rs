//! Asks the agent of this node, once.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sockopt,
};
use nix::sys::time::TimeVal;

use crate::message::{Answer, MAX_BYTES, Request};

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nobody listens (any more): an agent may be there in a moment.
    Away(io::Error),
    /// Somebody listens and is not understood.
    Odd(String),
}

impl From<io::Error> for NoAnswer {
    fn from(error: io::Error) -> Self {
        Self::Away(error)
    }
}

impl From<nix::Error> for NoAnswer {
    fn from(error: nix::Error) -> Self {
        Self::Away(error.into())
    }
}

pub(crate) fn ask(
    path: &Path,
    request: &Request,
    netns: &File,
    deadline: Instant,
) -> Result<Answer, NoAnswer> {
    let odd = |what: &dyn std::fmt::Display| NoAnswer::Odd(what.to_string());
    let bytes = serde_json::to_vec(request).map_err(|error| odd(&error))?;
    if bytes.len() > MAX_BYTES {
        return Err(odd(&"the pod's names are too long"));
    }
    let socket = connect(path, deadline)?;
    let descriptors = [netns.as_raw_fd()];
    let beside = [ControlMessage::ScmRights(&descriptors)];
    let parts = [IoSlice::new(&bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    socket::sendmsg::<()>(socket.as_raw_fd(), &parts, &beside, flags, None)?;
    // Longer than it may be: one that is cut off must not pass for a whole one.
    let mut buffer = vec![0; MAX_BYTES + 1];
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &left(deadline)?)?;
    let length = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match length {
        // An agent that ends.
        0 => Err(NoAnswer::Away(io::ErrorKind::ConnectionReset.into())),
        length if length > MAX_BYTES => Err(odd(&"its answer is too long")),
        length => serde_json::from_slice(&buffer[..length])
            .map_err(|error| NoAnswer::Odd(format!("its answer cannot be read: {error}"))),
    }
}

fn connect(path: &Path, deadline: Instant) -> Result<OwnedFd, NoAnswer> {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    // Connecting waits for room among those that wait already.
    socket::setsockopt(&socket, sockopt::SendTimeout, &left(deadline)?)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// No time at all would mean "for ever" to the kernel.
fn left(deadline: Instant) -> Result<TimeVal, NoAnswer> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left < Duration::from_millis(1) {
        return Err(NoAnswer::Away(io::ErrorKind::TimedOut.into()));
    }
    let (seconds, micros) = (left.as_secs(), left.subsec_micros());
    Ok(TimeVal::new(
        seconds.try_into().unwrap_or(i64::MAX),
        micros.into(),
    ))
}
