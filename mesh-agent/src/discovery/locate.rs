//! Where in a file a field stands.
//!
//! Parsed once more, with positions, and only where there is something to point
//! at: they would cost every object memory else.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Problem;
use super::documents::documents;
use super::yaml::yaml;

/// Sets line and column of the fields that the problems are about, as far as
/// their files still have them.
pub(super) fn locate(problems: &mut [Problem]) {
    problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    let mut file = (None, String::new());
    let mut parsed = (None, None);
    for problem in problems {
        if problem.line == 0 || problem.column > 0 || problem.field.is_empty() {
            continue;
        }
        if file.0.as_ref() != Some(&problem.file) {
            let text = super::files::text(&problem.file).unwrap_or_default();
            file = (Some(problem.file.clone()), text);
            parsed = (None, None);
        }
        if parsed.0 != Some(problem.line) {
            let mut document = documents(&file.1).into_iter();
            let document = document.find(|(line, _)| *line == problem.line);
            let node = document.and_then(|(_, text)| yaml::<Node>(&text).ok());
            parsed = (Some(problem.line), node);
        }
        let path = [problem.item.as_str(), problem.field.as_str()];
        let path: Vec<_> = path.into_iter().filter(|part| !part.is_empty()).collect();
        let found = parsed
            .1
            .as_ref()
            .and_then(|node| node.find(&path.join(".")));
        if let Some((line, column)) = found {
            problem.line += line - 1;
            problem.column = column;
        }
    }
}

/// A value's shape, with the place of every key and item.
enum Node {
    Mapping(Vec<(Spanned<String>, Node)>),
    List(Vec<Spanned<Node>>),
    Other,
}

impl Node {
    /// Line and column of the field, or of the nearest one around it.
    fn find(&self, path: &str) -> Option<(u64, u64)> {
        let place = |at: serde_saphyr::Location| Some((at.line(), at.column()));
        let (node, at, rest) = match self {
            Self::Mapping(fields) => {
                // Keys have dots of their own: the longest that fits.
                let fits = fields.iter().filter_map(|(key, node)| {
                    let rest = path.strip_prefix(key.value.as_str())?;
                    let whole = rest.is_empty() || rest.starts_with(['.', '[']);
                    whole.then_some((node, key.referenced, rest))
                });
                fits.min_by_key(|(_, _, rest)| rest.len())?
            }
            Self::List(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                (&item.value, item.referenced, rest)
            }
            Self::Other => return None,
        };
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        node.find(rest).or_else(|| place(at))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Node::Mapping(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(inner).map(|_| Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_path() {
        let text = "kind: X\nmetadata:\n  labels: {a.b/c: \"1\"}\nitems:\n- spec:\n    ports:\n    - port: 1\n    - {name: x, port: y}\n";
        let node: Node = yaml(text).expect("YAML");
        for (path, at) in [
            ("kind", (1, 1)),
            ("metadata.labels.a.b/c", (3, 12)),
            ("items[0].spec.ports[0].port", (7, 7)),
            ("items[0].spec.ports[1].port", (8, 17)),
            ("items[0].spec.ports[1]", (8, 7)),
            ("items[0].spec.ports[9].port", (6, 5)),
            ("metadata.name", (2, 1)),
        ] {
            assert_eq!(node.find(path), Some(at), "{path}");
        }
        assert_eq!(node.find("spec"), None);
    }
}
