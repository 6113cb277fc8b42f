//! What of an object's JSON nobody reads: left out before anything else.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

/// Fields that are left out, and fields in which others are; lists are gone
/// through. What is not named stays, so that a new field is never lost.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) out: &'static [&'static str],
    pub(crate) inside: &'static [(&'static str, Cut)],
}

impl Cut {
    pub(crate) const NOTHING: &'static Self = &Self {
        out: &[],
        inside: &[],
    };

    fn is_nothing(&self) -> bool {
        self.out.is_empty() && self.inside.is_empty()
    }

    pub(super) fn of(&self, field: &str) -> &Self {
        let inside = self.inside.iter().find(|(name, _)| *name == field);
        inside.map_or(Self::NOTHING, |(_, cut)| cut)
    }

    /// Writes a value without them; what does not parse is written as it is.
    pub(super) fn write(&self, value: &RawValue, to: &mut Vec<u8>) {
        let text = value.get();
        let is_written = !self.is_nothing()
            && match text.as_bytes().first() {
                Some(b'{') => serde_json::from_str(text)
                    .is_ok_and(|fields: Fields<'_>| self.write_fields(&fields, to)),
                Some(b'[') => serde_json::from_str(text)
                    .is_ok_and(|items: Items<'_>| self.write_items(&items, to)),
                _ => false,
            };
        if !is_written {
            to.extend_from_slice(text.as_bytes());
        }
    }

    fn write_fields(&self, fields: &Fields<'_>, to: &mut Vec<u8>) -> bool {
        to.push(b'{');
        let mut first = true;
        for (name, value) in &fields.0 {
            if !self.out.contains(&&**name) {
                begin(&mut first, to);
                write_field(name, to);
                self.of(name).write(value, to);
            }
        }
        to.push(b'}');
        true
    }

    fn write_items(&self, items: &Items<'_>, to: &mut Vec<u8>) -> bool {
        to.push(b'[');
        let mut first = true;
        for item in &items.0 {
            begin(&mut first, to);
            self.write(item, to);
        }
        to.push(b']');
        true
    }
}

/// A comma, but before the first.
pub(super) fn begin(first: &mut bool, to: &mut Vec<u8>) {
    if !std::mem::take(first) {
        to.push(b',');
    }
}

pub(super) fn write_field(name: &str, to: &mut Vec<u8>) {
    // Into memory: it cannot fail.
    let _never = serde_json::to_writer(&mut *to, name);
    to.push(b':');
}

/// The fields of an object, in order, as they are written.
pub(super) struct Fields<'j>(pub(super) Vec<(Cow<'j, str>, &'j RawValue)>);

struct Items<'j>(Vec<&'j RawValue>);

/// Borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'j>(#[serde(borrow)] Cow<'j, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &RawValue>()? {
                    fields.push((name.0, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reading)
    }
}

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element::<&RawValue>()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Reading)
    }
}

/// A text, or nothing of anything else.
pub(super) fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// The whole of it is JSON, and an object.
pub(super) fn fields(json: &[u8]) -> Result<Fields<'_>, serde_json::Error> {
    let text = std::str::from_utf8(json).map_err(de::Error::custom)?;
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cut: &Cut, json: &str) -> String {
        let value: &RawValue = serde_json::from_str(json).expect("JSON");
        let mut text = Vec::new();
        cut.write(value, &mut text);
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn what_is_named_is_left_out_and_nothing_else() {
        const CUT: Cut = Cut {
            out: &["big"],
            inside: &[(
                "list",
                Cut {
                    out: &["env"],
                    inside: &[],
                },
            )],
        };
        let json = r#"{"big":{"a":[1]},"list":[{"env":[],"n\"":1.10},{"x":null},7],"other":{"big":1,"env":2}}"#;
        let expected = r#"{"list":[{"n\"":1.10},{"x":null},7],"other":{"big":1,"env":2}}"#;
        assert_eq!(written(&CUT, json), expected);
        // Not what one expects there: it is the reader's to say so.
        assert_eq!(written(&CUT, r#"{"list":"text"}"#), r#"{"list":"text"}"#);
        assert_eq!(written(&CUT, "[]"), "[]");
    }
}
