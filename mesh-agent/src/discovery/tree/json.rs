//! JSON to a tree, where it says the same as YAML would.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{Data, MAX_DEPTH, MAX_NODES, MapEntry, Mapping, NULL, Node, Position};

/// `None` for all that is not plainly right, or not kept as it is written:
/// that is YAML's to read, which says what is wrong and where.
pub(super) fn json(document: &str) -> Option<Node<'_>> {
    // What YAML does not take as it is, JSON's texts may have.
    let is_told = |c: char| {
        !matches!(
            c,
            '\u{7f}'..='\u{9f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
    };
    if !document.chars().all(is_told) {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(document);
    let nodes = Cell::new(0);
    let seed = Seed {
        depth: 0,
        nodes: &nodes,
    };
    let node = seed.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(node)
}

#[derive(Clone, Copy)]
struct Seed<'c> {
    depth: usize,
    nodes: &'c Cell<usize>,
}

impl Seed<'_> {
    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        self.nodes.set(self.nodes.get() + 1);
        match self.nodes.get() > MAX_NODES {
            true => Err(E::custom("too many values")),
            false => Ok(()),
        }
    }

    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        match depth > MAX_DEPTH {
            true => Err(E::custom("too deep")),
            false => Ok(Self { depth, ..self }),
        }
    }
}

fn node(data: Data<'_>) -> Node<'_> {
    Node { data, ..NULL }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(NULL)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node<'de>, E> {
        Ok(Node::bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node<'de>, E> {
        Ok(node(Data::Bare(value.to_string().into())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node<'de>, E> {
        Ok(node(Data::Bare(value.to_string().into())))
    }

    // No `visit_f64`: how it is written would be lost.

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(node(Data::Text(text.into())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(node(Data::Text(text.to_owned().into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node<'de>, A::Error> {
        let seed = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            list.push(item);
        }
        Ok(node(Data::List(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let seed = self.below()?;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            seed.count()?;
            entries.push(MapEntry {
                key: key.0,
                place: Position::default(),
                value: map.next_value_seed(seed)?,
            });
        }
        let map = Mapping::of(entries).map_err(|_| A::Error::custom("a key twice"))?;
        Ok(node(Data::Mapping(map)))
    }
}

/// Borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'t>(#[serde(borrow)] std::borrow::Cow<'t, str>);
