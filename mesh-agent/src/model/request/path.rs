//! The normal form of a path: what two servers that decode in different ways both
//! take it for.

use std::borrow::Cow;

/// A path for matching (`docs/http.md` has the rules).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path<'h> {
    /// One meaning to every server.
    Normal(NormalPath<'h>),
    /// Servers differ on what it means: whoever has a rule about paths refuses it.
    Ambiguous(PathProblem),
    /// `OPTIONS *`, or the authority of a CONNECT.
    None,
}

/// The normal form, and what is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NormalPath<'h> {
    /// What goes on to the application where a rule looked at the path.
    pub(crate) normal: Cow<'h, str>,
    /// With every escape decoded: what a rule is compared with.
    pub(crate) decoded: Cow<'h, [u8]>,
    /// The same with the `;parameters` of each segment cut, where it has any: a
    /// DENY matches by either form, an ALLOW by both.
    pub(crate) without_parameters: Option<Box<[u8]>>,
}

/// Why a path has no one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PathProblem {
    /// `%2F`, `%5C` or a backslash: a separator to some.
    EncodedSeparator,
    /// An escape without two hexadecimal digits.
    BadEscape,
    /// A control byte, raw or escaped NUL. No server is given one.
    Control,
    /// `..` above the root.
    AboveRoot,
    /// `;` on an empty or a dot segment.
    ParameterOnDots,
    /// UTF-8 that is longer than it need be.
    OverlongUtf8,
    /// It does not begin with a slash. No server is given one.
    NotAbsolute,
}

impl PathProblem {
    /// Is it no path at all, whether or not a rule looks at it?
    #[must_use]
    pub(crate) const fn is_malformed(self) -> bool {
        matches!(self, Self::Control | Self::NotAbsolute)
    }
}

impl<'h> Path<'h> {
    /// Of the path of a target in origin-form: no query, no fragment.
    #[must_use]
    pub(crate) fn of(raw: &'h [u8]) -> Self {
        match NormalPath::of(raw) {
            Ok(path) => Self::Normal(path),
            Err(problem) => Self::Ambiguous(problem),
        }
    }
}

impl<'h> NormalPath<'h> {
    /// Of the path of a target in origin-form: no query, no fragment.
    pub(crate) fn of(raw: &'h [u8]) -> Result<Self, PathProblem> {
        if let Some(plain) = plain(raw) {
            return Ok(Self {
                normal: Cow::Borrowed(plain),
                decoded: Cow::Borrowed(raw),
                without_parameters: None,
            });
        }
        let normal = remove_dots(&unescape(raw)?)?;
        let decoded = decode(normal.as_bytes());
        if has_overlong_utf8(&decoded) {
            return Err(PathProblem::OverlongUtf8);
        }
        let without_parameters = without_parameters(&normal);
        Ok(Self {
            normal: Cow::Owned(normal),
            decoded: Cow::Owned(decoded),
            without_parameters,
        })
    }
}

/// The path itself, if nothing in it could change (nearly every one).
fn plain(raw: &[u8]) -> Option<&str> {
    let mut before = None;
    for byte in raw {
        match (before, byte) {
            (None, b'/') => {}
            (None, _) | (Some(b'/'), b'/' | b'.') => return None,
            (_, b'/') => {}
            (_, byte) if is_kept(*byte) && *byte != b';' => {}
            _ => return None,
        }
        before = Some(*byte);
    }
    before?;
    std::str::from_utf8(raw).ok()
}

/// Stands in a normal form as it is.
fn is_kept(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@[]".contains(&byte)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Bytes that are no UTF-8, with all that is not ASCII escaped.
pub(super) fn push_ascii(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            byte if byte.is_ascii() => out.push(char::from(*byte)),
            byte => push_escaped(*byte, out),
        }
    }
}

