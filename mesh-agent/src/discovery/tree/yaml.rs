//! YAML to a tree, event by event.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, Tag};

use super::scalar::{self, Scalar};
use super::{Data, Error, MAX_DEPTH, MAX_NODES, MapEntry, Mapping, NULL, Node, Position};

/// Reads one document; of nothing it is null.
pub(in crate::discovery) fn yaml(text: &str) -> Result<Node<'_>, Error> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::new(text.len());
    while let Some(next) = parser.next_event() {
        let (event, span) = next.map_err(|e| error(place(e.marker()), e.info()))?;
        builder.event(event, place(&span.start))?;
    }
    Ok(builder.root.unwrap_or(NULL))
}

fn place(marker: &Marker) -> Position {
    // A file has some millions of bytes.
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position {
        line: number(marker.line()),
        column: number(marker.col()).saturating_add(1),
    }
}

fn error(place: Position, message: impl Into<String>) -> Error {
    let message = message.into();
    Error { place, message }
}

struct Builder<'t> {
    /// Lists and mappings that have not ended, each in the one before.
    open: Vec<OpenNode<'t>>,
    /// Of all open lists: each has those from its start on.
    items: Vec<Node<'t>>,
    /// Of all open mappings.
    entries: Vec<MapEntry<'t>>,
    anchors: HashMap<usize, Anchored<'t>>,
    nodes: usize,
    /// How many values aliases may still repeat: as many as the document has
    /// bytes. A few hundred of these would be a million values else.
    repeats: usize,
    documents: usize,
    root: Option<Node<'t>>,
}

struct OpenNode<'t> {
    place: Position,
    anchor: usize,
    within: Within<'t>,
}

enum Within<'t> {
    List {
        start: usize,
    },
    Mapping {
        start: usize,
        key: Key<'t>,
        /// Mappings whose fields count where the mapping does not have them.
        merged: Vec<Node<'t>>,
    },
}

enum Key<'t> {
    /// The next value is one.
    Awaited,
    Named(Cow<'t, str>, Position),
    Merge,
}

struct Anchored<'t> {
    node: Node<'t>,
    size: Size,
}

/// Of a node with all that it has.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    depth: usize,
}

impl<'t> Builder<'t> {
    fn new(length: usize) -> Self {
        Self {
            open: Vec::new(),
            items: Vec::new(),
            entries: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            repeats: length,
            documents: 0,
            root: None,
        }
    }

