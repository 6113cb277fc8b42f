//! What a place said last, where it cannot be understood now.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::documents::Parsed;
use super::objects::{Kind, Object};
use super::{core, policies};
use crate::model::policy::Action;

/// Adds to the objects that parse now the former version of those that do not;
/// of policies what restricts, never a grant. To be asked where a place has a
/// mistake: where it has none, what it does not name is gone.
pub(super) fn keep_last_good(now: &mut Parsed, before: &[Arc<Object>]) {
    let names = now.objects.iter().enumerate().map(|(at, o)| (o.name(), at));
    let names: BTreeMap<String, usize> = names.collect();
    for object in before {
        let is_policy = matches!(&object.kind, Kind::Policy(_) | Kind::Peer(_));
        let mut object = object.clone();
        if is_policy {
            policies::restrict(Arc::make_mut(&mut object));
        }
        match names.get(&object.name()) {
            _ if matches!(&object.kind, Kind::Unknown(_)) => {}
            // Of a policy even a mistake elsewhere may be a slip of its name.
            None if is_policy || now.hides => now.objects.push(object),
            None => {}
            // Not the DENY of everything that stands for what is not
            // understood: what it denied before is known.
            Some(&at) if is_broken(&now.objects[at]) && is_whole_deny(&object) => {
                now.objects[at] = object;
            }
            Some(_) if is_policy => {}
            Some(&at) => core::fill(&mut now.objects[at], &object),
        }
    }
}

fn is_broken(object: &Object) -> bool {
    matches!(&object.kind, Kind::Policy(p) if p.broken.is_some())
}

fn is_whole_deny(object: &Object) -> bool {
    matches!(&object.kind, Kind::Policy(p)
        if p.action == Action::Deny && p.broken.is_none() && !p.dry_run)
}
