//! The rules and routes of namespaces that no pod of ours names any more.

use crate::sys::netns::{self, Names};
use crate::sys::route;

/// Of namespaces that are let go of, as far as something names them.
pub(super) fn remove(names: &Names, cookies: &[u64]) {
    if cookies.is_empty() {
        return;
    }
    let search = netns::find(names, cookies);
    if let Some(error) = search.unasked {
        tracing::warn!(%error, "rules of an earlier agent may stay");
    }
    for netns in search.found {
        if let Err(error) = route::remove(&netns) {
            tracing::warn!(cookie = netns.cookie(), %error, "cannot remove the rules of an earlier agent");
        }
    }
}