    fn event(&mut self, event: Event<'t>, place: Position) -> Result<(), Error> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, place)?;
                let quoted = style != ScalarStyle::Plain;
                let is_untagged = tag.is_none();
                let tag = tag.map_or(Ok(Tagged::No), |tag| tagged(&tag, place))?;
                let is_key = self.awaits_key() && anchor == 0;
                let merges = tag == Tagged::Merge || (is_untagged && !quoted);
                if is_key && text == "<<" && merges {
                    return self.key(Key::Merge, place);
                }
                let data = match is_key && !scalar::is_null(&text) && is_untagged {
                    // As it is written: a port is a name of its settings.
                    true => Data::Text(text),
                    false => scalar(text, quoted, tag, place)?,
                };
                self.add(Node { data, place }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.is_tagged(tag, Tagged::List, place)?;
                let start = self.items.len();
                self.begin(Within::List { start }, anchor, place)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.is_tagged(tag, Tagged::Mapping, place)?;
                let within = Within::Mapping {
                    start: self.entries.len(),
                    key: Key::Awaited,
                    merged: Vec::new(),
                };
                self.begin(within, anchor, place)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, place),
            Event::DocumentStart(..) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(error(
                        place,
                        "a second document: it needs a \"---\" before it",
                    )),
                }
            }
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            _ => Err(error(place, "is not served")),
        }
    }

    fn count(&mut self, more: usize, place: Position) -> Result<(), Error> {
        self.nodes += more;
        match self.nodes > MAX_NODES {
            true => Err(error(place, format!("has more than {MAX_NODES} values"))),
            false => Ok(()),
        }
    }

    fn is_tagged(
        &self,
        tag: Option<Cow<'_, Tag>>,
        of: Tagged,
        place: Position,
    ) -> Result<(), Error> {
        let tag = tag.map_or(Ok(Tagged::No), |tag| tagged(&tag, place))?;
        match tag {
            Tagged::No | Tagged::Unspecific | Tagged::Unknown => Ok(()),
            tag if tag == of => Ok(()),
            _ => Err(error(place, "its tag says that it is something else")),
        }
    }

    fn begin(&mut self, within: Within<'t>, anchor: usize, place: Position) -> Result<(), Error> {
        self.count(1, place)?;
        self.is_within(self.open.len() + 1, place)?;
        self.open.push(OpenNode {
            place,
            anchor,
            within,
        });
        Ok(())
    }

    fn is_within(&self, depth: usize, place: Position) -> Result<(), Error> {
        match depth > MAX_DEPTH {
            true => Err(error(
                place,
                format!("is nested more than {MAX_DEPTH} deep"),
            )),
            false => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.pop() else {
            return Err(error(Position::default(), "ends what has not begun"));
        };
        let data = match open.within {
            Within::List { start } => Data::List(self.items.drain(start..).collect()),
            Within::Mapping { start, merged, .. } => {
                let own = self.entries.drain(start..).collect();
                Data::Mapping(mapping(own, merged)?)
            }
        };
        let place = open.place;
        self.add(Node { data, place }, open.anchor)
    }

    fn alias(&mut self, anchor: usize, place: Position) -> Result<(), Error> {
        let Some(Anchored { node, size }) = self.anchors.get(&anchor) else {
            return Err(error(place, "an alias of what it stands in"));
        };
        let (node, size) = (node.data.clone(), *size);
        self.is_within(self.open.len() + size.depth, place)?;
        let left = self.repeats.checked_sub(size.nodes);
        let too_many = || error(place, "aliases repeat more than the document has bytes");
        self.repeats = left.ok_or_else(too_many)?;
        self.count(size.nodes, place)?;
        self.add(Node { data: node, place }, 0)
    }

    fn awaits_key(&self) -> bool {
        let within = self.open.last().map(|open| &open.within);
        matches!(
            within,
            Some(Within::Mapping {
                key: Key::Awaited,
                ..
            })
        )
    }

    fn key(&mut self, next: Key<'t>, place: Position) -> Result<(), Error> {
        match self.open.last_mut().map(|open| &mut open.within) {
            Some(Within::Mapping { key, .. }) => {
                *key = next;
                Ok(())
            }
            _ => Err(error(place, "a key outside of a mapping")),
        }
    }

    /// A value that is whole, to where it stands.
    fn add(&mut self, node: Node<'t>, anchor: usize) -> Result<(), Error> {
        if anchor != 0 {
            let size = size(&node);
            self.count(size.nodes, node.place)?;
            let node = node.clone();
            self.anchors.insert(anchor, Anchored { node, size });
        }
        match self.open.last_mut().map(|open| &mut open.within) {
            None => self.root = Some(node),
            Some(Within::List { .. }) => self.items.push(node),
            Some(Within::Mapping { key, merged, .. }) => {
                match std::mem::replace(key, Key::Awaited) {
                    Key::Awaited => *key = name(node)?,
                    Key::Named(key, place) => self.entries.push(MapEntry {
                        key,
                        place,
                        value: node,
                    }),
                    Key::Merge => flatten(node, merged)?,
                }
            }
        }
        Ok(())
    }
}

fn name(node: Node<'_>) -> Result<Key<'_>, Error> {
    match node.data {
        Data::Text(text) | Data::Bare(text) => Ok(Key::Named(text, node.place)),
        Data::Null => Err(error(node.place, "a key must not be empty")),
        Data::List(_) | Data::Mapping(_) => Err(error(node.place, "a key must be a text")),
    }
}

/// The mappings of a merge key in their order: of two the first counts.
fn flatten<'t>(node: Node<'t>, merged: &mut Vec<Node<'t>>) -> Result<(), Error> {
    match node.data {
        Data::Null => Ok(()),
        Data::Mapping(_) => {
            merged.push(node);
            Ok(())
        }
        Data::List(list) => list.into_iter().try_for_each(|node| flatten(node, merged)),
        Data::Bare(_) | Data::Text(_) => {
            let message = "what is merged must be a mapping, or a list of them";
            Err(error(node.place, message))
        }
    }
}

