//! Paths as rules write them.

use super::Pattern;
use crate::model::NormalPath;

/// An exact path, `/x*`, `*x`, `*`, or a template with `{*}` for one segment and
/// at most one `{**}`, the last, for any rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPattern {
    written: Box<str>,
    /// With every escape decoded.
    decoded: Decoded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Decoded {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Present,
    Template(Box<[Segment]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<[u8]>),
    One,
    /// What follows it, from the slash on.
    Rest(Box<[u8]>),
}

const ONE: &str = "{*}";
const REST: &str = "{**}";

impl PathPattern {
    /// What no path in its normal form can be like is a mistake: a DENY of it would
    /// deny nobody.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let decoded = Self::decoded(text);
        let decoded = decoded.map_err(|why| format!("no path is like {text:?}: {why}"))?;
        Ok(Self {
            written: text.into(),
            decoded,
        })
    }

    fn decoded(text: &str) -> Result<Decoded, &'static str> {
        if text.contains(['{', '}']) {
            return template(text);
        }
        let pattern = Pattern::parse(text).ok_or("\"*\" may be its first or its last sign")?;
        let (literal, cut) = match &pattern {
            Pattern::Present => return Ok(Decoded::Present),
            Pattern::Exact(literal) => (literal, Cut::None),
            Pattern::Prefix(literal) => (literal, Cut::Last),
            Pattern::Suffix(literal) => (literal, Cut::First),
        };
        if cut != Cut::First && !literal.starts_with('/') {
            return Err("it begins with \"/\"");
        }
        let bytes = decode(literal)?.into();
        is_normal(literal, cut)?;
        Ok(match pattern {
            Pattern::Exact(_) => Decoded::Exact(bytes),
            Pattern::Prefix(_) => Decoded::Prefix(bytes),
            Pattern::Suffix(_) | Pattern::Present => Decoded::Suffix(bytes),
        })
    }

    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// `None` where it depends on how the server reads the path.
    #[must_use]
    pub(crate) fn matches(&self, path: &NormalPath<'_>) -> Option<bool> {
        let whole = self.decoded.matches(&path.decoded);
        let bare = path.without_parameters.as_deref();
        let bare = bare.map_or(whole, |bare| self.decoded.matches(bare));
        match (whole, bare) {
            (true, true) => Some(true),
            (false, false) => match self.is_like(&path.normal) {
                true => None,
                false => Some(false),
            },
            _ => None,
        }
    }

    /// As the rule is written and the path goes on, escapes and all.
    fn is_like(&self, normal: &str) -> bool {
        let written = &*self.written;
        match &self.decoded {
            Decoded::Exact(_) => normal == written,
            Decoded::Prefix(_) => normal.starts_with(&written[..written.len() - 1]),
            Decoded::Suffix(_) => normal.ends_with(&written[1..]),
            Decoded::Present | Decoded::Template(_) => false,
        }
    }
}

impl Decoded {
    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Suffix(suffix) => path.ends_with(suffix),
            Self::Present => !path.is_empty(),
            Self::Template(segments) => is_of_template(segments, path),
        }
    }
}

fn is_of_template(segments: &[Segment], path: &[u8]) -> bool {
    let mut rest = Some(path);
    for segment in segments {
        let Some((b'/', after)) = rest.and_then(<[u8]>::split_first).map(|(b, r)| (*b, r)) else {
            return false;
        };
        let end = after.iter().position(|b| *b == b'/');
        let one = &after[..end.unwrap_or(after.len())];
        match segment {
            Segment::Literal(literal) if one == &**literal => {}
            Segment::One if !one.is_empty() => {}
            Segment::Rest(last) => return after.ends_with(last),
            Segment::Literal(_) | Segment::One => return false,
        }
        rest = end.map(|end| &after[end..]);
    }
    rest.is_none()
}

fn template(text: &str) -> Result<Decoded, &'static str> {
    let inner = text.strip_prefix('/').ok_or("it begins with \"/\"")?;
    let literals: Vec<&str> = inner.split('/').collect();
    let mut segments = Vec::new();
    for (at, segment) in literals.iter().enumerate() {
        match *segment {
            ONE => segments.push(Segment::One),
            REST => {
                let last = literals[at + 1..].join("/");
                if last.contains(['{', '}', '*']) {
                    return Err("{**} is its last operator");
                }
                let last = match at + 1 == literals.len() {
                    true => Vec::new(),
                    false => decode(&format!("/{last}"))?,
                };
                segments.push(Segment::Rest(last.into()));
                break;
            }
            literal if literal.contains(['{', '}', '*']) => {
                return Err("a segment is {*}, {**}, or has none of \"{\", \"}\", \"*\"");
            }
            literal => segments.push(Segment::Literal(decode(literal)?.into())),
        }
    }
    is_normal(text, Cut::None)?;
    Ok(Decoded::Template(segments.into()))
}

/// Which end of it is not a whole segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    None,
    First,
    Last,
}

