//! Plain YAML and JSON are read as all of YAML reads them, or not at all.

use super::json::json;
use super::plain::plain;
use super::yaml::yaml;
use super::{Data, Node};

pub(in crate::discovery) fn agree(document: &str) -> Result<(), String> {
    let (plain, json, all) = (plain(document), json(document), yaml(document));
    let differ = |what: &str, node: &Node<'_>| {
        Err(format!("{document:?}: {what} {node:?}, and all {all:?}"))
    };
    match (&plain, &all) {
        (None, _) => {}
        (Some(plain), Ok(all)) if is_same(plain, all, true) => {}
        (Some(plain), _) => return differ("plain", plain),
    }
    match (&json, &all) {
        (None, _) => Ok(()),
        (Some(json), Ok(all)) if is_same(json, all, false) => Ok(()),
        (Some(json), _) => differ("JSON", json),
    }
}

/// Also the places of keys and items, where they have one.
fn is_same(a: &Node<'_>, b: &Node<'_>, placed: bool) -> bool {
    match (&a.data, &b.data) {
        (Data::Null, Data::Null) => true,
        (Data::Bare(a), Data::Bare(b)) | (Data::Text(a), Data::Text(b)) => a == b,
        (Data::List(a), Data::List(b)) => {
            let at = |a: &Node<'_>, b: &Node<'_>| !placed || a.is_null() || a.place == b.place;
            let mut both = a.iter().zip(b);
            a.len() == b.len() && both.all(|(a, b)| at(a, b) && is_same(a, b, placed))
        }
        (Data::Mapping(a), Data::Mapping(b)) => {
            let mut both = a.entries.iter().zip(&b.entries);
            a.entries.len() == b.entries.len()
                && both.all(|(a, b)| {
                    let at = !placed || a.place == b.place;
                    a.key == b.key && at && is_same(&a.value, &b.value, placed)
                })
        }
        _ => false,
    }
}
