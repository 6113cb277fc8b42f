//! Lists of which only so many rows are shown.

use std::fmt::Write as _;

/// Rows that are shown.
pub(crate) const MAX_ROWS: usize = 5_000;

/// Each row as `line` writes it, or `none`; and of how many in all they are.
pub(super) fn text<R>(
    rows: &[R],
    total: usize,
    none: &str,
    line: impl Fn(&mut String, &R),
) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        text.push_str(none);
    }
    for row in rows {
        line(&mut text, row);
    }
    let left = total.saturating_sub(rows.len());
    if left > 0 {
        let _never = writeln!(text, "{left} more are not shown");
    }
    text
}