fn push_escaped(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Each escape once: unreserved as the character, else in upper case; what should
/// be escaped and is not gets escaped.
fn unescape(raw: &[u8]) -> Result<String, PathProblem> {
    if raw.first() != Some(&b'/') {
        return Err(PathProblem::NotAbsolute);
    }
    let mut out = String::with_capacity(raw.len() + 16);
    let mut rest = raw;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'%' => {
                let escaped = escape(rest).ok_or(PathProblem::BadEscape)?;
                rest = &rest[2..];
                match escaped {
                    0 => return Err(PathProblem::Control),
                    b'/' | b'\\' => return Err(PathProblem::EncodedSeparator),
                    byte if is_unreserved(byte) => out.push(char::from(byte)),
                    byte => push_escaped(byte, &mut out),
                }
            }
            b'\\' => return Err(PathProblem::EncodedSeparator),
            0..=0x20 | 0x7F => return Err(PathProblem::Control),
            b'/' => out.push('/'),
            byte if is_kept(byte) => out.push(char::from(byte)),
            byte => push_escaped(byte, &mut out),
        }
    }
    Ok(out)
}

fn escape(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// Empty and dot segments resolved; a slash at the end stays.
fn remove_dots(path: &str) -> Result<String, PathProblem> {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        ends_open = false;
        let name = segment.split(';').next().unwrap_or_default();
        match name {
            "" | "." | ".." if name.len() != segment.len() => {
                return Err(PathProblem::ParameterOnDots);
            }
            "" | "." => ends_open = true,
            ".." => {
                kept.pop().ok_or(PathProblem::AboveRoot)?;
                ends_open = true;
            }
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    // `/a/..` is the root, and `/a/b/..` the folder `/a/`.
    if ends_open {
        out.push('/');
    }
    Ok(out)
}

/// Of a normal form, in which every escape is whole.
fn decode(normal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(normal.len());
    let mut rest = normal;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let escaped = (byte == b'%').then(|| escape(behind)).flatten();
        if escaped.is_some() {
            rest = &behind[2..];
        }
        out.push(escaped.unwrap_or(byte));
    }
    out
}

fn without_parameters(normal: &str) -> Option<Box<[u8]>> {
    if !normal.contains(';') {
        return None;
    }
    let cut = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    let segments: Vec<String> = normal.split('/').map(cut).collect();
    Some(decode(segments.join("/").as_bytes()).into())
}

/// A character in more bytes than it needs, such as `C0 AE` for a dot.
fn has_overlong_utf8(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| {
        matches!(
            (pair[0], pair[1]),
            (0xC0 | 0xC1, 0x80..=0xBF)
                | (0xE0, 0x80..=0x9F)
                | (0xF0, 0x80..=0x8F)
                | (0xF8, 0x80..=0x87)
                | (0xFC, 0x80..=0x83)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The normal form, or what is wrong.
    fn normal(raw: &str) -> Result<String, PathProblem> {
        let path = NormalPath::of(raw.as_bytes())?;
        Ok(path.normal.into_owned())
    }

    #[test]
    fn paths_have_one_meaning_or_are_refused() {
        use PathProblem::{
            AboveRoot, BadEscape, Control, EncodedSeparator, NotAbsolute, OverlongUtf8,
            ParameterOnDots,
        };
        let table: &[(&str, Result<&str, PathProblem>)] = &[
            ("/admin/secret", Ok("/admin/secret")),
            ("//admin/secret", Ok("/admin/secret")),
            ("///admin//secret", Ok("/admin/secret")),
            ("/./admin/secret", Ok("/admin/secret")),
            ("/public/../admin/secret", Ok("/admin/secret")),
            ("/admin/x/../secret", Ok("/admin/secret")),
            ("/../admin/secret", Err(AboveRoot)),
            ("/public/../../admin", Err(AboveRoot)),
            ("/%61dmin/secret", Ok("/admin/secret")),
            ("/admin%2fsecret", Err(EncodedSeparator)),
            ("/public/%2e%2e/admin", Ok("/admin")),
            ("/public/.%2e/admin", Ok("/admin")),
            ("/public/..%2fadmin", Err(EncodedSeparator)),
            ("/%2e/admin/secret", Ok("/admin/secret")),
            ("/admin\\secret", Err(EncodedSeparator)),
            ("/public/..\\admin", Err(EncodedSeparator)),
            ("/admin%5csecret", Err(EncodedSeparator)),
            ("/public/..%5cadmin", Err(EncodedSeparator)),
            ("/admin;x/secret", Ok("/admin;x/secret")),
            ("/admin/..", Ok("/")),
            ("/admin/.", Ok("/admin/")),
            ("/;x/admin/secret", Err(ParameterOnDots)),
            ("/public/..;/admin/secret", Err(ParameterOnDots)),
            ("/public/.;/../admin/secret", Err(ParameterOnDots)),
            ("/admin/secret;x", Ok("/admin/secret;x")),
            ("/admin%3bx/secret", Ok("/admin%3Bx/secret")),
            ("/ADMIN/secret", Ok("/ADMIN/secret")),
            ("/admin/secret/", Ok("/admin/secret/")),
            ("/admin/secret.", Ok("/admin/secret.")),
            ("/admin/secret%20", Ok("/admin/secret%20")),
            ("/admin%00/secret", Err(Control)),
            ("/admin/secret%0a", Ok("/admin/secret%0A")),
            ("/admin/secret%3fx", Ok("/admin/secret%3Fx")),
            ("/%2561dmin/secret", Ok("/%2561dmin/secret")),
            ("/public/%c0%ae%c0%ae/admin", Err(OverlongUtf8)),
            ("/admin/secret%zz", Err(BadEscape)),
            ("/admin/secret%4", Err(BadEscape)),
            ("/a|b", Ok("/a%7Cb")),
            ("/a\"b", Ok("/a%22b")),
            ("/%7Eu/é", Ok("/~u/%C3%A9")),
            ("admin/x", Err(NotAbsolute)),
            ("", Err(NotAbsolute)),
            ("/", Ok("/")),
            ("//", Ok("/")),
            ("/..", Err(AboveRoot)),
            ("/.", Ok("/")),
            ("/a/b/..", Ok("/a/")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/...", Ok("/...")),
            ("/a\tb", Err(Control)),
            ("/a\u{7f}b", Err(Control)),
        ];
        for (raw, wanted) in table {
            assert_eq!(normal(raw), wanted.map(str::to_owned), "{raw:?}");
        }
    }

    #[test]
    fn a_normal_form_is_its_own_normal_form() {
        for raw in [
            "/a|b",
            "/%7Eu/é",
            "/a/./b%2561/../c;x",
            "/x%20y//z",
            "/a%3bb",
        ] {
            let once = normal(raw).expect("a path");
            assert_eq!(normal(&once), Ok(once.clone()), "{raw}");
        }
    }

    #[test]
    fn what_is_compared_is_decoded_with_and_without_parameters() {
        let path = NormalPath::of(b"/admin;v=1/a%20b%3bc").expect("a path");
        assert_eq!(&*path.decoded, b"/admin;v=1/a b;c");
        assert_eq!(
            path.without_parameters.as_deref(),
            Some(b"/admin/a b;c".as_slice())
        );
        let path = NormalPath::of(b"/%e9t%c3%a9").expect("a path");
        assert_eq!(&*path.decoded, b"/\xe9t\xc3\xa9");
        assert_eq!(path.without_parameters, None);
    }

    #[test]
    fn a_plain_path_is_borrowed() {
        let path = NormalPath::of(b"/api/v1/items:batch,x").expect("a path");
        assert!(matches!(path.normal, Cow::Borrowed(_)));
        assert!(matches!(path.decoded, Cow::Borrowed(_)));
    }
}
