//! Documents of any content in any of YAML's ways to write it.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::read;
use super::holds;

const WORDS: [&str; 60] = [
    "",
    "a",
    "on",
    "No",
    "y",
    "null",
    "~",
    "true",
    "007",
    "1.10",
    "1e3",
    "0x1F",
    "1_000",
    ".inf",
    "-",
    "- a",
    "a: b",
    "a #b",
    "#a",
    "a\nb",
    "a\n\n  b\n",
    " a ",
    "[a",
    "{",
    "\"",
    "'",
    "it's",
    "a\\b",
    "&a",
    "*a",
    "!a",
    "%a",
    "@a",
    "`a",
    "|",
    ">",
    "?",
    "? a",
    ": a",
    "a:",
    ",",
    "---",
    "...",
    "<<",
    "=",
    "10.0.0.1",
    "fd00::1",
    "app.kubernetes.io/name",
    "é",
    "\t",
    "a\tb",
    "\u{1F600}",
    "2026-11-27T10:00:00Z",
    "12:30:45",
    "0",
    "-0",
    "+1",
    ".",
    "1.",
    ".5",
];

/// What scalars of configurations are like, and what is mistaken for another.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => prop::sample::select(&WORDS[..]).prop_map(Value::from),
        2 => "[ -~]{0,12}".prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => (0_u64..70_000).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z][a-zA-Z]{0,8}",
        1 => "[a-z]{1,3}\\.[a-z]{1,3}/[a-z0-9-]{1,5}",
        1 => "[ -~]{0,6}",
        1 => "[0-9]{1,5}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            2 => prop::collection::vec((key(), inner.clone()), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
            1 => prop::collection::vec(inner, 0..5).prop_map(Value::Array),
        ]
    })
}

/// Writes a value; each choice is taken from `style`.
struct Writer<'s> {
    style: &'s [u8],
    next: usize,
    text: String,
}

impl Writer<'_> {
    fn choose(&mut self, of: u8) -> u8 {
        let choice = self.style[self.next % self.style.len()];
        self.next += 1;
        choice % of
    }

    /// Plain where the choice says so: what that is then is for both to tell.
    fn scalar(&mut self, value: &Value) {
        let text = match value {
            Value::String(text) => text.clone(),
            other => return self.text.push_str(&other.to_string()),
        };
        match self.choose(4) {
            0 if !text.contains('\n') => self.text.push_str(&text),
            1 if !text.contains('\n') => {
                self.text
                    .push_str(&format!("'{}'", text.replace('\'', "''")));
            }
            _ => self.text.push_str(&Value::from(text).to_string()),
        }
    }

    fn flow(&mut self, value: &Value) {
        match value {
            Value::Array(list) => {
                self.text.push('[');
                for item in list {
                    self.flow(item);
                    self.text.push_str(", ");
                }
                self.text.push(']');
            }
            Value::Object(map) => {
                self.text.push('{');
                for (key, value) in map {
                    self.scalar(&key.as_str().into());
                    self.text.push_str(": ");
                    self.flow(value);
                    self.text.push_str(", ");
                }
                self.text.push('}');
            }
            scalar => self.scalar(scalar),
        }
    }

    /// After a key or a dash.
    fn below(&mut self, value: &Value, indent: usize) {
        let is_block = match value {
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) if self.choose(6) == 0 && !text.trim().is_empty() => {
                return self.block(text, indent);
            }
            _ => false,
        };
        if !is_block || self.choose(5) == 0 {
            self.text.push(' ');
            self.flow(value);
            return self.end();
        }
        self.end();
        let deeper = 1 + usize::from(self.choose(4));
        let indent = match value {
            // Kubernetes' tools do not indent lists.
            Value::Array(_) if self.choose(2) == 0 => indent,
            _ => indent + deeper,
        };
        self.lines(value, indent);
    }

    fn block(&mut self, text: &str, indent: usize) {
        let mark = [" |", " |-", " |+", " >-", " >"][usize::from(self.choose(5))];
        self.text.push_str(mark);
        for line in text.split('\n') {
            self.text.push('\n');
            self.text.push_str(&" ".repeat(indent + 2));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    fn end(&mut self) {
        let ends = [
            "\n",
            "\n",
            "\n",
            " # a comment\n",
            "  \n",
            "\n\n",
            "\n# a comment\n",
        ];
        let end = ends[usize::from(self.choose(7))];
        self.text.push_str(end);
    }

    fn lines(&mut self, value: &Value, indent: usize) {
        let margin = " ".repeat(indent);
        match value {
            Value::Array(list) if !list.is_empty() => {
                for item in list {
                    self.text.push_str(&margin);
                    self.text.push('-');
                    match item {
                        Value::Object(map) if !map.is_empty() && self.choose(2) == 0 => {
                            // The first field stands on the line of the dash.
                            let start = self.text.len();
                            self.lines(item, indent + 2);
                            let dashed =
                                " ".to_owned() + self.text[start..].trim_start_matches(' ');
                            self.text.truncate(start);
                            self.text.push_str(&dashed);
                        }
                        _ => self.below(item, indent),
                    }
                }
            }
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    self.text.push_str(&margin);
                    self.scalar(&key.as_str().into());
                    self.text.push(':');
                    self.below(value, indent);
                }
            }
            other => {
                self.text.push_str(&margin);
                self.flow(other);
                self.text.push('\n');
            }
        }
    }
}

fn written(value: &Value, style: &[u8]) -> String {
    let mut writer = Writer {
        style,
        next: 0,
        text: String::new(),
    };
    writer.lines(value, 0);
    writer.text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_document_is_read_as_before(
        value in value(),
        style in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        let text = written(&value, &style);
        prop_assert_eq!(holds(&text), Ok(()));
    }

    #[test]
    fn what_json_says_is_found(value in value()) {
        for text in [value.to_string(), format!("{value:#}")] {
            prop_assert_eq!(read(&text).expect("JSON").to_value(), value.clone());
        }
    }
}
