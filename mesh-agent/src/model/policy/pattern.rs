//! Texts as rules write them.

use std::fmt;

/// `abc`, `abc*`, `*abc` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Anything but the empty text.
    Present,
}

impl Pattern {
    /// `None` when empty, or with a `*` that is neither first nor last, or both.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let pattern = if text == "*" {
            return Some(Self::Present);
        } else if let Some(prefix) = text.strip_suffix('*') {
            (prefix, Self::Prefix(prefix.to_owned()))
        } else if let Some(suffix) = text.strip_prefix('*') {
            (suffix, Self::Suffix(suffix.to_owned()))
        } else {
            (text, Self::Exact(text.to_owned()))
        };
        (!pattern.0.is_empty() && !pattern.0.contains('*')).then_some(pattern.1)
    }

    #[must_use]
    pub(crate) fn matches(&self, text: impl AsRef<[u8]>) -> bool {
        let text = text.as_ref();
        match self {
            Self::Exact(exact) => text == exact.as_bytes(),
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
            Self::Present => !text.is_empty(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}
