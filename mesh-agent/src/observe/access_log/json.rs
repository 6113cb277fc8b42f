//! JSON as the log has it.

use std::io;
use std::time::Duration;

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

/// Appends members to an object that is begun and has some. Each request writes two dozen,
/// so their names are text already, and most values need no look at all.
macro_rules! members {
    ($out:expr, $($name:literal: $value:expr),+ $(,)?) => {
        $(
            $out.extend_from_slice(concat!(",\"", $name, "\":").as_bytes());
            $crate::observe::access_log::json::Value::append(&$value, $out);
        )+
    };
}
pub(super) use members;

/// A member's value.
pub(super) trait Value {
    fn append(&self, out: &mut Vec<u8>);
}

/// One of our own words: letters, digits, `_` and the like.
pub(super) struct Word(pub(super) &'static str);

impl Value for Word {
    fn append(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.0.as_bytes());
        out.push(b'"');
    }
}

impl Value for &str {
    fn append(&self, out: &mut Vec<u8>) {
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        match self.bytes().all(is_plain) {
            true => {
                out.push(b'"');
                out.extend_from_slice(self.as_bytes());
                out.push(b'"');
            }
            // A string is always written.
            false => _ = append_value(out, self),
        }
    }
}

/// Milliseconds, to the microsecond: more digits say nothing and make lines longer.
impl Value for Duration {
    fn append(&self, out: &mut Vec<u8>) {
        let micros = u64::try_from(self.as_micros()).unwrap_or(u64::MAX);
        (micros / 1000).append(out);
        out.push(b'.');
        let rest = (micros % 1000) as u32;
        for digit in [rest / 100, rest / 10 % 10, rest % 10] {
            out.push(b'0' + digit as u8);
        }
        // At least one digit stays.
        let zeros = out.iter().rev().take(2).take_while(|d| **d == b'0').count();
        out.truncate(out.len() - zeros);
    }
}

impl Value for u64 {
    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
    }
}

impl<T: Value> Value for Option<T> {
    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.append(out),
            None => out.extend_from_slice(b"null"),
        }
    }
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
        // Nearly every one.
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
