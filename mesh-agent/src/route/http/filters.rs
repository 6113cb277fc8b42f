//! Filters as edits of a head.

use crate::model::http_route::{Filter, HeaderModifier, PathModifier};
use crate::model::{Edits, HeaderEdit};

/// What the filters of a rule and then of one of its backends come to, for all
/// requests alike: of two that name one header the later one holds.
#[derive(Debug, Default)]
pub(super) struct Static {
    pub(super) request: Edits,
    pub(super) response: Edits,
}

impl Static {
    pub(super) fn of<'f>(filters: impl Iterator<Item = &'f Filter>) -> Self {
        let mut all = Self::default();
        for filter in filters {
            match filter {
                Filter::RequestHeaders(modifier) => modify(&mut all.request, modifier),
                Filter::ResponseHeaders(modifier) => modify(&mut all.response, modifier),
                Filter::Rewrite(rewrite) => {
                    if let Some(host) = &rewrite.host {
                        all.request.host = Some(host.to_string());
                    }
                }
                Filter::Redirect(_)
                | Filter::Mirror(_)
                | Filter::Cors(_)
                | Filter::Unsupported(_) => {}
            }
        }
        all
    }
}

fn modify(edits: &mut Edits, modifier: &HeaderModifier) {
    for (name, value) in &modifier.set {
        if name.eq_ignore_ascii_case("host") {
            edits.host = Some(value.to_string());
            continue;
        }
        forget(edits, name);
        edits.headers.push(HeaderEdit::Set {
            name: name.to_string(),
            value: value.to_string(),
        });
    }
    let add = modifier.add.iter().map(|(name, value)| HeaderEdit::Add {
        name: name.to_string(),
        value: value.to_string(),
    });
    edits.headers.extend(add);
    for name in &modifier.remove {
        forget(edits, name);
        edits.headers.push(HeaderEdit::Remove {
            name: name.to_string(),
        });
    }
}

/// What was said of the header before.
pub(super) fn forget(edits: &mut Edits, name: &str) {
    edits.headers.retain(|edit| {
        let (HeaderEdit::Set { name: other, .. }
        | HeaderEdit::Add { name: other, .. }
        | HeaderEdit::Remove { name: other }) = edit;
        !other.eq_ignore_ascii_case(name)
    });
}

/// The path that a modifier makes of `path`, of which a prefix of so many
/// elements matched.
pub(super) fn modified(path: &str, elements: usize, modifier: &PathModifier) -> String {
    let with = match modifier {
        PathModifier::Full(full) => return rooted(full),
        PathModifier::Prefix(with) => with,
    };
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    let rest = slashes.nth(elements).map_or("", |at| &path[at..]);
    match rest {
        "" => rooted(with),
        rest => rooted(&format!("{}{rest}", with.trim_end_matches('/'))),
    }
}

fn rooted(path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_as_the_table_of_the_api_says() {
        for (path, prefix, with, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/a%20b/c", "/a b", "/x", "/x/c"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ] {
            let elements = super::super::compile::elements(prefix);
            let modifier = PathModifier::Prefix(with.into());
            assert_eq!(
                modified(path, elements, &modifier),
                expected,
                "{path} {prefix} {with}"
            );
        }
        let full = PathModifier::Full("/all".into());
        assert_eq!(modified("/foo", 1, &full), "/all");
    }
}
