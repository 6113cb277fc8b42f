//! Classifiers of a `clsact` discipline, for kernels without kernel links on
//! interfaces. They outlive whoever made them: what is made here is removed here.

use std::path::Path;

use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle,
};

use super::error::Error;
use super::pins;
use super::posts::Direction;
use crate::sys::link::{self, Place};

/// The first to be asked; of those the newest, as every handle is in one list.
pub(super) const PRIORITY: u16 = 1;
/// The map of links, in every version.
pub(super) const LINKS: &str = "LINKS";
/// Ours, whichever agent attached it: the next one replaces it.
pub(super) const HANDLE: TcHandle = TcHandle::new(0x6d65, 0x7368);

/// Attaches the program, in the place of the one that an earlier agent attached.
pub(super) fn attach(
    program: &mut SchedClassifier,
    ifindex: u32,
    direction: Direction,
) -> Result<(), Error> {
    let failed = |e: String| refused(ifindex, e);
    let name = link::name_of(ifindex).map_err(|e| failed(e.to_string()))?;
    match tc::qdisc_add_clsact(&name) {
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(nix::libc::EEXIST) => {}
        added => added.map_err(|e| failed(e.to_string()))?,
    }
    let id = if is_attached(ifindex, direction)? {
        let old = ours(&name, direction).map_err(|e| failed(e.to_string()))?;
        program.attach_to_link(old)
    } else {
        let options = NlOptions {
            priority: PRIORITY,
            handle: HANDLE,
            classid: None,
        };
        program.attach_with_options(&name, kind(direction), TcAttachOptions::Netlink(options))
    };
    let link = id.and_then(|id| program.take_link(id));
    // It would be detached with its owner.
    let _stays = std::mem::ManuallyDrop::new(link.map_err(|e| failed(e.to_string()))?);
    Ok(())
}

pub(super) fn is_attached(ifindex: u32, direction: Direction) -> Result<bool, Error> {
    let place = Place {
        ifindex,
        ingress: direction == Direction::Leave,
        priority: PRIORITY,
        handle: HANDLE.into(),
    };
    link::has_filter(place).map_err(Error::Links)
}

/// Is any of ours at the interface?
pub(super) fn is_at(ifindex: u32) -> Result<bool, Error> {
    Ok(is_attached(ifindex, Direction::Leave)? || is_attached(ifindex, Direction::Enter)?)
}

/// Takes ours away; what is not there is fine. The discipline stays: others may use it.
pub(super) fn remove(ifindex: u32) -> Result<(), Error> {
    for direction in [Direction::Enter, Direction::Leave] {
        if !is_attached(ifindex, direction)? {
            continue;
        }
        let name = link::name_of(ifindex).map_err(Error::Links)?;
        let link = ours(&name, direction).map_err(Error::Links)?;
        let detached = aya::programs::links::Link::detach(link);
        detached.map_err(|e| refused(ifindex, e.to_string()))?;
    }
    Ok(())
}

/// For a node whose agent is gone: takes the classifiers from the links that a
/// version's pinned map names; kernel links go with their pins.
pub(super) fn remove_all(maps: &Path) -> Result<(), Error> {
    for (ifindex, _) in named(maps)? {
        remove(ifindex)?;
    }
    Ok(())
}

/// The links that a version's pinned map names, each with its pod's namespace.
pub(super) fn named(maps: &Path) -> Result<Vec<(u32, u64)>, Error> {
    let path = maps.join(LINKS);
    // A version without it guards none.
    if !pins::is_there(&path)? {
        return Ok(Vec::new());
    }
    let opened = MapData::from_pin(&path).and_then(pins::typed);
    let failed = |source| Error::MapPin {
        path: path.clone(),
        source,
    };
    let map = HashMap::<_, u32, u64>::try_from(opened.map_err(failed)?).map_err(failed)?;
    // A part of them is no answer.
    map.iter().collect::<Result<_, _>>().map_err(failed)
}

fn ours(name: &str, direction: Direction) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(name, kind(direction), PRIORITY, HANDLE, None)
}

const fn kind(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Leave => TcAttachType::Ingress,
        Direction::Enter => TcAttachType::Egress,
    }
}

fn refused(ifindex: u32, reason: String) -> Error {
    Error::LinkGuard {
        ifindex,
        source: std::io::Error::other(reason),
    }
}
