//! Text from elsewhere (names, paths, messages of parsers) as it may be shown.
//!
//! The one rule for logs, tables and pages: a character that would begin a line,
//! steer a terminal or change the direction of text is written as JSON writes
//! it (`\u001b`). So nobody who names an object can forge a line.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Control characters, line separators, and marks that change the direction of text.
#[must_use]
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// On one line.
#[must_use]
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// On as many lines as it has.
#[must_use]
pub(crate) fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_hidden(c))
}

/// As an escape of JSON.
#[must_use]
pub(crate) fn escape(c: char) -> String {
    let mut units = [0; 2];
    let units = c.encode_utf16(&mut units).iter();
    units.fold(String::new(), |mut text, unit| {
        // Writing to a string cannot fail.
        let _never = write!(text, "\\u{unit:04x}");
        text
    })
}

fn escaped(text: &str, hide: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hide) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hide(c) {
            true => shown.push_str(&escape(c)),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_begin_a_line_or_steer_a_terminal_is_written_out() {
        let text = "shop\nready\u{1b}[2J\u{9b}1m\u{202e}po\u{61c}hs\r\t\u{7f}";
        let shown = printable(text);
        assert_eq!(
            shown,
            "shop\\u000aready\\u001b[2J\\u009b1m\\u202epo\\u061chs\\u000d\\u0009\\u007f"
        );
        assert!(!shown.contains(is_hidden));
        assert!(printable_lines("a\nb\u{1b}").starts_with("a\nb\\u001b"));
        let plain = "spiffe://d/ns/a/sa/b é 漢";
        assert!(matches!(printable(plain), Cow::Borrowed(p) if p == plain));
    }
}
