//! A list, item by item as it comes. Does no I/O.
//!
//! The largest answers of the API server are hundreds of megabytes: of them no
//! more is held than one item, and what stands around the items.

use serde::{Deserialize, Deserializer};

/// Larger than what etcd takes.
pub(super) const MAX_ITEM: usize = 8 << 20;
/// Of a list without its items.
const MAX_REST: usize = 64 << 10;
/// What serde_json reads.
const MAX_DEPTH: usize = 128;

/// It is not a list as the API server writes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("an object of more than {} MiB", MAX_ITEM >> 20)]
    TooLarge,
    #[error("brackets that do not fit")]
    Brackets,
    #[error("an item that is no object")]
    Item,
    #[error("it ends too early")]
    Short,
    #[error("no list: {0}")]
    NoList(String),
}

/// What a list says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) version: String,
    /// Where the next page begins.
    pub(crate) next: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct ListReader {
    /// The document with an empty list of items.
    rest: Vec<u8>,
    item: Vec<u8>,
    depth: usize,
    in_text: bool,
    escaped: bool,
    in_items: bool,
    seen_items: bool,
}

/// The depth of the list of items.
const ITEMS: usize = 2;

impl ListReader {
    /// Takes the next bytes, and gives the items that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], items: &mut Vec<Vec<u8>>) -> Result<(), Malformed> {
        for byte in bytes {
            self.byte(*byte, items)?;
        }
        let is_small = self.rest.len() <= MAX_REST && self.item.len() <= MAX_ITEM;
        is_small.then_some(()).ok_or(Malformed::TooLarge)
    }

    fn byte(&mut self, byte: u8, items: &mut Vec<Vec<u8>>) -> Result<(), Malformed> {
        if self.in_text {
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            self.put(byte);
            return Ok(());
        }
        let between = self.in_items && self.depth == ITEMS;
        match byte {
            b'{' | b'[' => self.open(byte, between)?,
            b'}' | b']' => self.close(byte, items)?,
            b',' | b' ' | b'\t' | b'\r' | b'\n' if between => {}
            _ if between => return Err(Malformed::Item),
            byte => {
                self.in_text = byte == b'"';
                self.put(byte);
            }
        }
        Ok(())
    }

    fn put(&mut self, byte: u8) {
        match self.in_items {
            true => self.item.push(byte),
            false => self.rest.push(byte),
        }
    }

    fn open(&mut self, byte: u8, between: bool) -> Result<(), Malformed> {
        if between && byte != b'{' {
            return Err(Malformed::Item);
        }
        if self.depth == MAX_DEPTH {
            return Err(Malformed::Brackets);
        }
        let begins = byte == b'[' && self.depth + 1 == ITEMS && !self.seen_items;
        self.put(byte);
        self.depth += 1;
        if begins && is_items(&self.rest) {
            self.in_items = true;
            self.seen_items = true;
        }
        Ok(())
    }

    fn close(&mut self, byte: u8, items: &mut Vec<Vec<u8>>) -> Result<(), Malformed> {
        self.depth = self.depth.checked_sub(1).ok_or(Malformed::Brackets)?;
        if self.in_items && self.depth < ITEMS {
            self.in_items = false;
        }
        self.put(byte);
        if self.in_items && self.depth == ITEMS {
            items.push(std::mem::take(&mut self.item));
        }
        Ok(())
    }

    /// After the last byte.
    pub(crate) fn end(self) -> Result<Page, Malformed> {
        #[derive(Deserialize)]
        struct List {
            kind: String,
            metadata: Meta,
            #[serde(rename = "items", deserialize_with = "nothing")]
            _items: (),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            resource_version: String,
            #[serde(default)]
            r#continue: Option<String>,
        }
        if self.depth > 0 || self.in_text {
            return Err(Malformed::Short);
        }
        let no_list = |error: serde_json::Error| Malformed::NoList(error.to_string());
        let list: List = serde_json::from_slice(&self.rest).map_err(no_list)?;
        if !list.kind.ends_with("List") {
            return Err(Malformed::NoList(format!("kind {:?}", list.kind)));
        }
        Ok(Page {
            version: list.metadata.resource_version,
            next: list.metadata.r#continue.filter(|next| !next.is_empty()),
        })
    }
}

