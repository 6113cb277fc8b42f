//! Fields, one by one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::part::{Part, Parts};
use crate::discovery::tree::{Node, View};

/// Unknown fields told of one mapping.
const MAX_NAMES: usize = 10;

/// What was found while reading one object: path of the field, and what of it.
#[derive(Debug, Default)]
pub(in crate::discovery) struct Found {
    pub(in crate::discovery) mistakes: Vec<(String, String)>,
    pub(in crate::discovery) advisories: Vec<(String, String)>,
    pub(in crate::discovery) unread: Parts,
}

impl Found {
    pub(in crate::discovery) fn mistake(&mut self, at: &str, what: impl Into<String>, lost: Part) {
        self.mistakes.push((at.to_owned(), what.into()));
        if lost != Part::Nothing {
            self.unread.insert(lost);
        }
    }

    pub(in crate::discovery) fn advise(&mut self, at: &str, what: impl Into<String>) {
        self.advisories.push((at.to_owned(), what.into()));
    }

    /// Fields that v1 does not have are told; they have no effect.
    pub(in crate::discovery) fn names(&mut self, value: &Node<'_>, at: &str, known: &[&str]) {
        let View::Mapping(map) = value.view() else {
            return;
        };
        let unknown = map.keys().filter(|k| !known.contains(k));
        for key in unknown.take(MAX_NAMES) {
            let field = format!("{at}.{key}");
            let message = "unknown field: Kubernetes v1 has none of this name";
            self.advise(field.trim_start_matches('.'), message);
        }
    }

    /// A mapping to index into; anything else reads as an empty one.
    pub(in crate::discovery) fn is_mapping(&mut self, value: &Node<'_>, at: &str, lost: &[Part]) {
        if !value.is_mapping() && !value.is_null() {
            self.mistake(at, "expected a mapping", Part::Nothing);
            self.unread.extend(lost.iter().copied());
        }
    }

    pub(in crate::discovery) fn list<'v, 't>(
        &mut self,
        value: &'v Node<'t>,
        at: &str,
        lost: Part,
    ) -> &'v [Node<'t>] {
        match value.view() {
            View::Null => &[],
            View::List(list) => list,
            _ => {
                self.mistake(at, "expected a list", lost);
                &[]
            }
        }
    }

    /// Whole numbers and truth values count as their text.
    pub(in crate::discovery) fn text(
        &mut self,
        value: &Node<'_>,
        at: &str,
        lost: Part,
    ) -> Option<String> {
        let text = match value.view() {
            View::Null => return None,
            View::Text(text) => Some(text.to_owned()),
            View::Number(n) if !n.is_f64() => Some(n.to_string()),
            View::Bool(b) => Some(b.to_string()),
            _ => None,
        };
        if text.is_none() {
            self.mistake(at, "expected a text", lost);
        }
        text
    }

    /// What an identity or a selection is made of: as YAML reads it, a number
    /// or a truth value is another text than the one that is written.
    pub(in crate::discovery) fn name(
        &mut self,
        value: &Node<'_>,
        at: &str,
        lost: Part,
    ) -> Option<String> {
        match value.view() {
            View::Number(_) | View::Bool(_) => {
                let message = format!("{value} is no text: it needs quotes");
                self.mistake(at, message, lost);
                None
            }
            _ => self.text(value, at, lost),
        }
    }

    /// Is it TCP, as where nothing is said?
    pub(in crate::discovery) fn is_tcp(&mut self, value: &Node<'_>, at: &str, lost: Part) -> bool {
        match self.text(value, at, lost).as_deref() {
            None | Some("" | "TCP") => true,
            Some("UDP" | "SCTP") => false,
            Some(other) => {
                self.mistake(at, format!("{other:?} is not TCP, UDP or SCTP"), lost);
                false
            }
        }
    }

    /// Also as a text.
    pub(in crate::discovery) fn flag(
        &mut self,
        value: &Node<'_>,
        at: &str,
        lost: Part,
    ) -> Option<bool> {
        match value.view() {
            View::Null => None,
            View::Bool(b) => Some(b),
            View::Text("true") => Some(true),
            View::Text("false") => Some(false),
            _ => {
                self.mistake(at, "expected true or false", lost);
                None
            }
        }
    }

    /// Also as a text.
    pub(in crate::discovery) fn port(
        &mut self,
        value: &Node<'_>,
        at: &str,
        lost: Part,
    ) -> Option<u16> {
        let number = match value.view() {
            View::Null => return None,
            View::Number(n) => n.as_u64().and_then(|n| u16::try_from(n).ok()),
            View::Text(s) => s.parse().ok(),
            _ => None,
        };
        let port = number.filter(|n| *n > 0);
        if port.is_none() {
            self.mistake(at, format!("{value} is not a port from 1 to 65535"), lost);
        }
        port
    }

    pub(in crate::discovery) fn address(
        &mut self,
        value: &Node<'_>,
        at: &str,
        lost: Part,
    ) -> Option<IpAddr> {
        let text = self.text(value, at, lost).filter(|t| !t.is_empty())?;
        let address = text.parse::<IpAddr>();
        if address.is_err() {
            self.mistake(at, format!("{text:?} is not an address"), lost);
        }
        address.ok().map(|ip| ip.to_canonical())
    }

    /// Labels and the like. What has no quotes is taken as it is written: `1.10`
    /// is no number here. Nothing is "".
    pub(in crate::discovery) fn texts(
        &mut self,
        value: &Node<'_>,
        at: &str,
        lost: Part,
    ) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        match value.view() {
            View::Null => {}
            View::Mapping(map) => {
                for (key, value) in map.iter() {
                    let text = match value.written() {
                        Some(text) => Some(text.to_owned()),
                        None if value.is_null() => Some(String::new()),
                        None => self.text(value, &format!("{at}.{key}"), lost),
                    };
                    texts.extend(text.map(|text| (key.to_owned(), text)));
                }
            }
            _ => self.mistake(at, "expected a mapping", lost),
        }
        texts
    }
}
