//! Where a rule leads to.

use super::filters::{Of, filters};
use super::reading::Reading;
use super::targets::target;
use crate::discovery::tree::Node;
use crate::model::route::Backend;

const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: u32 = 1_000_000;

/// `of`: whose filters they may have; none where connections are routed.
pub(super) fn backends(
    reading: &mut Reading<'_>,
    rule: &Node<'_>,
    at: &str,
    namespace: &str,
    of: Option<Of>,
) -> Box<[Backend]> {
    let at = format!("{at}.backendRefs");
    let list = reading.list(&rule["backendRefs"], &at, MAX_BACKENDS);
    let mut all = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let fields = [
            "group",
            "kind",
            "name",
            "namespace",
            "port",
            "weight",
            "filters",
        ];
        let fields = if of.is_some() {
            &fields[..]
        } else {
            &fields[..6]
        };
        reading.known(value, &at, fields);
        let to = target(reading, value, &at, namespace);
        let weight = reading.number(&value["weight"], &format!("{at}.weight"), 0..=MAX_WEIGHT);
        let filters = of.map(|of| filters(reading, value, &at, namespace, of));
        all.extend(to.map(|to| Backend {
            to,
            weight: weight.unwrap_or(1),
            filters: filters.unwrap_or_default(),
        }));
    }
    all.into()
}
