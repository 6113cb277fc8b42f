//! Objects that are given twice: the stricter one counts.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::discovery::Problem;
use crate::discovery::kinds::{Meta, Part, Pod};
use crate::discovery::objects::{Kind, Object};

pub(super) const ENROLLED: &str = "mesh-agent.io/enrolled";

/// One version of an object.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) object: Arc<Object>,
    /// Which one it is of its place.
    pub(super) nth: u32,
    /// Its place is not there at this moment.
    pub(super) away: bool,
}

/// What several versions of one object come to.
#[derive(Default)]
pub(super) struct Resolved {
    /// `None` where it is not given at all.
    pub(super) effective: Option<Arc<Object>>,
    pub(super) doubtful: bool,
    pub(super) contradicted: BTreeSet<Part>,
    /// No address of a version that does not count is taken for outside.
    pub(super) left_out: BTreeSet<IpAddr>,
    pub(super) problems: Vec<Problem>,
}

/// That of places and documents never matters, but where all else is equal.
pub(super) fn order(a: &Given, b: &Given) -> Ordering {
    let rank = |given: &Given| {
        let strict = strictness(&given.object);
        (given.away, Reverse(strict), given.nth)
    };
    let (first, second) = (rank(a), rank(b));
    let places = || a.object.origin.place.cmp(&b.object.origin.place);
    let before = (first.0, first.1).cmp(&(second.0, second.1));
    before.then_with(places).then(first.2.cmp(&second.2))
}

/// Versions that count at all: what a file that is away said does only where
/// no other file says it now, for it may have been renamed.
fn counting(given: &[Given]) -> &[Given] {
    let here = given.iter().take_while(|given| !given.away).count();
    match here {
        0 => given,
        here => &given[..here],
    }
}

/// Versions that are in force: one, but of policies that differ each restricts.
pub(super) fn versions(given: &[Given]) -> impl Iterator<Item = &Arc<Object>> {
    let counting = counting(given);
    let first = counting.first();
    let in_force = move |given: &&Given| {
        first.is_some_and(|first| {
            std::ptr::eq(first, *given) || differs(&first.object, &given.object)
        })
    };
    counting.iter().filter(in_force).map(|given| &given.object)
}

pub(super) fn resolve(given: &[Given]) -> Resolved {
    let Some((first, others)) = counting(given).split_first() else {
        return Resolved::default();
    };
    let mut resolved = Resolved {
        effective: Some(first.object.clone()),
        ..Resolved::default()
    };
    for other in others {
        let object = &other.object;
        let message = "the object is given twice; this one is ignored".to_owned();
        let problem = object.problem("metadata.name", message);
        resolved.problems.push(problem);
        resolved.doubtful |= differs(&first.object, object);
        resolved.contradict(&first.object, object);
        match &object.kind {
            Kind::Pod(pod) => resolved.left_out.extend(&pod.ips),
            Kind::Service(service) => {
                resolved.left_out.extend(&service.vips);
                resolved.left_out.extend(&service.external_ips);
            }
            Kind::EndpointSlice(slice) => {
                let addresses = slice.endpoints.iter().flat_map(|e| &e.addresses);
                resolved.left_out.extend(addresses);
            }
            _ => {}
        }
    }
    resolved
}

impl Resolved {
    /// Which pods are behind a Service is not known by two that differ. Of a pod
    /// that is said part by part.
    fn contradict(&mut self, first: &Object, object: &Object) {
        match (&first.kind, &object.kind) {
            (Kind::Service(a), Kind::Service(b)) => self.doubtful |= a != b,
            (Kind::EndpointSlice(a), Kind::EndpointSlice(b)) => {
                self.doubtful |= a != b || first.meta.labels != object.meta.labels;
            }
            (Kind::Pod(a), Kind::Pod(b)) => {
                let parts = contradicted((&first.meta, a), (&object.meta, b));
                self.contradicted.extend(parts);
            }
            _ => {}
        }
    }
}

/// Of policies.
fn differs(first: &Object, object: &Object) -> bool {
    match (&first.kind, &object.kind) {
        (Kind::Policy(a), Kind::Policy(b)) => a != b,
        (Kind::Peer(a), Kind::Peer(b)) => a != b,
        _ => false,
    }
}

/// Why a policy grants nothing: nobody can say which of two is meant.
pub(super) fn doubt(doubtful: bool) -> Option<String> {
    doubtful.then(|| "the object is given twice, and differently".to_owned())
}

/// What says who a pod is, and which policies are about it.
fn contradicted(a: (&Meta, &Pod), b: (&Meta, &Pod)) -> impl Iterator<Item = Part> {
    let labels = |meta: &Meta| {
        let mut labels = meta.labels.clone();
        // Of this one the stricter holds.
        labels.make_mut().remove(ENROLLED);
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
