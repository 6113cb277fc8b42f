//! One document as a tree: what it says, how that is written, and where.
//!
//! Invariants: a mapping has each key once; depth, number of values and what
//! aliases repeat are bounded. A value that is absent and one that is null are
//! the same node, so that fields can be asked for one after the other.

#[cfg(any(test, feature = "fuzzing"))]
mod agree;
mod json;
mod plain;
mod read;
mod scalar;
#[cfg(test)]
mod tests;
mod yaml;

use std::borrow::Cow;
use std::fmt;
use std::ops::Index;

use serde_json::{Number, Value};

#[cfg(any(test, feature = "fuzzing"))]
pub(super) use agree::agree;
pub(super) use read::read;
use scalar::Scalar;
pub(super) use yaml::yaml;

/// Values of one document: more than a list of a large cluster has within the
/// size of a file.
const MAX_NODES: usize = 1_000_000;
/// Lists and mappings in each other.
const MAX_DEPTH: usize = 64;

/// Line and column, both from 1; of JSON that was read as such they are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// Why a document is no tree.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) place: Position,
    pub(super) message: String,
}

#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    data: Data<'t>,
    place: Position,
}

#[derive(Clone, Debug)]
enum Data<'t> {
    Null,
    /// As it is written, and no text.
    Bare(Cow<'t, str>),
    Text(Cow<'t, str>),
    List(Vec<Node<'t>>),
    Mapping(Mapping<'t>),
}

/// In the order of its keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Mapping<'t> {
    entries: Vec<MapEntry<'t>>,
}

#[derive(Clone, Debug)]
struct MapEntry<'t> {
    key: Cow<'t, str>,
    place: Position,
    value: Node<'t>,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum View<'n, 't> {
    Null,
    Bool(bool),
    Number(Number),
    Text(&'n str),
    List(&'n [Node<'t>]),
    Mapping(&'n Mapping<'t>),
}

const NULL: Node<'static> = Node {
    data: Data::Null,
    place: Position { line: 0, column: 0 },
};

impl<'t> Node<'t> {
    pub(super) fn text(text: impl Into<Cow<'t, str>>) -> Self {
        Self {
            data: Data::Text(text.into()),
            ..NULL
        }
    }

    pub(super) fn bool(bool: bool) -> Self {
        let text = if bool { "true" } else { "false" };
        Self {
            data: Data::Bare(text.into()),
            ..NULL
        }
    }

