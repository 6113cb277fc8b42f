//! What a rule becomes: policies to be, and notes on what is lost.

use std::collections::BTreeMap;
use std::fmt;

/// What is not translated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// `DestinationRule namespace/name`.
    pub(crate) rule: String,
    pub(crate) field: String,
    pub(crate) why: String,
    /// Nothing of its rule is translated.
    pub(crate) is_error: bool,
}

/// One TrafficPolicy to be.
pub(super) struct Policy {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) section: Option<String>,
    pub(super) parts: Parts,
}

/// Fields of the policy's `spec`, by part.
pub(super) type Parts = BTreeMap<&'static str, serde_json::Map<String, serde_json::Value>>;

/// Names of a Service's ports, by number.
pub(super) type Ports = BTreeMap<(String, String), BTreeMap<u64, Option<String>>>;

pub(super) fn note(rule: &str, field: &str, why: String, is_error: bool) -> Note {
    Note {
        rule: rule.to_owned(),
        field: field.to_owned(),
        why,
        is_error,
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.rule.is_empty() {
            write!(f, "{}: ", self.rule)?;
        }
        let weight = match self.is_error {
            true => "error",
            false => "not translated",
        };
        write!(f, "{weight}: {}: {}", self.field, self.why)
    }
}
