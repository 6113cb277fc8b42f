//! The kernel's tables of a pod's namespace: as long as the pod makes them.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};

/// Of one table; some 50,000 addresses.
const MAX_TABLE: u64 = 4 << 20;

/// Looks at one line after the other, until one fits. A table that is longer than can be
/// looked at says nothing of what is not in its beginning.
pub(super) fn any_line(path: &str, fits: impl FnMut(&str) -> bool) -> io::Result<bool> {
    any_line_of(File::open(path)?, fits)
}

fn any_line_of(table: impl Read, mut fits: impl FnMut(&str) -> bool) -> io::Result<bool> {
    let mut lines = BufReader::new(table.take(MAX_TABLE));
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        if !line.ends_with('\n') && lines.get_ref().limit() == 0 {
            break;
        }
        if fits(line.trim_end()) {
            return Ok(true);
        }
        line.clear();
    }
    if lines.get_ref().limit() == 0 {
        let why = "the table of its addresses is longer than can be looked at";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_an_end_says_nothing_and_costs_little() {
        let mut seen = 0;
        let endless = io::repeat(b'\n');
        let found = any_line_of(endless, |_| {
            seen += 1;
            false
        });
        let kind = found.map_err(|e| e.kind());
        assert_eq!(kind, Err(io::ErrorKind::FileTooLarge));
        assert_eq!(seen, MAX_TABLE);
        let one_line = any_line_of(io::repeat(b'a'), |_| true);
        assert!(one_line.is_err(), "a part of a line is none");
        let is_b = |line: &str| line == "b";
        assert!(any_line_of(&b"a\nb\n"[..], is_b).expect("read"));
        assert!(any_line_of(&b"a\nb"[..], is_b).expect("read"));
        assert!(!any_line_of(&b"a\nbc\n"[..], is_b).expect("read"));
    }
}
