//! What there is, and what was made of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::claims::Addresses;
use super::entry::ObjectEntry;
use super::id::ObjectId;
use super::listed::Listed;
use super::objects::Objects;
use super::referring::Referring;
use super::twice::{self, Given};
use super::zones::Zones;
use crate::discovery::Problem;
use crate::discovery::intern::Interner;
use crate::discovery::kinds::{KindId, Unknown};
use crate::discovery::objects::{Kind, Object};
use crate::discovery::origin::Place;
use crate::model::policy::{AuthorizationPolicy, MeshSettings};
use crate::model::{Name, ServiceKey, Snapshot, WorkloadKey};

/// All that cannot be read at all, together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Hidden {
    pub(super) is_any: bool,
    pub(super) all: Unknown,
}

/// At which step of a commit a problem was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Given,
    Made,
    Addresses,
}

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(super) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
pub(in crate::discovery) struct Store {
    pub(super) objects: Objects,
    /// By place, and which one it is of it.
    pub(super) unknown: BTreeMap<(Place, u32), Arc<Object>>,
    pub(super) hidden: Hidden,
    /// Each namespace that is is told: one that is not there is not known yet.
    pub(super) tells_namespaces: bool,
    pub(super) classes: Listed,
    pub(super) names: Interner,
    pub(super) addresses: Addresses,
    pub(super) zones: Zones,
    /// Services by the ports that nodes have for them; the first one's it is.
    pub(super) node_ports: BTreeMap<u16, BTreeSet<ServiceKey>>,
    /// The slices of each Service, by the label that names it.
    pub(super) slices: Map<ServiceKey, BTreeSet<Name>>,
    /// Slices of which it cannot be told what they say, or of which Service.
    pub(super) doubtful_slices: BTreeSet<ObjectId>,
    pub(super) referring: Referring,
    /// The TrafficPolicies that name each Service, there or not.
    pub(super) governed: Map<ServiceKey, BTreeSet<(KindId, Name)>>,
    /// Pods of the mesh of which not all can be read.
    pub(super) unreadable_pods: BTreeSet<WorkloadKey>,
    /// What stands for all policies that may be about a pod with unread labels.
    pub(super) denies: BTreeMap<WorkloadKey, Arc<AuthorizationPolicy>>,
    /// Addresses that were left, and when.
    pub(super) departed: BTreeSet<(Instant, IpAddr)>,
    pub(super) problems: BTreeMap<(ObjectId, Step), Vec<Problem>>,
    pub(super) snapshot: Snapshot,
    pub(super) dirty: Dirty,
    /// Objects, pods, addresses and Services looked at, for tests of the cost.
    pub(super) work: usize,
}

impl Store {
    pub(in crate::discovery) fn new(settings: MeshSettings) -> Self {
        let mut store = Self::default();
        store.snapshot.settings = settings;
        store
    }

    /// Of a source that has an object of each namespace.
    pub(in crate::discovery) fn expect_namespaces(&mut self) {
        self.tells_namespaces = true;
    }

    /// Of all objects.
    pub(in crate::discovery) fn namespaces(&self) -> BTreeSet<Name> {
        self.objects.namespaces().cloned().collect()
    }

    /// A place says `now` and does not say `before` any more; it is `away` while
    /// its file is not there, and then counts only where no other says it.
    pub(in crate::discovery) fn replace(&mut self, before: &Said<'_>, now: &Said<'_>) {
        for (nth, object) in (0_u32..).zip(before.objects) {
            let same = now.objects.get(nth as usize);
            let is_same = same.is_some_and(|same| Arc::ptr_eq(same, object));
            if !is_same || before.away != now.away {
                self.take_out(object, nth);
            }
        }
        for (nth, object) in (0_u32..).zip(now.objects) {
            let same = before.objects.get(nth as usize);
            let is_same = same.is_some_and(|same| Arc::ptr_eq(same, object));
            if !is_same || before.away != now.away {
                self.put_in(object, nth, now.away);
            }
        }
    }

    fn take_out(&mut self, object: &Arc<Object>, nth: u32) {
        let Some(id) = self.id(object) else {
            self.dirty.hidden = true;
            let at = (object.origin.place.clone(), nth);
            return drop(self.unknown.remove(&at));
        };
        if let Some(entry) = self.objects.get_mut(&id) {
            entry
                .given
                .retain(|given| given.nth != nth || !Arc::ptr_eq(&given.object, object));
        }
        self.dirty.objects.insert(id);
    }

    fn put_in(&mut self, object: &Arc<Object>, nth: u32, away: bool) {
        let Some(id) = self.id(object) else {
            self.dirty.hidden = true;
            let at = (object.origin.place.clone(), nth);
            return drop(self.unknown.insert(at, object.clone()));
        };
        let entry = self.objects.get_or_default(&id);
        entry.given.push(Given {
            object: object.clone(),
            nth,
            away,
        });
        entry.given.sort_by(twice::order);
        self.dirty.objects.insert(id);
    }

