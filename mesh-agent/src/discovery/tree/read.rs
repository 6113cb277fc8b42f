//! Which reader a document gets.

use super::json::json;
use super::plain::plain;
use super::yaml::yaml;
use super::{Error, Node};

/// Reads one document.
pub(in crate::discovery) fn read(document: &str) -> Result<Node<'_>, Error> {
    // All JSON is YAML, and most YAML is plain: both are read many times
    // faster as what they are.
    let fast = match document.trim_start().starts_with(['{', '[']) {
        true => json(document),
        false => plain(document),
    };
    fast.map_or_else(|| yaml(document), Ok)
}
