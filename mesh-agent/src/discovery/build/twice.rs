//! Objects that are given twice: the stricter one counts.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Builder;
use super::pods::ENROLLED;
use crate::discovery::kinds::{Meta, Part, Pod};
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
            let contradicts = self.contradicts(first, object);
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
            if differs || contradicts {
                self.doubtful.insert(name);
            }
            differs
        });
    }

    /// Which pods are behind a Service is not known by two that differ. Of a pod
    /// that is said part by part.
    fn contradicts(&mut self, first: &Object, object: &Object) -> bool {
        match (&first.kind, &object.kind) {
            (Kind::Service(a), Kind::Service(b)) => a != b,
            (Kind::EndpointSlice(a), Kind::EndpointSlice(b)) => {
                a != b || first.meta.labels != object.meta.labels
            }
            (Kind::Pod(a), Kind::Pod(b)) => {
                let parts: Vec<Part> = contradicted((&first.meta, a), (&object.meta, b)).collect();
                if !parts.is_empty() {
                    let known = self.contradicted.entry(object.name()).or_default();
                    known.extend(parts);
                }
                false
            }
            _ => false,
        }
    }

    /// Why a policy grants nothing: nobody can say which of two is meant.
    pub(super) fn doubt(&self, object: &Object) -> Option<String> {
        let twice = || "the object is given twice, and differently".to_owned();
        self.is_doubtful(object).then(twice)
    }

    pub(super) fn is_doubtful(&self, object: &Object) -> bool {
        self.doubtful.contains(&object.name())
    }

    /// Cannot be understood, or is said in two ways.
    pub(super) fn is_unread(&self, object: &Object, part: Part) -> bool {
        let said_twice = self.contradicted.get(&object.name());
        object.unread.contains(&part) || said_twice.is_some_and(|parts| parts.contains(&part))
    }
}

/// What says who a pod is, and which policies are about it.
fn contradicted(a: (&Meta, &Pod), b: (&Meta, &Pod)) -> impl Iterator<Item = Part> {
    let labels = |meta: &Meta| {
        let mut labels = meta.labels.clone();
        // Of this one the stricter holds.
        labels.remove(ENROLLED);
        labels
    };
    let account = |pod: &Pod| match pod.service_account_name.as_deref() {
        None | Some("") => "default".to_owned(),
        Some(account) => account.to_owned(),
    };
    let is_account = account(a.1) != account(b.1);
    let is_labels = labels(a.0) != labels(b.0);
    let parts = [(is_account, Part::Account), (is_labels, Part::Labels)];
    parts
        .into_iter()
        .filter_map(|(is, part)| is.then_some(part))
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
