//! Maps that lost their pins, while programs of an earlier agent still use them.
//!
//! A new map of that name would be empty: the next agent would know no pod until
//! it has enrolled all of them again. The kernel still knows the old one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;

use aya::maps::{MapData, MapInfo};
use aya::programs::{ProgramError, loaded_programs};

use super::error::Error;
use super::links;
use super::pins::{self, Pins};
use crate::sys::bpf;

/// Pins again, of `names`, what has no pin and is used by a program of a pinned link.
pub(super) fn maps(pins: &Pins, names: &[String]) -> Result<(), Error> {
    let mut missing = BTreeSet::new();
    for name in names {
        if !pins::is_there(&pins.maps().join(name))? {
            missing.insert(name.as_str());
        }
    }
    let links = pins.link_names()?;
    if missing.is_empty() || links.is_empty() {
        return Ok(());
    }
    let mut programs = BTreeSet::new();
    for name in links {
        programs.extend(program_of(pins, &name)?);
    }
    // The newest first.
    for id in used_by(&programs)?.into_iter().rev() {
        let info = MapInfo::from_id(id).map_err(Error::Recover)?;
        let name = info.name_as_str().unwrap_or_default();
        if missing.remove(name) {
            let path = pins.maps().join(name);
            let map = MapData::from_id(id).map_err(Error::Recover)?;
            map.pin(&path).map_err(|e| Error::Pins {
                dir: path,
                source: std::io::Error::other(e),
            })?;
            tracing::warn!(name, "a map had lost its pin, and has it again");
        }
    }
    Ok(())
}

fn program_of(pins: &Pins, name: &str) -> Result<Option<u32>, Error> {
    let path = pins.link(name);
    let Some(link) = links::pinned(&path)? else {
        return Ok(None);
    };
    let id = bpf::link_program(link.as_fd());
    id.map(Some).map_err(|source| Error::Link { path, source })
}

/// Ids of the maps of these programs. One that ends meanwhile is not of a link's.
fn used_by(programs: &BTreeSet<u32>) -> Result<BTreeSet<u32>, Error> {
    let mut maps = BTreeSet::new();
    for program in loaded_programs() {
        let program = match program {
            Err(ProgramError::SyscallError(e)) if e.io_error.kind() == ErrorKind::NotFound => {
                continue;
            }
            program => program.map_err(Error::RecoverPrograms)?,
        };
        if programs.contains(&program.id()) {
            let ids = program.map_ids().map_err(Error::RecoverPrograms)?;
            maps.extend(ids.unwrap_or_default());
        }
    }
    Ok(maps)
}
