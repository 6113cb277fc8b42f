//! All objects, each with what was made of it.

use std::collections::BTreeMap;

use super::entry::ObjectEntry;
use super::id::ObjectId;
use crate::discovery::kinds::KindId;
use crate::model::Name;

/// Of objects that come in the order of their names a tree's leaves stay half empty: what is
/// held of each is elsewhere, so that little is left free.
type Named = BTreeMap<Name, Box<ObjectEntry>>;

/// In the order in which objects are made sense of. What many have in common,
/// kind and namespace, is kept once.
#[derive(Debug, Default)]
pub(super) struct Objects(BTreeMap<KindId, BTreeMap<Name, Named>>);

impl Objects {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, id: &ObjectId) -> Option<&ObjectEntry> {
        let named = self.0.get(&id.kind)?.get(&id.namespace)?;
        named.get(&id.name).map(|entry| &**entry)
    }

    pub(super) fn get_mut(&mut self, id: &ObjectId) -> Option<&mut ObjectEntry> {
        let of_kind = self.0.get_mut(&id.kind)?;
        let named = of_kind.get_mut(&id.namespace)?;
        named.get_mut(&id.name).map(|entry| &mut **entry)
    }

    pub(super) fn get_or_default(&mut self, id: &ObjectId) -> &mut ObjectEntry {
        let of_kind = self.0.entry(id.kind).or_default();
        let named = of_kind.entry(id.namespace.clone()).or_default();
        named.entry(id.name.clone()).or_default()
    }

    pub(super) fn remove(&mut self, id: &ObjectId) {
        let Some(of_kind) = self.0.get_mut(&id.kind) else {
            return;
        };
        let Some(named) = of_kind.get_mut(&id.namespace) else {
            return;
        };
        named.remove(&id.name);
        if named.is_empty() {
            of_kind.remove(&id.namespace);
        }
        if of_kind.is_empty() {
            self.0.remove(&id.kind);
        }
    }

    /// Namespaces that have any; "" where there is one of the whole cluster.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Name> {
        self.0.values().flat_map(BTreeMap::keys)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = ObjectId> {
        let kinds = self.0.keys().copied();
        kinds.flat_map(|kind| self.of_kind(kind).map(|(id, _)| id))
    }

    pub(super) fn of_kind(&self, kind: KindId) -> impl Iterator<Item = (ObjectId, &ObjectEntry)> {
        let namespaces = self.0.get(&kind).into_iter().flatten();
        namespaces.flat_map(move |(namespace, named)| with_ids(kind, namespace, named))
    }

    pub(super) fn in_namespace<'s>(
        &'s self,
        kind: KindId,
        namespace: &Name,
    ) -> impl Iterator<Item = (ObjectId, &'s ObjectEntry)> + use<'s> {
        let of_kind = self.0.get(&kind);
        let named = of_kind.and_then(|of_kind| of_kind.get_key_value(namespace));
        let named = named.into_iter();
        named.flat_map(move |(namespace, named)| with_ids(kind, namespace, named))
    }
}

fn with_ids<'s>(
    kind: KindId,
    namespace: &'s Name,
    named: &'s Named,
) -> impl Iterator<Item = (ObjectId, &'s ObjectEntry)> + use<'s> {
    named.iter().map(move |(name, entry)| {
        let id = ObjectId {
            kind,
            namespace: namespace.clone(),
            name: name.clone(),
        };
        (id, &**entry)
    })
}