/// Go writes null for a list without items. It must say so.
fn nothing<'de, D: Deserializer<'de>>(items: D) -> Result<(), D::Error> {
    Option::<[(); 0]>::deserialize(items).map(|_| ())
}

/// Does the bracket behind it begin the items?
fn is_items(rest: &[u8]) -> bool {
    let name = || {
        let value = rest.strip_suffix(b"[")?.trim_ascii_end();
        value
            .strip_suffix(b":")?
            .trim_ascii_end()
            .strip_suffix(b"\"items\"")
    };
    // Not the end of a longer name, which would have an escaped quote before.
    name().is_some_and(|before| !before.ends_with(b"\\"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, step: usize) -> Result<(Vec<String>, Page), Malformed> {
        let mut reader = ListReader::default();
        let mut items = Vec::new();
        for bytes in text.as_bytes().chunks(step.max(1)) {
            reader.feed(bytes, &mut items)?;
        }
        let texts = items
            .into_iter()
            .map(|item| String::from_utf8(item).expect("text"));
        Ok((texts.collect(), reader.end()?))
    }

    #[test]
    fn items_come_one_by_one_wherever_the_bytes_are_cut() {
        let text = r#"{"kind":"PodList", "metadata":{"resourceVersion":"7","continue":"next","items":[1]},"items" : [{"a":["}]","\"\\"]} , {"b":{}}],"x":{"items":[{}]}}"#;
        for step in 1..text.len() {
            let (items, page) = read(text, step).expect("a list");
            assert_eq!(items, [r#"{"a":["}]","\"\\"]}"#, r#"{"b":{}}"#]);
            assert_eq!(
                (page.version.as_str(), page.next.as_deref()),
                ("7", Some("next"))
            );
        }
    }

    #[test]
    fn a_list_without_items_is_a_list() {
        for items in ["null", "[]", " [ ] "] {
            let text = format!(
                r#"{{"kind":"PodList","metadata":{{"resourceVersion":"7","continue":""}},"items":{items}}}"#
            );
            let (found, page) = read(&text, 5).expect("a list");
            assert!(found.is_empty() && page.next.is_none());
        }
    }

    #[test]
    fn half_a_list_is_none() {
        let whole =
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":2}]}"#;
        assert!(read(whole, 100).is_ok());
        for end in 0..whole.len() {
            assert!(read(&whole[..end], 100).is_err(), "{}", &whole[..end]);
        }
    }

    #[test]
    fn what_is_no_list_is_not_taken_for_one() {
        for text in [
            r#"{"kind":"Status","metadata":{"resourceVersion":"7"},"items":[]}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"}}"#,
            r#"{"kind":"PodList","metadata":{},"items":[]}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":{}}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[1]}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[[]]}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[null]}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":["a"]}"#,
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[}"#,
            "[]",
            "",
            "]",
        ] {
            assert!(read(text, 7).is_err(), "{text}");
        }
    }

    #[test]
    fn what_has_no_end_is_not_held() {
        let mut reader = ListReader::default();
        let mut items = Vec::new();
        let begin = br#"{"kind":"PodList","items":[{"a":""#;
        reader.feed(begin, &mut items).expect("so far");
        let more = vec![b'a'; 1 << 20];
        let fed = (0..9).try_for_each(|_| reader.feed(&more, &mut items));
        assert_eq!(fed, Err(Malformed::TooLarge));
        let deep = vec![b'['; 1_000];
        let mut reader = ListReader::default();
        assert_eq!(reader.feed(&deep, &mut items), Err(Malformed::Brackets));
    }

    proptest! {
        /// Held to serde_json: the same items, or none of both.
        #[test]
        fn it_reads_what_serde_json_reads(
            items in proptest::collection::vec("[a-z\\[\\]{},:\"\\\\ 0-9]{0,12}", 0..4),
            step in 1_usize..9,
        ) {
            let items: Vec<_> = items.iter().map(|text| serde_json::json!({"x": text, "y": [text]})).collect();
            let list = serde_json::json!({"kind": "XList", "items": items, "metadata": {"resourceVersion": "1"}});
            let (found, _) = read(&list.to_string(), step).expect("a list");
            let found: Vec<serde_json::Value> =
                found.iter().map(|item| serde_json::from_str(item).expect("JSON")).collect();
            prop_assert_eq!(found, items);
        }
    }
}
