//! YAML within bounds.

use serde::de::DeserializeOwned;

/// Values of one document: more than a list of a large cluster has within the
/// size of a file.
const MAX_NODES: usize = 1_000_000;

/// What aliases repeat may be as large as the document, and no larger: a few
/// hundred bytes of them would be a million values else.
pub(super) fn yaml<T: DeserializeOwned>(document: &str) -> Result<T, serde_saphyr::Error> {
    let repeated = document.len();
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 3 * MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: repeated },
    };
    serde_saphyr::from_str_with_options(document, options)
}