    /// `None` for what may be any.
    fn id(&mut self, object: &Object) -> Option<ObjectId> {
        let kind = object.kind.id()?;
        let namespace = match (kind.about().namespaced, &object.meta.namespace) {
            (false, _) => self.names.name(""),
            (true, Some(namespace)) => namespace.clone(),
            (true, None) => self.names.name(object.meta.namespace()),
        };
        Some(ObjectId {
            kind,
            namespace,
            name: object.meta.name.clone(),
        })
    }

    pub(in crate::discovery) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Of objects by themselves and beside each other.
    pub(in crate::discovery) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    pub(in crate::discovery) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.unknown.is_empty()
    }

    #[cfg(test)]
    pub(in crate::discovery) fn work(&self) -> usize {
        self.work
    }

    /// The objects of a kind in a namespace, as far as they count.
    pub(in crate::discovery) fn in_namespace<'s>(
        &'s self,
        kind: KindId,
        namespace: &Name,
    ) -> impl Iterator<Item = &'s Arc<Object>> + use<'s> {
        let entries = self.entries(kind, namespace);
        entries.flat_map(|(_, entry)| twice::versions(&entry.given))
    }

    pub(super) fn entries<'s>(
        &'s self,
        kind: KindId,
        namespace: &Name,
    ) -> impl Iterator<Item = (ObjectId, &'s ObjectEntry)> + use<'s> {
        self.objects.in_namespace(kind, namespace)
    }

    pub(super) fn all_of(&self, kind: KindId) -> impl Iterator<Item = (ObjectId, &ObjectEntry)> {
        self.objects.of_kind(kind)
    }

    pub(super) fn effective(&self, id: &ObjectId) -> Option<&Arc<Object>> {
        self.objects.get(id)?.effective.as_ref()
    }

    /// Replaces what was told of it at this step.
    pub(super) fn tell(&mut self, id: &ObjectId, step: Step, problems: Vec<Problem>) {
        let at = (id.clone(), step);
        let changed = match problems.is_empty() {
            true => self.problems.remove(&at).is_some(),
            false => {
                let is_same = self.problems.get(&at) == Some(&problems);
                if !is_same {
                    self.problems.insert(at, problems);
                }
                !is_same
            }
        };
        self.dirty.problems |= changed;
    }
}

/// What a place says.
pub(in crate::discovery) struct Said<'o> {
    pub(in crate::discovery) objects: &'o [Arc<Object>],
    pub(in crate::discovery) away: bool,
}

impl<'o> Said<'o> {
    pub(in crate::discovery) const NOTHING: Said<'static> = Said {
        objects: &[],
        away: false,
    };

    pub(in crate::discovery) fn here(objects: &'o [Arc<Object>]) -> Self {
        Self {
            objects,
            away: false,
        }
    }
}

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) objects: BTreeSet<ObjectId>,
    /// What cannot be read at all: it may be about any.
    pub(super) hidden: bool,
    /// Other problems than before.
    pub(super) problems: bool,
    pub(super) pods: BTreeSet<WorkloadKey>,
    /// Pods of which the addresses may be another's now, or their own again.
    pub(super) finished: BTreeSet<WorkloadKey>,
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Virtual ones, and ports of others, that another Service may have.
    pub(super) vips: BTreeSet<IpAddr>,
    pub(super) externals: BTreeSet<(IpAddr, u16)>,
    pub(super) node_ports: BTreeSet<u16>,
    pub(super) services: BTreeSet<ServiceKey>,
    /// Kinds and namespaces of which the records may be others.
    pub(super) records: BTreeSet<(KindId, Name)>,
    /// Namespaces whose routes may be others.
    pub(super) routes: BTreeSet<Name>,
    /// Services of which the routes may be others.
    pub(super) attached: BTreeSet<ServiceKey>,
    /// Namespaces whose TrafficPolicies may be others.
    pub(super) traffic: BTreeSet<Name>,
    /// Pods that have their node's addresses, or have not any more.
    pub(super) on_host: BTreeSet<WorkloadKey>,
    /// Of policies.
    pub(super) namespaces: BTreeSet<Name>,
    pub(super) touched: Touched,
}

/// What a commit changed.
#[derive(Debug, Default)]
pub(in crate::discovery) struct Touched {
    /// There is another snapshot.
    pub(in crate::discovery) snapshot: bool,
    pub(in crate::discovery) problems: bool,
    /// Of which pods, Services or policies changed, or what they are judged by.
    pub(in crate::discovery) namespaces: BTreeSet<Name>,
    /// Of which routes or TrafficPolicies changed, or what they are told by.
    pub(in crate::discovery) told: BTreeSet<Name>,
    /// Services of which the routes, or the ports, changed.
    pub(in crate::discovery) routed: BTreeSet<ServiceKey>,
    /// It may be any.
    pub(in crate::discovery) all: bool,
}

impl Hidden {
    pub(super) fn add(&mut self, object: &Object) {
        if let Kind::Unknown(unknown) = &object.kind {
            self.is_any = true;
            self.all.addresses.extend(&unknown.addresses);
            self.all.pods.extend(unknown.pods.iter().cloned());
            self.all.hides_addresses |= unknown.hides_addresses;
            self.all.hides_pods |= unknown.hides_pods;
            let namespaces = unknown.namespaces.iter().cloned();
            self.all.namespaces.extend(namespaces);
            self.all.hides_namespaces |= unknown.hides_namespaces;
        }
    }
}
