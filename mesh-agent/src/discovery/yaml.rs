//! YAML within bounds.

use serde::de::DeserializeOwned;

/// What aliases repeat may be as large as the document, and no larger: a few
/// hundred bytes of them would be a million values else.
pub(super) fn yaml<T: DeserializeOwned>(document: &str) -> Result<T, serde_saphyr::Error> {
    let repeated = document.len();
    let options = serde_saphyr::options! {
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: repeated },
    };
    serde_saphyr::from_str_with_options(document, options)
}