fn mapping<'t>(own: Vec<MapEntry<'t>>, merged: Vec<Node<'t>>) -> Result<Mapping<'t>, Error> {
    let mut map = Mapping::of(own).map_err(|twice| {
        let message = format!("duplicate mapping key: {}", twice.key);
        error(twice.place, message)
    })?;
    for node in merged {
        if let Data::Mapping(more) = node.data {
            map.entries.extend(more.entries);
        }
    }
    // All at once: of each key the first is its own, or the first one merged.
    map.entries.sort_by(|a, b| a.key.cmp(&b.key));
    map.entries.dedup_by(|later, first| later.key == first.key);
    Ok(map)
}

fn size(node: &Node<'_>) -> Size {
    let around = |sizes: &mut dyn Iterator<Item = Size>, keys: usize| {
        sizes.fold(
            Size {
                nodes: 1 + keys,
                depth: 1,
            },
            |all, one| Size {
                nodes: all.nodes + one.nodes,
                depth: all.depth.max(one.depth + 1),
            },
        )
    };
    match &node.data {
        Data::Null | Data::Bare(_) | Data::Text(_) => Size { nodes: 1, depth: 0 },
        Data::List(list) => around(&mut list.iter().map(size), 0),
        Data::Mapping(map) => {
            let values = &mut map.iter().map(|(_, value)| size(value));
            around(values, map.entries.len())
        }
    }
}

/// What a tag says that its node is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tagged {
    No,
    Text,
    Null,
    Bool,
    Integer,
    Float,
    List,
    Mapping,
    Merge,
    /// A lone `!`: what it would be without a look at the text.
    Unspecific,
    /// Somebody's own.
    Unknown,
}

fn tagged(tag: &Tag, place: Position) -> Result<Tagged, Error> {
    let whole = format!("{}{}", tag.handle(), tag.suffix());
    let of_yaml = whole.strip_prefix("tag:yaml.org,2002:");
    Ok(match of_yaml.unwrap_or(whole.trim_start_matches('!')) {
        "" => Tagged::Unspecific,
        "str" => Tagged::Text,
        "null" => Tagged::Null,
        "bool" => Tagged::Bool,
        "int" => Tagged::Integer,
        "float" => Tagged::Float,
        "seq" => Tagged::List,
        "map" => Tagged::Mapping,
        "merge" if of_yaml.is_some() => Tagged::Merge,
        "binary" | "timestamp" | "include" => {
            return Err(error(
                place,
                format!("the tag {} is not served", tag.original()),
            ));
        }
        _ => Tagged::Unknown,
    })
}

pub(super) fn scalar<'t>(
    text: Cow<'t, str>,
    quoted: bool,
    tag: Tagged,
    place: Position,
) -> Result<Data<'t>, Error> {
    let trimmed = text.trim_matches([' ', '\t', '\r', '\n']);
    let must_be = |what: &str, is: bool| match is {
        true => Ok(()),
        false => Err(error(
            place,
            format!("{text:?} is not {what}, as its tag says"),
        )),
    };
    match tag {
        Tagged::Text | Tagged::Unspecific => return Ok(Data::Text(text)),
        Tagged::Null => return Ok(Data::Null),
        Tagged::Bool => must_be("true or false", scalar::boolean(trimmed).is_some())?,
        Tagged::Integer => must_be("a whole number", scalar::integer(trimmed).is_some())?,
        Tagged::Float => must_be("a number", scalar::float(trimmed).is_some())?,
        Tagged::List | Tagged::Mapping => must_be("a list or a mapping", false)?,
        Tagged::No | Tagged::Merge | Tagged::Unknown if quoted => return Ok(Data::Text(text)),
        Tagged::No | Tagged::Merge | Tagged::Unknown => {}
    }
    match scalar::resolve(trimmed) {
        Scalar::Null => Ok(Data::Null),
        Scalar::Text => Ok(Data::Text(text)),
        Scalar::NotFinite => Err(error(place, format!("{text} is no finite number"))),
        Scalar::Bool(_) | Scalar::Number(_) if trimmed.len() == text.len() => Ok(Data::Bare(text)),
        Scalar::Bool(_) | Scalar::Number(_) => Ok(Data::Bare(trimmed.to_owned().into())),
    }
}
