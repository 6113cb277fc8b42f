//! The structs in an object's BTF: names, sizes, and fields with offsets.
//!
//! Only what a comparison of layouts needs; every other kind is stepped over.

use anyhow::{Context, Result, bail};

use crate::elf::{size_at, slice, string_at, u16_at, u32_at};

const MAGIC: u16 = 0xeb9f;
const POINTER_BYTES: usize = 8;
/// No C or Rust type nests deeper; a loop in broken data does.
const MAX_DEPTH: usize = 32;

/// All types of an object, by their number.
#[derive(Debug)]
pub(crate) struct Btf<'a> {
    strings: &'a [u8],
    /// Number 0 is `void` and has no record.
    types: Vec<Type<'a>>,
}

#[derive(Debug)]
struct Type<'a> {
    name: usize,
    kind: u32,
    /// Size in bytes or number of another type, by kind.
    size_or_type: usize,
    /// Members of a struct have their bit size here when set.
    bitfields: bool,
    extra: &'a [u8],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) size: usize,
    pub(crate) fields: Vec<Field>,
}

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

impl<'a> Btf<'a> {
    /// Reads a `.BTF` section.
    pub(crate) fn parse(section: &'a [u8]) -> Result<Self> {
        if u16_at(section, 0)? != MAGIC {
            bail!("the .BTF section does not begin with BTF's magic number");
        }
        let header = size_at(section, 4)?;
        let part = |at: usize| {
            slice(
                section,
                header + size_at(section, at)?,
                size_at(section, at + 4)?,
            )
        };
        let (mut rest, strings) = (part(8)?, part(16)?);
        let mut types = Vec::new();
        while !rest.is_empty() {
            let (one, after) = Type::parse(rest)?;
            types.push(one);
            rest = after;
        }
        Ok(Self { strings, types })
    }

    /// The struct called `name`; an error if two of that name differ.
    pub(crate) fn layout(&self, name: &str) -> Result<Option<Layout>> {
        let mut found: Option<Layout> = None;
        for one in self.types.iter().filter(|t| t.kind == kind::STRUCT) {
            if string_at(self.strings, one.name)? != name {
                continue;
            }
            let layout = self.layout_of(one, name)?;
            if found.as_ref().is_some_and(|other| *other != layout) {
                bail!("the object has two different structs {name}");
            }
            found = Some(layout);
        }
        Ok(found)
    }

    fn layout_of(&self, one: &Type<'_>, name: &str) -> Result<Layout> {
        let fields = one
            .extra
            .chunks_exact(12)
            .map(|member| self.field(one, member))
            .collect::<Result<_>>()
            .with_context(|| format!("read struct {name}"))?;
        Ok(Layout {
            name: name.to_owned(),
            size: one.size_or_type,
            fields,
        })
    }

    fn field(&self, parent: &Type<'_>, member: &[u8]) -> Result<Field> {
        let name = string_at(self.strings, size_at(member, 0)?)?.to_owned();
        let bits = u32_at(member, 8)?;
        let bits = if parent.bitfields {
            bits & 0x00ff_ffff
        } else {
            bits
        };
        if bits % 8 != 0 {
            bail!("field {name} begins inside a byte");
        }
        let size = self.size(size_at(member, 4)?, 0)?;
        Ok(Field {
            name,
            offset: usize::try_from(bits / 8)?,
            size,
        })
    }

    fn size(&self, number: usize, depth: usize) -> Result<usize> {
        if depth > MAX_DEPTH {
            bail!("types nest without end");
        }
        let one = number
            .checked_sub(1)
            .and_then(|index| self.types.get(index))
            .with_context(|| format!("find type {number}"))?;
        match one.kind {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => {
                Ok(one.size_or_type)
            }
            kind::PTR => Ok(POINTER_BYTES),
            kind::ARRAY => {
                let element = self.size(size_at(one.extra, 0)?, depth + 1)?;
                element
                    .checked_mul(size_at(one.extra, 8)?)
                    .context("size an array")
            }
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                self.size(one.size_or_type, depth + 1)
            }
            other => bail!("type {number} of kind {other} has no size"),
        }
    }
}

impl<'a> Type<'a> {
    /// The first record of `data`, and what follows it.
    fn parse(data: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let info = u32_at(data, 4)?;
        let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff)?);
        let length = match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
            kind::ENUM | kind::FUNC_PROTO => 8 * count,
            kind::PTR | kind::FWD | kind::TYPEDEF | kind::VOLATILE | kind::CONST => 0,
            kind::RESTRICT | kind::FUNC | kind::FLOAT | kind::TYPE_TAG => 0,
            other => bail!("unknown BTF kind {other}"),
        };
        let one = Self {
            name: size_at(data, 0)?,
            kind,
            size_or_type: size_at(data, 8)?,
            bitfields: info >> 31 != 0,
            extra: slice(data, 12, length)?,
        };
        Ok((one, &data[12 + length..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `.BTF` section with these words as types and these names.
    fn section(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let length = u32::try_from(types.len() * 4).expect("short");
        let names = u32::try_from(strings.len()).expect("short");
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length, length, names].iter().chain(types) {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    const STRINGS: &[u8] = b"\0u32\0Pair\0first\0rest\0";
    /// `struct Pair { u32 first; u32 rest[3]; }`
    const TYPES: &[u32] = &[
        1,
        1 << 24,
        4,
        32, // 1: u32
        0,
        3 << 24,
        0,
        1,
        1,
        3, // 2: u32[3]
        5,
        4 << 24 | 2,
        16,
        10,
        1,
        0,
        16,
        2,
        32, // 3: the struct
    ];

    #[test]
    fn a_struct_is_read_with_offsets_and_sizes() {
        let bytes = section(TYPES, STRINGS);
        let btf = Btf::parse(&bytes).expect("well formed");
        let field = |name: &str, offset, size| Field {
            name: name.to_owned(),
            offset,
            size,
        };
        let pair = Layout {
            name: "Pair".to_owned(),
            size: 16,
            fields: vec![field("first", 0, 4), field("rest", 4, 12)],
        };
        assert_eq!(btf.layout("Pair").expect("readable"), Some(pair));
        assert_eq!(btf.layout("Other").expect("readable"), None);
    }

    #[test]
    fn data_cut_at_any_byte_is_an_error_or_still_whole_never_a_panic() {
        let bytes = section(TYPES, STRINGS);
        for end in 0..bytes.len() {
            if let Ok(btf) = Btf::parse(&bytes[..end]) {
                let _ = btf.layout("Pair");
            }
        }
    }

    #[test]
    fn a_type_that_contains_itself_ends_in_an_error() {
        let bytes = section(&[0, 10 << 24, 1, 5, 4 << 24 | 1, 4, 10, 1, 0], STRINGS);
        let btf = Btf::parse(&bytes).expect("well formed");
        assert!(btf.layout("Pair").is_err());
    }
}
