//! `mesh_lookup` for one pod: a copy of the program that knows that pod's namespace.
//!
//! The kernel does not tell an `sk_lookup` program where it runs, so each pod has
//! a copy that knows: it reads only that pod's listeners, and its mark in a tuple
//! proves which pod a dial came to. Each reads its namespace in a map of its own, which
//! nobody writes any more, root neither, when the copy is attached. So copies can be
//! loaded before their pods are there, which is most of the time that an enrolment takes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use aya::maps::MapData;
use aya_obj::Object;
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};
use mesh_common::abi::NETNS_PLACEHOLDER;

use super::error::Error;
use super::object::OBJECT;
use crate::sys::bpf;

const NAME: &str = "mesh_lookup";
/// `BPF_LD | BPF_DW | BPF_IMM`: a constant of 64 bits, the upper half in the next instruction.
const LOAD_CONSTANT: u8 = 0x18;
/// `BPF_PSEUDO_MAP_VALUE`: what is loaded is the address of a map's value.
const MAP_VALUE: u8 = 2;
/// Copies that wait for their pods.
const SPARES: usize = 2;

/// The program with its maps, and without a namespace yet.
pub(super) struct Template {
    code: Vec<bpf_insn>,
    license: CString,
    /// What the code refers to by descriptor.
    _maps: Vec<MapData>,
    spares: RefCell<Vec<Loaded>>,
}

/// One that is loaded and has no namespace yet, and where that is to be written.
struct Loaded {
    program: OwnedFd,
    netns: bpf::Word,
}

impl Template {
    /// With the maps of these names that are pinned in the directory.
    pub(super) fn new(maps: &Path, pinned_maps: &[String]) -> Result<Self, Error> {
        let mut object = Object::parse(OBJECT).map_err(|e| Error::Load(Box::new(e.into())))?;
        let missing = || Error::Missing(NAME.to_owned());
        let program = object.programs.get(NAME).ok_or_else(missing)?;
        let (own, license) = (program.function_key(), program.license.clone());
        let mut others: HashSet<_> = object.programs.values().map(|p| p.function_key()).collect();
        others.remove(&own);
        object.programs.retain(|name, _| name == NAME);
        object.functions.retain(|key, _| !others.contains(key));
        let maps = relocate(&mut object, maps, pinned_maps)?;
        let code = object
            .functions
            .remove(&own)
            .ok_or_else(missing)?
            .instructions;
        if places(&code).next().is_none() {
            return Err(missing());
        }
        Ok(Self {
            code,
            license,
            _maps: maps,
            spares: RefCell::default(),
        })
    }

    /// The copy for this namespace.
    pub(super) fn program(&self, netns_cookie: u64) -> io::Result<OwnedFd> {
        let spare = self.spares.borrow_mut().pop();
        let Loaded { program, netns } = spare.map_or_else(|| self.load(), Ok)?;
        netns.set_for_ever(netns_cookie)?;
        Ok(program)
    }

    /// Loads what pods to come will need. Where that fails they do it for themselves,
    /// and say why they cannot.
    pub(super) fn prepare(&self) {
        let mut spares = self.spares.borrow_mut();
        while spares.len() < SPARES
            && let Ok(loaded) = self.load()
        {
            spares.push(loaded);
        }
    }

    fn load(&self) -> io::Result<Loaded> {
        let netns = bpf::Word::new("mesh_netns")?;
        let words = written(&self.code, netns.as_fd().as_raw_fd());
        let program = bpf::load(&bpf::Code {
            kind: bpf_prog_type::BPF_PROG_TYPE_SK_LOOKUP as u32,
            attach: bpf_attach_type::BPF_SK_LOOKUP as u32,
            name: NAME,
            license: &self.license,
            instructions: &words,
        })?;
        Ok(Loaded { program, netns })
    }
}

fn relocate(
    object: &mut Object,
    dir: &Path,
    pinned_maps: &[String],
) -> Result<Vec<MapData>, Error> {
    let mut maps = Vec::new();
    let mut descriptors = Vec::new();
    for name in pinned_maps {
        let path = dir.join(name);
        let failed = |source| Error::MapPin {
            path: path.clone(),
            source,
        };
        let map = MapData::from_pin(&path).map_err(failed)?;
        let defined = object.maps.get(name).cloned();
        let defined = defined.ok_or_else(|| Error::Missing(name.clone()))?;
        descriptors.push((name.as_str(), map.fd().as_fd().as_raw_fd(), defined));
        maps.push(map);
    }
    let sections = object.functions.keys().map(|(section, _)| *section);
    let sections: HashSet<usize> = sections.collect();
    let views = descriptors.iter().map(|(name, fd, map)| (*name, *fd, map));
    object
        .relocate_maps(views, &sections)
        .and_then(|()| object.relocate_calls(&sections))
        .map_err(|e| Error::Load(Box::new(e.into())))?;
    Ok(maps)
}

/// The code with the address of that map's value in the placeholder's place.
fn written(code: &[bpf_insn], map: RawFd) -> Vec<u64> {
    let mut new = code.to_vec();
    for at in places(code) {
        new[at].set_src_reg(MAP_VALUE);
        // The value's beginning.
        [new[at].imm, new[at + 1].imm] = [map, 0];
    }
    new.iter().map(word).collect()
}

/// Where the placeholder is.
fn places(code: &[bpf_insn]) -> impl Iterator<Item = usize> {
    let halves = halves(NETNS_PLACEHOLDER);
    let pairs = code.windows(2).enumerate();
    pairs.filter_map(move |(i, pair)| {
        let constant = pair[0].code == LOAD_CONSTANT && pair[0].src_reg() == 0;
        (constant && [pair[0].imm, pair[1].imm] == halves).then_some(i)
    })
}

fn halves(value: u64) -> [i32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        i32::from_le_bytes([a, b, c, d]),
        i32::from_le_bytes([e, f, g, h]),
    ]
}

fn word(instruction: &bpf_insn) -> u64 {
    let registers = instruction.src_reg() << 4 | instruction.dst_reg();
    let [low, high] = instruction.off.to_le_bytes();
    let [a, b, c, d] = instruction.imm.to_le_bytes();
    u64::from_le_bytes([instruction.code, registers, low, high, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, register: u8, imm: i32) -> bpf_insn {
        bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(register, 0),
            off: 0,
            imm,
        }
    }

    /// A load of a 64-bit constant into register 3.
    fn load(value: u64) -> [bpf_insn; 2] {
        let [low, high] = halves(value);
        [instruction(LOAD_CONSTANT, 3, low), instruction(0, 0, high)]
    }

    #[test]
    fn the_map_is_written_in_the_placeholders_place_and_nowhere_else() {
        let other = NETNS_PLACEHOLDER ^ 1;
        let code = [load(other), load(NETNS_PLACEHOLDER)].concat();
        let words = written(&code, 0x1122);
        let [first, second] = load(other);
        assert_eq!(words[..2], [word(&first), word(&second)]);
        assert_eq!(words[2], 0x0000_1122_0000_2318);
        assert_eq!(words[3], 0);
    }
}
