//! Finds a section of a 64-bit little-endian ELF object, which is what the
//! bpf target makes.

use anyhow::{Context, Result, bail};

const SECTION_HEADER_BYTES: usize = 64;

/// The bytes of the section called `name`.
pub(crate) fn section<'a>(object: &'a [u8], name: &str) -> Result<&'a [u8]> {
    // Magic, 64-bit class, little endian.
    if !object.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF object");
    }
    let header = |index: usize| section_header(object, index);
    let count = usize::from(u16_at(object, 60)?);
    let names = contents(object, header(usize::from(u16_at(object, 62)?))?)?;
    for index in 0..count {
        let header = header(index)?;
        let name_at = size_at(header, 0)?;
        if string_at(names, name_at)? == name {
            return contents(object, header);
        }
    }
    bail!("the object has no section {name}")
}

fn section_header(object: &[u8], index: usize) -> Result<&[u8]> {
    let table = offset_at(object, 40)?;
    let start = index
        .checked_mul(SECTION_HEADER_BYTES)
        .and_then(|at| at.checked_add(table))
        .context("find a section header")?;
    slice(object, start, SECTION_HEADER_BYTES)
}

fn contents<'a>(object: &'a [u8], header: &[u8]) -> Result<&'a [u8]> {
    slice(object, offset_at(header, 24)?, offset_at(header, 32)?)
}

/// `length` bytes from `start`, or an error that says the data is cut short.
pub(crate) fn slice(data: &[u8], start: usize, length: usize) -> Result<&[u8]> {
    start
        .checked_add(length)
        .and_then(|end| data.get(start..end))
        .with_context(|| format!("read {length} bytes at {start}: the object is cut short"))
}

/// The string that ends with a zero byte, in a table of them.
pub(crate) fn string_at(table: &[u8], at: usize) -> Result<&str> {
    let rest = table
        .get(at..)
        .context("find a name: the object is cut short")?;
    let end = rest
        .iter()
        .position(|byte| *byte == 0)
        .context("find the end of a name")?;
    std::str::from_utf8(&rest[..end]).context("read a name as UTF-8")
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Result<u16> {
    let bytes = slice(data, at, 2)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Result<u32> {
    let bytes = slice(data, at, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// A 32-bit number used as a length or an offset.
pub(crate) fn size_at(data: &[u8], at: usize) -> Result<usize> {
    usize::try_from(u32_at(data, at)?).context("fit a length")
}

fn offset_at(data: &[u8], at: usize) -> Result<usize> {
    let (low, high) = (
        u64::from(u32_at(data, at)?),
        u64::from(u32_at(data, at + 4)?),
    );
    usize::try_from(low | high << 32).context("fit an offset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_refused_without_a_panic() {
        assert!(section(b"", ".BTF").is_err());
        assert!(section(b"#!/bin/sh", ".BTF").is_err());
        assert!(section(b"\x7fELF\x02\x01 and then cut short", ".BTF").is_err());
    }

    #[test]
    fn a_section_of_our_own_binary_is_found() {
        let binary = std::fs::read("/proc/self/exe").expect("read this test binary");
        assert!(!section(&binary, ".text").expect("code").is_empty());
        let missing = section(&binary, ".nope").expect_err("no such section");
        assert!(missing.to_string().contains(".nope"));
    }
}
