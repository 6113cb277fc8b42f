//! Who has certificates that live, of those that this replica gave. Others are
//! not known here, and nobody needs them: what a rotation waits for follows from
//! how long a certificate may live.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ca::records::Issued;

#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<Arc<str>, Vec<u64>>>);

impl Kept {
    /// Bounded by who asks for room first (`book`).
    pub(super) fn add(&self, issued: &Issued) {
        let mut kept = self.0.lock();
        if let Some(ends) = kept.get_mut(issued.caller.as_str()) {
            ends.push(issued.not_after);
        } else {
            kept.insert(issued.caller.as_str().into(), vec![issued.not_after]);
        }
    }

    pub(super) fn forget_expired(&self, now: u64) -> Vec<String> {
        let mut kept = self.0.lock();
        kept.retain(|_, ends| {
            ends.retain(|end| *end > now);
            !ends.is_empty()
        });
        let callers = kept
            .iter()
            .flat_map(|(caller, ends)| std::iter::repeat_n(caller.to_string(), ends.len()));
        callers.collect()
    }
}
