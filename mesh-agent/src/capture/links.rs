//! Links to cgroups, network namespaces and interfaces, each held open and pinned.
//!
//! The rule of all of it: an error is not "gone". A link is replaced only where
//! the kernel says that it is attached to nothing, or to something else; the new
//! one is attached and has the pin's name before the old one goes. Whatever
//! fails, what was attached stays attached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::Error;
use super::pins;
use crate::sys::bpf;

/// A program and where it is to be attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot<'s> {
    pub(super) program: BorrowedFd<'s>,
    pub(super) target: Target<'s>,
    /// `BPF_*`, an attach type.
    pub(super) kind: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'s> {
    /// A cgroup's directory, or a network namespace.
    Object {
        fd: BorrowedFd<'s>,
        /// The cgroup's id, or the namespace's inode.
        id: u64,
    },
    /// An interface of the node's: before all programs that are there.
    Interface(u32),
}

impl Target<'_> {
    /// As [`bpf::link_target`] gives it.
    fn id(&self) -> u64 {
        match self {
            Self::Object { id, .. } => *id,
            Self::Interface(ifindex) => u64::from(*ifindex),
        }
    }
}

impl Spot<'_> {
    fn create(&self) -> io::Result<OwnedFd> {
        match self.target {
            Target::Object { fd, .. } => bpf::link_create(self.program, fd, self.kind),
            Target::Interface(ifindex) => bpf::link_create_first(self.program, ifindex, self.kind),
        }
    }
}

/// A link that this agent holds. Held, it needs no new descriptor to be looked
/// at, and removing its pin alone detaches nothing.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
    pin: PathBuf,
}

/// What was found of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Whole,
    /// It was attached, and its pin was gone: it has one again.
    PinnedAgain,
    /// The kernel says that it is attached to nothing.
    Detached,
}

impl Link {
    /// The pinned link with this program, or a new one in its place.
    pub(super) fn attach(pin: PathBuf, spot: &Spot<'_>) -> Result<Self, Error> {
        let old = pinned(&pin)?;
        let serves = match &old {
            Some(old) => target(old, &pin)? == spot.target.id() && swap(old, spot.program, &pin)?,
            None => false,
        };
        let old = match old {
            Some(fd) if serves => return Ok(Self { fd, pin }),
            old => old,
        };
        let fd = spot.create().map_err(|source| refused(&pin, source))?;
        pins::put(fd.as_fd(), &pin)?;
        if let Some(old) = old {
            // It is on another one, or on none; at once rather than a moment later.
            let _detached_already = bpf::link_detach(old.as_fd());
        }
        Ok(Self { fd, pin })
    }

    /// One that an earlier agent pinned gets this program; `None` where there is
    /// no such pin. One that is attached to nothing is given as it is.
    pub(super) fn take_over<P: AsFd>(
        pin: PathBuf,
        program: impl FnOnce() -> Result<P, Error>,
    ) -> Result<Option<Self>, Error> {
        let Some(fd) = pinned(&pin)? else {
            return Ok(None);
        };
        if target(&fd, &pin)? != 0 {
            // What it was attached to may go just now: that is looked at later.
            swap(&fd, program()?.as_fd(), &pin)?;
        }
        Ok(Some(Self { fd, pin }))
    }

    /// Looks, and gives it back a pin that was taken away. An error says
    /// nothing of the link, and nothing is done then.
    pub(super) fn look(&self) -> Result<Found, Error> {
        if target(&self.fd, &self.pin)? == 0 {
            return Ok(Found::Detached);
        }
        if pins::is_there(&self.pin)? {
            return Ok(Found::Whole);
        }
        pins::put(self.fd.as_fd(), &self.pin)?;
        Ok(Found::PinnedAgain)
    }

    /// Detaches it now, and takes its pin away.
    pub(super) fn remove(&self) -> Result<(), Error> {
        // One whose namespace or interface is gone is detached already.
        let _detached_already = bpf::link_detach(self.fd.as_fd());
        pins::remove(&self.pin)
    }
}

/// Is the link at the pin attached to something that is there?
pub(super) fn is_attached(pin: &Path) -> Result<bool, Error> {
    match pinned(pin)? {
        Some(link) => Ok(target(&link, pin)? != 0),
        None => Ok(false),
    }
}

/// The link at a pin; `None` only where there is no such pin.
pub(super) fn pinned(pin: &Path) -> Result<Option<OwnedFd>, Error> {
    match bpf::open_pin(pin) {
        Ok(link) => Ok(Some(link)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unknown(pin, source)),
    }
}

fn target(link: &OwnedFd, pin: &Path) -> Result<u64, Error> {
    bpf::link_target(link.as_fd()).map_err(|source| unknown(pin, source))
}

/// Gives a live link a new program, with no moment without one; false where
/// what it was attached to went meanwhile.
fn swap(link: &OwnedFd, program: BorrowedFd<'_>, pin: &Path) -> Result<bool, Error> {
    match bpf::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(source) => Err(Error::Swap {
            path: pin.to_owned(),
            source,
        }),
    }
}

fn unknown(pin: &Path, source: io::Error) -> Error {
    Error::Link {
        path: pin.to_owned(),
        source,
    }
}

fn refused(pin: &Path, source: io::Error) -> Error {
    Error::Attach {
        name: pin.file_name().unwrap_or_default().display().to_string(),
        source,
    }
}
