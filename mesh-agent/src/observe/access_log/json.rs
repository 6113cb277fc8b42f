//! JSON as the log has it.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

use crate::model::text::{escape, is_hidden};

pub(super) fn append_line(out: &mut Vec<u8>, line: &impl Serialize) {
    if append_value(out, line) {
        out.push(b'\n');
    }
}

/// Nothing of one that fails.
pub(super) fn append_value(out: &mut Vec<u8>, value: &impl Serialize) -> bool {
    let before = out.len();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Printable);
    // Writing to memory does not fail; half a line must not be left if it did.
    let is_written = value.serialize(&mut serializer).is_ok();
    if !is_written {
        out.truncate(before);
    }
    is_written
}

/// JSON that is also safe to show on a terminal: every control character is
/// escaped, those that JSON itself would let through too.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly every one, and each request writes dozens.
        if fragment.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut done = 0;
        for (at, found) in fragment.char_indices().filter(|(_, c)| is_hidden(*c)) {
            writer.write_all(&fragment.as_bytes()[done..at])?;
            writer.write_all(escape(found).as_bytes())?;
            done = at + found.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[done..])
    }
}
