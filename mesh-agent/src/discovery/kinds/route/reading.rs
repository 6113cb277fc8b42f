//! Fields of a route, one by one: each fault is told, and the first one says why
//! the route as it is does not count.

use std::time::Duration;

use super::super::found::Found;
use super::super::part::Part;
use crate::discovery::tree::{Node, View};
use crate::model::http_route::TextMatch;
use crate::model::route::RouteKind;
use crate::route::http::check_pattern;

pub(in crate::discovery) const GROUP: &str = "gateway.networking.k8s.io";
/// Said of what is read and checked, and not done.
pub(in crate::discovery) const UNSERVED: &str = "is not served yet: it has no effect";
/// Longest text of any field.
const MAX_TEXT: usize = 4_096;

pub(in crate::discovery::kinds) struct Reading<'f> {
    found: &'f mut Found,
    pub(in crate::discovery::kinds) fault: Option<Box<str>>,
}

impl<'f> Reading<'f> {
    pub(in crate::discovery::kinds) fn new(found: &'f mut Found) -> Self {
        Self { found, fault: None }
    }

    pub(in crate::discovery::kinds) fn wrong(&mut self, at: &str, what: impl Into<String>) {
        let what = what.into();
        self.fault
            .get_or_insert_with(|| format!("{at}: {what}").into());
        self.found.mistake(at, what, Part::Route);
    }

    /// It is as it is written, and may not be what was meant.
    pub(super) fn advise(&mut self, at: &str, what: impl Into<String>) {
        self.found.advise(at, what);
    }

    /// A mapping with these fields alone, or nothing.
    pub(in crate::discovery::kinds) fn known(
        &mut self,
        value: &Node<'_>,
        at: &str,
        fields: &[&str],
    ) {
        let map = match value.view() {
            View::Null => return,
            View::Mapping(map) => map,
            _ => return self.wrong(at, "expected a mapping"),
        };
        let unknown: Vec<String> = map
            .keys()
            .filter(|key| !fields.contains(key))
            .take(10)
            .map(str::to_owned)
            .collect();
        for key in unknown {
            let at = format!("{at}.{key}");
            let known = fields.join(", ");
            self.wrong(
                at.trim_start_matches('.'),
                format!("unknown field; known are {known}"),
            );
        }
    }