    /// Of fields that differ.
    pub(super) fn mapping<const N: usize>(fields: [(&'static str, Self); N]) -> Self {
        let mut mapping = Self {
            data: Data::Mapping(Mapping::default()),
            ..NULL
        };
        for (key, value) in fields {
            mapping.put(key, value);
        }
        mapping
    }

    pub(super) fn view(&self) -> View<'_, 't> {
        match &self.data {
            Data::Null => View::Null,
            Data::Text(text) => View::Text(text),
            Data::List(list) => View::List(list),
            Data::Mapping(map) => View::Mapping(map),
            Data::Bare(text) => match scalar::resolve(text) {
                Scalar::Bool(bool) => View::Bool(bool),
                Scalar::Number(number) => View::Number(number),
                Scalar::Null | Scalar::Text | Scalar::NotFinite => View::Text(text),
            },
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.data, Data::Null)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.data, Data::List(_))
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.data, Data::Mapping(_))
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.data, Data::Text(_))
    }

    /// Of a text; not of a number or a truth value, which may be meant as one.
    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As it is written: `1.10` is no number then.
    pub(super) fn written(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) | Data::Bare(text) => Some(text),
            _ => None,
        }
    }

    /// The items of a list; none of anything else.
    pub(super) fn items(&self) -> &[Node<'t>] {
        match &self.data {
            Data::List(list) => list,
            _ => &[],
        }
    }

    /// The fields of a mapping; none of anything else.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &Node<'t>)> {
        let map = match &self.data {
            Data::Mapping(map) => Some(map),
            _ => None,
        };
        map.into_iter().flat_map(Mapping::iter)
    }

    /// `None` where the field is not there, not even with nothing behind it.
    pub(super) fn get(&self, key: &str) -> Option<&Node<'t>> {
        match &self.data {
            Data::Mapping(map) => map.get(key),
            _ => None,
        }
    }

    /// Through mappings, one field after the other.
    pub(super) fn at(&self, path: &[&str]) -> &Node<'t> {
        path.iter().fold(self, |node, key| &node[*key])
    }

    /// A field's value; null stays behind.
    pub(super) fn take(&mut self, key: &str) -> Node<'t> {
        match &mut self.data {
            Data::Mapping(map) => match map.find(key) {
                Ok(at) => std::mem::replace(&mut map.entries[at].value, NULL),
                Err(_) => NULL,
            },
            _ => NULL,
        }
    }

    /// Sets a field of a mapping.
    pub(super) fn put(&mut self, key: &'static str, value: Node<'t>) {
        if let Data::Mapping(map) = &mut self.data {
            let entry = MapEntry {
                key: key.into(),
                place: value.place,
                value,
            };
            match map.find(key) {
                Ok(at) => map.entries[at] = entry,
                Err(at) => map.entries.insert(at, entry),
            }
        }
    }

    pub(super) fn into_list(self) -> Result<Vec<Node<'t>>, Node<'t>> {
        match self.data {
            Data::List(list) => Ok(list),
            _ => Err(self),
        }
    }

    /// Where the field stands, or the nearest one around it.
    pub(super) fn find(&self, path: &str) -> Option<Position> {
        let (node, place, rest) = match &self.data {
            Data::Mapping(map) => {
                // Keys have dots of their own: the longest that fits.
                let fits = map.entries.iter().filter_map(|entry| {
                    let rest = path.strip_prefix(&*entry.key)?;
                    let whole = rest.is_empty() || rest.starts_with(['.', '[']);
                    whole.then_some((&entry.value, entry.place, rest))
                });
                fits.min_by_key(|(_, _, rest)| rest.len())?
            }
            Data::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                (item, item.place, rest)
            }
            Data::Null | Data::Bare(_) | Data::Text(_) => return None,
        };
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        node.find(rest).or(Some(place))
    }

    /// Without places, for what serde reads and what is shown.
    pub(super) fn to_value(&self) -> Value {
        match self.view() {
            View::Null => Value::Null,
            View::Bool(bool) => bool.into(),
            View::Number(number) => number.into(),
            View::Text(text) => text.into(),
            View::List(list) => list.iter().map(Self::to_value).collect(),
            View::Mapping(map) => {
                let pairs = map.iter().map(|(key, node)| (key, node.to_value()));
                pairs.collect()
            }
        }
    }
}

impl<'t> Mapping<'t> {
    /// The second of two entries with one key is the error.
    fn of(mut entries: Vec<MapEntry<'t>>) -> Result<Self, MapEntry<'t>> {
        // In order of the text where they are equal.
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        let twice = entries.windows(2).position(|two| two[0].key == two[1].key);
        match twice {
            Some(at) => Err(entries.swap_remove(at + 1)),
            None => Ok(Self { entries }),
        }
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| (*entry.key).cmp(key))
    }

    fn get(&self, key: &str) -> Option<&Node<'t>> {
        self.find(key).ok().map(|at| &self.entries[at].value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Node<'t>)> {
        self.entries.iter().map(|entry| (&*entry.key, &entry.value))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.key)
    }
}

/// A field of a mapping; null where there is none.
impl<'t> Index<&str> for Node<'t> {
    type Output = Node<'t>;

    fn index(&self, key: &str) -> &Node<'t> {
        self.get(key).unwrap_or(&NULL)
    }
}

impl PartialEq<str> for Node<'_> {
    fn eq(&self, text: &str) -> bool {
        self.as_text() == Some(text)
    }
}

impl PartialEq<&str> for Node<'_> {
    fn eq(&self, text: &&str) -> bool {
        self.as_text() == Some(*text)
    }
}

impl PartialEq<bool> for Node<'_> {
    fn eq(&self, bool: &bool) -> bool {
        matches!(self.view(), View::Bool(own) if own == *bool)
    }
}

/// As JSON.
impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_value().fmt(f)
    }
}
