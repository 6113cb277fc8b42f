//! The head of an HTTP request, as routes, policies and telemetry see it: one
//! form for HTTP/1 and HTTP/2, borrowed from the bytes that came.
//!
//! Plain data: `http` makes it. What is matched is the normal form, and where a
//! rule looked at it the application gets that form too.

use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HttpVersion {
    Http10,
    Http11,
    Http2,
}

/// One header line; a name as it was written, a value without the blanks around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderLine<'h> {
    pub name: &'h str,
    pub value: &'h [u8],
}

/// The head of a request, valid by its syntax.
#[derive(Clone, Debug)]
pub struct RequestHead<'h> {
    pub version: HttpVersion,
    /// A token, with the case that it came with.
    pub method: &'h str,
    /// The request target byte for byte as it came.
    pub target: &'h [u8],
    pub path: Path<'h>,
    /// Behind the first `?`, as it came.
    pub query: Option<&'h [u8]>,
    /// `None` only where the version allows it (HTTP/1.0).
    pub host: Option<Host<'h>>,
    /// In the order that they came in; no pseudo-headers.
    pub headers: &'h [HeaderLine<'h>],
}

impl<'h> RequestHead<'h> {
    /// Each value of the lines with this name, whatever its case.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let lines = self.headers.iter();
        let named = lines.filter(move |line| line.name.eq_ignore_ascii_case(name));
        named.map(|line| line.value)
    }
}

/// A path for matching (`docs/http.md` has the rules).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path<'h> {
    /// One meaning to every server.
    Normal(NormalPath<'h>),
    /// Servers differ on what it means: whoever has a rule about paths refuses it.
    Ambiguous(PathProblem),
    /// `OPTIONS *`, or the authority of a CONNECT.
    None,
}

/// The normal form, and what is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalPath<'h> {
    /// What goes on to the application where a rule looked at the path.
    pub normal: Cow<'h, str>,
    /// With every escape decoded: what a rule is compared with.
    pub decoded: Cow<'h, [u8]>,
    /// The same with the `;parameters` of each segment cut, where it has any: a
    /// DENY matches by either form, an ALLOW by both.
    pub without_parameters: Option<Box<[u8]>>,
}

/// Why a path has no one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathProblem {
    /// `%2F`, `%5C` or a backslash: a separator to some.
    EncodedSeparator,
    /// An escape without two hexadecimal digits.
    BadEscape,
    /// A control byte, raw or escaped NUL.
    Control,
    /// `..` above the root.
    AboveRoot,
    /// `;` on an empty or a dot segment.
    ParameterOnDots,
    /// UTF-8 that is longer than it need be.
    OverlongUtf8,
}

/// `Host` or `:authority`, one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'h> {
    /// Lower case, without port and without one dot at the end.
    pub name: Cow<'h, str>,
    pub port: Option<u16>,
}

/// What is to change of a head; everything else goes on as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// A new path and query.
    pub target: Option<String>,
    pub host: Option<String>,
    /// In this order, after the removals.
    pub headers: Vec<HeaderEdit>,
}

impl Edits {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.target.is_none() && self.host.is_none() && self.headers.is_empty()
    }
}

/// Names are compared without regard to case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
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
