//! What a watch tells, line by line as it comes. Does no I/O.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::{Fault, Refused};
use super::item::{Head, Item};
use super::list::MAX_ITEM;
use super::resource::Resource;

#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The line that has not ended yet.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes, and gives the lines that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8], lines: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            self.begun.extend_from_slice(piece);
            if self.begun.len() > MAX_ITEM {
                let message = format!("an event of more than {} MiB", MAX_ITEM >> 20);
                return Err(Fault::Garbled(message));
            }
            if pieces.peek().is_some() {
                lines.push(std::mem::take(&mut self.begun));
            }
        }
        Ok(())
    }
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Changed(Item),
    Deleted(Head),
    /// Nothing but how far it is.
    Bookmark(String),
    Error(Refused),
}

impl Told {
    pub(super) fn read(resource: &Resource, line: &[u8]) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        struct Line<'l> {
            #[serde(rename = "type")]
            what: &'l str,
            #[serde(borrow)]
            object: &'l RawValue,
        }
        let garbled = |error: &dyn std::fmt::Display| Fault::Garbled(error.to_string());
        let text = std::str::from_utf8(line).map_err(|error| garbled(&error))?;
        let Line { what, object } = serde_json::from_str(text).map_err(|error| garbled(&error))?;
        let object = object.get().as_bytes();
        if what == "ERROR" {
            return Ok(Self::Error(Refused::of(None, object)));
        }
        let item = Item::read(resource, object);
        // Nobody could say later which object it was.
        let has_name = !item.head.name.is_empty();
        match what {
            "BOOKMARK" if !item.head.version.is_empty() => Ok(Self::Bookmark(item.head.version)),
            "ADDED" | "MODIFIED" if has_name => Ok(Self::Changed(item)),
            "DELETED" if has_name => Ok(Self::Deleted(item.head)),
            "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" => Err(Fault::Garbled(format!(
                "{what} of something without a name"
            ))),
            what => Err(Fault::Garbled(format!("an event {what:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Resource = Resource::PODS;

    #[test]
    fn lines_are_whole_wherever_the_bytes_are_cut() {
        let text = b"one\ntwo\n\nfour\nfi";
        for step in 1..text.len() {
            let mut lines = Lines::default();
            let mut all = Vec::new();
            for bytes in text.chunks(step) {
                lines.feed(bytes, &mut all).expect("lines");
            }
            assert_eq!(all, [&b"one"[..], b"two", b"", b"four"]);
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_held() {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        let more = vec![b'a'; 1 << 20];
        let fed = (0..9).try_for_each(|_| lines.feed(&more, &mut all));
        assert!(fed.is_err() && all.is_empty());
    }

    #[test]
    fn each_event_is_told_apart() {
        let read = |line: &str| Told::read(&PODS, line.as_bytes());
        let object = r#"{"kind":"Pod","metadata":{"name":"a","resourceVersion":"3"}}"#;
        for what in ["ADDED", "MODIFIED"] {
            let told = read(&format!(r#"{{"type":"{what}","object":{object}}}"#));
            assert!(matches!(told, Ok(Told::Changed(item)) if item.json == object.as_bytes()));
        }
        let told = read(&format!(r#"{{"object":{object},"type":"DELETED"}}"#));
        assert!(matches!(told, Ok(Told::Deleted(head)) if head.name == "a"));
        let told = read(
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"9","creationTimestamp":null}}}"#,
        );
        assert_eq!(told, Ok(Told::Bookmark("9".to_owned())));
        let told =
            read(r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#);
        assert!(matches!(told, Ok(Told::Error(refused)) if refused.code == 410));
        for odd in [
            "",
            "{}",
            "x",
            r#"{"type":"ADDED"}"#,
            r#"{"type":"ADDED","object":{"metadata":{}}}"#,
            r#"{"type":"OTHER","object":{"metadata":{"name":"a"}}}"#,
            r#"{"type":"BOOKMARK","object":{"metadata":{}}}"#,
            r#"{"type":"DELETED","object":[]}"#,
        ] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }
}
