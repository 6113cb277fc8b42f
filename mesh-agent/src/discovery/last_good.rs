//! What a place said last, where it cannot be understood now.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::documents::Parsed;
use super::objects::{Kind, Object};
use super::{core, policies};

/// Adds to the objects that parse now the former version of those that do not;
/// of policies what restricts, never a grant. To be asked where a place has a
/// mistake: where it has none, what it does not name is gone.
pub(super) fn keep_last_good(now: &mut Parsed, before: &[Arc<Object>]) {
    let names = now.objects.iter().enumerate().map(|(at, o)| (o.name(), at));
    let names: BTreeMap<String, usize> = names.collect();
    for object in before {
        let is_policy = object.kind.is_policy();
        let mut object = object.clone();
        if is_policy {
            policies::fail_closed(Arc::make_mut(&mut object));
        }
        match names.get(&object.name()) {
            _ if matches!(&object.kind, Kind::Unknown(_)) => {}
            // Of a policy even a mistake elsewhere may be a slip of its name.
            None if is_policy || now.hides => now.objects.push(object),
            None => {}
            Some(&at) if object.kind.is_better_than(&now.objects[at].kind) => {
                now.objects[at] = object;
            }
            Some(_) if is_policy => {}
            Some(&at) => core::fill(&mut now.objects[at], &object),
        }
    }
}