    /// At most so many; of more none.
    pub(in crate::discovery::kinds) fn list<'v, 't>(
        &mut self,
        value: &'v Node<'t>,
        at: &str,
        most: usize,
    ) -> &'v [Node<'t>] {
        match value.view() {
            View::Null => &[],
            View::List(list) if list.len() <= most => list,
            View::List(list) => {
                self.wrong(
                    at,
                    format!("{} are more than the {most} that are served", list.len()),
                );
                &[]
            }
            _ => {
                self.wrong(at, "expected a list");
                &[]
            }
        }
    }

    pub(in crate::discovery::kinds) fn text<'v>(
        &mut self,
        value: &'v Node<'_>,
        at: &str,
    ) -> Option<&'v str> {
        match value.view() {
            View::Null => None,
            View::Text(text) if text.len() <= MAX_TEXT => Some(text),
            View::Text(_) => {
                self.wrong(at, format!("is longer than {MAX_TEXT} bytes"));
                None
            }
            _ => {
                self.wrong(at, "expected a text: numbers need quotes");
                None
            }
        }
    }

    /// A text that must be there and say something.
    pub(in crate::discovery::kinds) fn some<'v>(
        &mut self,
        value: &'v Node<'_>,
        at: &str,
    ) -> Option<&'v str> {
        let text = self.text(value, at);
        if value.is_null() || text == Some("") {
            self.wrong(at, "is missing");
        }
        text.filter(|text| !text.is_empty())
    }

    pub(super) fn number(
        &mut self,
        value: &Node<'_>,
        at: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let number = match value.view() {
            View::Null => return None,
            View::Number(number) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            self.wrong(at, format!("{value} is not a number from {from} to {to}"));
        }
        number
    }

    pub(super) fn port(&mut self, value: &Node<'_>, at: &str) -> Option<u16> {
        let port = self.number(value, at, 1..=65_535)?;
        u16::try_from(port).ok()
    }

    pub(super) fn flag(&mut self, value: &Node<'_>, at: &str) -> bool {
        match value.view() {
            View::Null => false,
            View::Bool(flag) => flag,
            _ => {
                self.wrong(at, "expected true or false");
                false
            }
        }
    }

    /// One of these; the first where nothing is said.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        value: &Node<'_>,
        at: &str,
        all: &[(&str, T)],
    ) -> Option<T> {
        let text = match value.view() {
            View::Null => return all.first().map(|(_, one)| *one),
            _ => self.text(value, at)?,
        };
        let one = all.iter().find(|(name, _)| *name == text);
        if one.is_none() {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            self.wrong(at, format!("{text:?} is none of {}", names.join(", ")));
        }
        one.map(|(_, one)| *one)
    }

    /// As GEP-2257 has it: `1h2m3s4ms`.
    pub(super) fn duration(&mut self, value: &Node<'_>, at: &str) -> Option<Duration> {
        let text = self.text(value, at)?;
        let duration = duration(text);
        if duration.is_none() {
            self.wrong(
                at,
                format!("{text:?} is not a duration such as 10s, 500ms or 1h30m"),
            );
        }
        duration
    }

    /// Of a whole text. `kind`: how it is meant.
    pub(super) fn text_match(
        &mut self,
        (kind, kind_at): (&Node<'_>, &str),
        (value, at): (&Node<'_>, &str),
    ) -> Option<TextMatch> {
        let kinds = [("Exact", false), ("RegularExpression", true)];
        let is_pattern = self.one_of(kind, kind_at, &kinds);
        let text = self.some(value, at)?;
        match is_pattern? {
            false => Some(TextMatch::Exact(text.into())),
            true => self
                .pattern(text, at)
                .then(|| TextMatch::Regex(text.into())),
        }
    }

    pub(super) fn pattern(&mut self, text: &str, at: &str) -> bool {
        let checked = check_pattern(text);
        if let Err(why) = &checked {
            self.wrong(
                at,
                format!("{text:?} is no regular expression that is served: {why}"),
            );
        }
        checked.is_ok()
    }

    /// One name, without a port.
    pub(super) fn hostname(&mut self, value: &Node<'_>, at: &str) -> Option<Box<str>> {
        let name = self.text(value, at)?;
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label = |label: &str| {
            let ends = label.starts_with('-') || label.ends_with('-');
            !label.is_empty() && !ends && label.bytes().all(is_plain)
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            self.wrong(
                at,
                format!("{name:?} is no host name, such as shop.example"),
            );
            return None;
        }
        Some(name.into())
    }

    /// The name of a header.
    pub(super) fn header<'v>(&mut self, value: &'v Node<'_>, at: &str) -> Option<&'v str> {
        let name = self.some(value, at)?;
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if !name.bytes().all(is_token) || name.len() > 256 {
            self.wrong(at, format!("{name:?} is no name of a header"));
            return None;
        }
        Some(name)
    }
}

pub(in crate::discovery::kinds) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut all = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (unit, millis) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        all += Duration::from_millis(number * millis);
        if rest.is_empty() {
            return Some(all);
        }
    }
    None
}

/// By the kind's name.
pub(in crate::discovery::kinds) fn kind(name: &str) -> Option<RouteKind> {
    let all = [
        RouteKind::Grpc,
        RouteKind::Http,
        RouteKind::Tls,
        RouteKind::Tcp,
    ];
    all.into_iter().find(|kind| kind.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_up_to_four_numbers_with_units() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("10s", Some(10_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("99999ms", Some(99_999)),
            ("", None),
            ("10", None),
            ("1.5s", None),
            ("-1s", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
            ("1d", None),
            ("s", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
