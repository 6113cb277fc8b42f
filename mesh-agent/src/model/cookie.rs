//! Cookies, as requests bring them and answers set them (RFC 6265).

use std::fmt::Write as _;

use super::{HeaderEdit, RequestHead};

/// Each value that there is of that name, in their order, without quotes.
pub(crate) fn values<'h>(head: &RequestHead<'h>, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let lines = head.values("cookie");
    let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        let value = value.strip_prefix(b"=")?.trim_ascii();
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|rest| rest.strip_suffix(b"\""));
        Some(quoted.unwrap_or(value))
    })
}

/// What `Path` may say: nothing that begins another attribute.
#[must_use]
pub(crate) fn is_path(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b';';
    text.first() == Some(&b'/') && text.iter().all(is_plain)
}

/// What a client is to bring from now on. Never for scripts; without `Secure`, for requests
/// within the mesh are plain HTTP to their client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetCookie<'c> {
    pub(crate) name: &'c str,
    pub(crate) value: &'c str,
    pub(crate) path: &'c str,
    /// In seconds; `None`: until the client ends.
    pub(crate) max_age: Option<u64>,
    /// No other site's page has it sent.
    pub(crate) is_strict: bool,
}

impl SetCookie<'_> {
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let Self {
            name, value, path, ..
        } = self;
        let mut line = format!("{name}={value}; Path={path}");
        if let Some(seconds) = self.max_age {
            // Writing to a string does not fail.
            let _ = write!(line, "; Max-Age={seconds}");
        }
        line.push_str("; HttpOnly");
        if self.is_strict {
            line.push_str("; SameSite=Strict");
        }
        line
    }
}

/// An answer sets it, beside others.
#[must_use]
pub(crate) fn set(line: String) -> HeaderEdit {
    HeaderEdit::Add {
        name: "set-cookie".to_owned(),
        value: line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HeaderLine;

    fn line(value: &'static str) -> HeaderLine<'static> {
        HeaderLine {
            name: "Cookie",
            value: value.as_bytes(),
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_and_in_several_lines() {
        for (lines, found) in [
            ([line("a=1; shop=x"), line("b=2")], &[&b"x"[..]][..]),
            ([line("a=1"), line("shop=\"x\";b=2")], &[b"x"]),
            ([line("shopping=y;shop=x"), line("shop= z ")], &[b"x", b"z"]),
            ([line("shop="), line("ashop=x; Shop=x;shop")], &[b""]),
        ] {
            let head = RequestHead::for_test("GET", "/", &lines);
            let values: Vec<_> = values(&head, "shop").collect();
            assert_eq!(values, found, "{lines:?}");
        }
    }

    #[test]
    fn a_path_is_no_attribute() {
        for (text, is) in [
            ("/", true),
            ("/a/b~", true),
            ("", false),
            ("a", false),
            ("/a;b", false),
            ("/a b", false),
            ("/\u{e4}", false),
        ] {
            assert_eq!(is_path(text.as_bytes()), is, "{text:?}");
        }
    }

    #[test]
    fn attributes_are_those_that_are_asked_for() {
        let cookie = SetCookie {
            name: "a",
            value: "b",
            path: "/c",
            max_age: Some(60),
            is_strict: false,
        };
        assert_eq!(cookie.line(), "a=b; Path=/c; Max-Age=60; HttpOnly");
        let cookie = SetCookie {
            max_age: None,
            is_strict: true,
            ..cookie
        };
        assert_eq!(cookie.line(), "a=b; Path=/c; HttpOnly; SameSite=Strict");
    }
}
