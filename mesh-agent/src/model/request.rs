//! The head of an HTTP request, as routes, policies and telemetry see it: one
//! form for HTTP/1 and HTTP/2, borrowed from the bytes that came.
//!
//! Plain data: `http` makes it. What is matched is the normal form, and where a
//! rule looked at it the application gets that form too.

mod host;
mod path;

use std::borrow::Cow;

pub(crate) use host::Host;
pub(crate) use path::{NormalPath, Path, PathProblem};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum HttpVersion {
    Http10,
    Http11,
    Http2,
}

/// One header line; a name as it was written, a value without the blanks around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderLine<'h> {
    pub(crate) name: &'h str,
    pub(crate) value: &'h [u8],
}

/// The head of a request, valid by its syntax.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead<'h> {
    pub(crate) version: HttpVersion,
    /// A token, with the case that it came with.
    pub(crate) method: &'h str,
    /// The request target byte for byte as it came.
    pub(crate) target: &'h [u8],
    pub(crate) path: Path<'h>,
    /// Behind the first `?`, as it came.
    pub(crate) query: Option<&'h [u8]>,
    /// `None` only where the version allows it (HTTP/1.0).
    pub(crate) host: Option<Host<'h>>,
    /// In the order that they came in; no pseudo-headers.
    pub(crate) headers: &'h [HeaderLine<'h>],
}

impl<'h> RequestHead<'h> {
    /// Path and query with the path in its normal form, where that differs from what
    /// came: what the application gets if a rule looked at the path. A fragment, and
    /// the scheme and authority of an absolute target, are gone then.
    #[must_use]
    pub(crate) fn normal_target(&self) -> Option<String> {
        let Path::Normal(path) = &self.path else {
            return None;
        };
        let normal = path.normal.as_bytes();
        let is_same = match self.query {
            None => self.target == normal,
            Some(query) => {
                let behind = self.target.strip_prefix(normal);
                behind.and_then(|behind| behind.strip_prefix(b"?")) == Some(query)
            }
        };
        if is_same {
            return None;
        }
        let mut target = path.normal.clone().into_owned();
        if let Some(query) = self.query {
            target.push('?');
            match std::str::from_utf8(query) {
                Ok(query) => target.push_str(query),
                Err(_) => path::push_ascii(query, &mut target),
            }
        }
        Some(target)
    }

    /// Each value of the lines with this name, whatever its case.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let lines = self.headers.iter();
        let named = lines.filter(move |line| line.name.eq_ignore_ascii_case(name));
        named.map(|line| line.value)
    }

    /// The lines with this name as the one value that they are (RFC 9110, section 5.3;
    /// of cookies RFC 9113, section 8.2.3).
    #[must_use]
    pub(crate) fn joined(&self, name: &str) -> Option<Cow<'h, [u8]>> {
        let mut values = self.values(name);
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(first.into());
        };
        let mut all = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            all.extend_from_slice(separator(name));
            all.extend_from_slice(value);
        }
        Some(all.into())
    }
}

/// What stands between the lines of one name where they are one.
fn separator(name: &str) -> &'static [u8] {
    match is_cookie(name) {
        true => b"; ",
        false => b",",
    }
}

#[must_use]
pub(crate) fn is_cookie(name: &str) -> bool {
    name.eq_ignore_ascii_case("cookie")
}

#[cfg(test)]
impl<'h> RequestHead<'h> {
    /// Of HTTP/1.1, its path in normal form, and without a host.
    pub(crate) fn for_test(method: &'h str, path: &'h str, headers: &'h [HeaderLine<'h>]) -> Self {
        Self {
            version: HttpVersion::Http11,
            method,
            target: path.as_bytes(),
            path: Path::Normal(NormalPath {
                normal: path.into(),
                decoded: path.as_bytes().into(),
                without_parameters: None,
            }),
            query: None,
            host: None,
            headers,
        }
    }
}

/// What is to change of a head; everything else goes on as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// A new path and query.
    pub(crate) target: Option<String>,
    pub(crate) host: Option<String>,
    /// In this order, after the removals.
    pub(crate) headers: Vec<HeaderEdit>,
}

impl Edits {
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.target.is_none() && self.host.is_none() && self.headers.is_empty()
    }
}

/// Names are compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderEdit {
    /// One line with this value, instead of all that have the name.
    Set {
        name: String,
        value: String,
    },
    /// One more line.
    Add {
        name: String,
        value: String,
    },
    Remove {
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal_target(target: &'static str, query: Option<&'static [u8]>) -> Option<String> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let head = RequestHead {
            version: HttpVersion::Http11,
            method: "GET",
            target: target.as_bytes(),
            path: Path::of(path.as_bytes()),
            query,
            host: None,
            headers: &[],
        };
        head.normal_target()
    }

    #[test]
    fn only_a_target_in_another_form_gets_a_new_one() {
        assert_eq!(normal_target("/a/b", None), None);
        assert_eq!(normal_target("/a/b?x=%zz//..", Some(b"x=%zz//..")), None);
        assert_eq!(normal_target("/a/b?", Some(b"")), None);
        let new = |target, query| normal_target(target, query).expect("a new target");
        assert_eq!(new("/a//b?x=%zz", Some(b"x=%zz")), "/a/b?x=%zz");
        assert_eq!(new("/a?b#c", Some(b"b")), "/a?b");
        assert_eq!(new("/a#c", None), "/a");
        assert_eq!(new("//?-", Some(b"\xff")), "/?%FF");
    }
}
