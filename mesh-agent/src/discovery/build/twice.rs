//! Objects that are given twice: the stricter one counts.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Builder;
use super::pods::ENROLLED;
use crate::discovery::objects::{Kind, Object};

impl<'o> Builder<'o> {
    /// Puts the objects in order: that of files and documents never matters.
    /// Of those with one name the first counts, and no address of the others is
    /// taken for outside.
    pub(super) fn reject_duplicates(&mut self, objects: &mut Vec<&'o Object>) {
        objects.sort_by_cached_key(|o| (o.name(), Reverse(strictness(o))));
        let mut first: BTreeMap<String, &Object> = BTreeMap::new();
        objects.retain(|object| {
            if let Kind::Unknown(_) = object.kind {
                return true;
            }
            let name = object.name();
            let Some(first) = first.get(&name) else {
                first.insert(name, object);
                return true;
            };
            self.report(
                object,
                "metadata.name",
                "the object is given twice; this one is ignored".to_owned(),
            );
            let differs = match (&first.kind, &object.kind) {
                (Kind::Policy(a), Kind::Policy(b)) => a != b,
                (Kind::Peer(a), Kind::Peer(b)) => a != b,
                _ => false,
            };
            match &object.kind {
                Kind::Pod(pod) => self.left_out.extend(&pod.ips),
                Kind::Service(service) => {
                    self.left_out.extend(&service.vips);
                    self.left_out.extend(&service.external_ips);
                }
                Kind::EndpointSlice(slice) => {
                    let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
                    self.left_out.extend(addresses);
                }
                _ => {}
            }
            // Of policies that differ each restricts, and none grants.
            if differs {
                self.doubtful.insert(name);
            }
            differs
        });
    }

    /// Why a policy grants nothing: nobody can say which of two is meant.
    pub(super) fn doubt(&self, object: &Object) -> Option<String> {
        let twice = || "the object is given twice, and differently".to_owned();
        self.doubtful.contains(&object.name()).then(twice)
    }
}

fn strictness(object: &Object) -> u8 {
    let label = object.meta.labels.get(ENROLLED);
    match (&object.kind, label.map(String::as_str)) {
        (Kind::Pod(_) | Kind::Namespace, None) => 1,
        (Kind::Pod(_) | Kind::Namespace, Some("false")) => 0,
        (Kind::Pod(_) | Kind::Namespace, Some(_)) => 2,
        _ => 0,
    }
}
