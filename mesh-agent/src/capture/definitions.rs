//! Are the pinned maps what the object defines?
//!
//! The loader reuses a pin by its name alone: a map of another shape would be
//! read and written with the wrong sizes.

use aya::maps::{MapData, MapError};
use aya_obj::Object;
use aya_obj::maps::PinningType;

use super::error::Error;
use super::object::OBJECT;
use super::pins::Pins;
use super::recover;

/// Type, key size, value size, entries, flags.
type Shape = [u32; 5];

/// Of all maps that are pinned.
pub(super) fn names() -> Result<Vec<String>, Error> {
    let object = Object::parse(OBJECT).map_err(|e| Error::Load(Box::new(e.into())))?;
    let pinned = object.maps.iter();
    let pinned = pinned.filter(|(_, map)| map.pinning() == PinningType::ByName);
    Ok(pinned.map(|(name, _)| name.clone()).collect())
}

/// Puts back pins that are missing where the kernel has their maps, and compares
/// every pin that is there. Gives the names of all maps that are pinned.
pub(super) fn check(pins: &Pins) -> Result<Vec<String>, Error> {
    let object = Object::parse(OBJECT).map_err(|e| Error::Load(Box::new(e.into())))?;
    let pinned_maps = object.maps.iter();
    let pinned_maps = pinned_maps.filter(|(_, map)| map.pinning() == PinningType::ByName);
    let names: Vec<String> = pinned_maps.clone().map(|(name, _)| name.clone()).collect();
    recover::maps(pins, &names)?;
    for (name, map) in pinned_maps {
        let wanted = [
            map.map_type(),
            map.key_size(),
            map.value_size(),
            map.max_entries(),
            map.map_flags(),
        ];
        let path = pins.maps().join(name);
        if super::pins::is_there(&path)? && pinned(&path)? != Some(wanted) {
            return Err(Error::ForeignPin { path });
        }
    }
    Ok(names)
}

/// `None` where it is a map of a kind that is not known, or no map. That there are no
/// descriptors left says nothing of the pin.
fn pinned(path: &std::path::Path) -> Result<Option<Shape>, Error> {
    let info = match MapData::from_pin(path).and_then(|map| map.info()) {
        Ok(info) => info,
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() != Some(libc::EINVAL) => {
            return Err(Error::MapPin {
                path: path.to_owned(),
                source: MapError::SyscallError(e),
            });
        }
        Err(_) => return Ok(None),
    };
    let Ok(kind) = info.map_type() else {
        return Ok(None);
    };
    Ok(Some([
        kind as u32,
        info.key_size(),
        info.value_size(),
        info.max_entries(),
        info.map_flags(),
    ]))
}