/// A normal form keeps none of these.
fn is_normal(literal: &str, cut: Cut) -> Result<(), &'static str> {
    if literal.contains(['?', '#']) {
        return Err("what follows \"?\" or \"#\" is not of the path");
    }
    if literal.contains("//") {
        return Err("empty segments are taken out of a path");
    }
    let segments: Vec<&str> = literal.split('/').collect();
    let whole = match cut {
        Cut::None => &segments[..],
        Cut::First => &segments[1..],
        Cut::Last => &segments[..segments.len() - 1],
    };
    let dots = |segment: &&str| matches!(decode(segment).as_deref(), Ok(b"." | b".."));
    match whole.iter().any(dots) {
        true => Err("\".\" and \"..\" are taken out of a path"),
        false => Ok(()),
    }
}

fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(), digit());
                let both = high.zip(low).ok_or("\"%\" is followed by two digits")?;
                let value = u8::try_from(both.0 << 4 | both.1).unwrap_or_default();
                if matches!(value, b'/' | b'\\') {
                    return Err("an escaped separator is refused in a path");
                }
                value
            }
            byte => byte,
        };
        if byte == 0 || byte == b'\\' {
            return Err("it is refused in a path");
        }
        decoded.push(byte);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(decoded: &str) -> NormalPath<'_> {
        NormalPath {
            normal: decoded.into(),
            decoded: decoded.as_bytes().into(),
            without_parameters: None,
        }
    }

    fn matches(pattern: &str, of: &str) -> Option<bool> {
        let parsed = PathPattern::parse(pattern).expect(pattern);
        parsed.matches(&path(of))
    }

    /// The examples of Istio's documentation, and the edges of each operator.
    #[test]
    fn a_template_matches_whole_segments() {
        for (pattern, of, expected) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo", false),
            ("/foo/{*}/", "/foo/bar/", true),
            ("/foo/{*}/", "/foo/bar", false),
            ("/foo/{**}/", "/foo/bar/", true),
            ("/foo/{**}/", "/foo/bar/baz.txt/", true),
            ("/foo/{**}/", "/foo//", true),
            ("/foo/{**}/", "/foo/bar", false),
            ("/foo/{**}/", "/foo/", false),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar", false),
            ("/foo/{**}/bar", "/foo/x/y/bar", true),
            ("/foo/{**}/bar", "/foo/bar", false),
            ("/{**}", "/", true),
            ("/{**}", "/a/b", true),
            ("/{*}", "/", false),
        ] {
            assert_eq!(matches(pattern, of), Some(expected), "{pattern} {of}");
        }
    }

    #[test]
    fn a_pattern_is_compared_with_the_decoded_path() {
        for (pattern, of, expected) in [
            ("/a%20b", "/a b", true),
            ("/a b", "/a b", true),
            ("/%61dmin*", "/admin/x", true),
            ("/admin/*", "/admin", false),
            ("/admin/*", "/admin/", true),
            ("*.php", "/x/y.php", true),
            ("*", "/", true),
            ("/a/.*", "/a/.git", true),
        ] {
            assert_eq!(matches(pattern, of), Some(expected), "{pattern} {of}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_neither_a_match_nor_none() {
        let with = NormalPath {
            normal: "/admin;x/secret".into(),
            decoded: b"/admin;x/secret"[..].into(),
            without_parameters: Some(b"/admin/secret"[..].into()),
        };
        for (pattern, expected) in [
            ("/admin/secret", None),
            ("/admin;x/secret", None),
            ("/admin*", Some(true)),
            ("/public*", Some(false)),
        ] {
            let parsed = PathPattern::parse(pattern).expect(pattern);
            assert_eq!(parsed.matches(&with), expected, "{pattern}");
        }
        let escaped = NormalPath {
            normal: "/a%20b".into(),
            decoded: b"/a b"[..].into(),
            without_parameters: None,
        };
        let odd = PathPattern::parse("*20b").expect("a pattern");
        assert_eq!(odd.matches(&escaped), None);
    }

    #[test]
    fn what_no_path_can_be_like_is_a_mistake() {
        for wrong in [
            "",
            "admin",
            "admin*",
            "/a*b",
            "*a*",
            "//a",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/%2e%2e/b",
            "/a?x",
            "/a#x",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%00",
            "/{*}/foo/{}/bar",
            "/foo/{*}/bar/*",
            "/foo/{*}/bar/**/buzz",
            "/foo/{buzz}/bar",
            "/{buzz}",
            "/foo/{buzz=*}/bar/{**}",
            "/{*}/foo/{**}bar",
            "/{*}/foo/{*}.txt",
            "/{*}/foo/{temp",
            "/{*}/foo/temp}/bar",
            "/{**}/foo/temp/{*}/bar",
            "/{**}/{**}",
            "/{*}/foo/?abc",
            "/foo/{**}buzz/bar",
            "{*}/a",
        ] {
            assert!(PathPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
