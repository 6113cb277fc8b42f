//! What has a namespace and a name, in the order of these.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use super::policy::{AuthorizationPolicy, PeerAuthentication};
#[cfg(test)]
use super::route::ReferenceGrant;
use super::{Name, Service, ServiceKey, Workload, WorkloadKey};

/// Namespace and name.
pub(crate) trait Key: Clone + Ord {
    fn parts(&self) -> (&Name, &Name);
}

/// What says its own key.
pub(crate) trait Keyed {
    type Key: Key;
    fn key(&self) -> &Self::Key;
}

impl Key for WorkloadKey {
    fn parts(&self) -> (&Name, &Name) {
        (&self.namespace, &self.name)
    }
}

impl Key for ServiceKey {
    fn parts(&self) -> (&Name, &Name) {
        (&self.namespace, &self.name)
    }
}

impl Keyed for Workload {
    type Key = WorkloadKey;

    fn key(&self) -> &WorkloadKey {
        &self.key
    }
}

impl Keyed for Service {
    type Key = ServiceKey;

    fn key(&self) -> &ServiceKey {
        &self.key
    }
}

/// Of one namespace, by name.
pub(super) type Group<V> = BTreeMap<Name, Arc<V>>;

/// Copies share the namespaces that are the same in both.
pub(crate) struct Namespaced<V> {
    namespaces: Arc<BTreeMap<Name, Arc<Group<V>>>>,
    len: usize,
}

impl<V> Clone for Namespaced<V> {
    fn clone(&self) -> Self {
        Self {
            namespaces: self.namespaces.clone(),
            len: self.len,
        }
    }
}

impl<V> Default for Namespaced<V> {
    fn default() -> Self {
        Self {
            namespaces: Arc::default(),
            len: 0,
        }
    }
}

impl<V: Keyed> Namespaced<V> {
    #[must_use]
    pub(crate) fn get(&self, key: &V::Key) -> Option<&Arc<V>> {
        let (namespace, name) = key.parts();
        self.namespaces.get(namespace)?.get(name)
    }

    #[must_use]
    pub(crate) fn contains_key(&self, key: &V::Key) -> bool {
        self.get(key).is_some()
    }

    #[must_use]
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.namespaces.values().flat_map(|names| names.values())
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn keys(&self) -> impl Iterator<Item = &V::Key> {
        self.values().map(|value| value.key())
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Name> {
        self.namespaces.keys()
    }

    pub(crate) fn in_namespace<'s>(
        &'s self,
        namespace: &str,
    ) -> impl Iterator<Item = &'s Arc<V>> + use<'s, V> {
        let names = self.namespaces.get(namespace).into_iter();
        names.flat_map(|names| names.values())
    }

    pub(super) fn group(&self, namespace: &str) -> Option<&Arc<Group<V>>> {
        self.namespaces.get(namespace)
    }

    /// Under its own key; gives what was there.
    pub(crate) fn insert(&mut self, value: Arc<V>) -> Option<Arc<V>> {
        let (namespace, name) = value.key().parts();
        let (namespace, name) = (namespace.clone(), name.clone());
        let namespaces = Arc::make_mut(&mut self.namespaces);
        let names = namespaces.entry(namespace).or_default();
        let old = Arc::make_mut(names).insert(name, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// What is not there is not copied for.
    pub(crate) fn remove(&mut self, key: &V::Key) -> Option<Arc<V>> {
        if !self.contains_key(key) {
            return None;
        }
        let (namespace, name) = key.parts();
        let namespaces = Arc::make_mut(&mut self.namespaces);
        let names = Arc::make_mut(namespaces.get_mut(namespace)?);
        let old = names.remove(name);
        if names.is_empty() {
            namespaces.remove(namespace);
        }
        self.len -= usize::from(old.is_some());
        old
    }
}

impl<V: Keyed> Index<&V::Key> for Namespaced<V> {
    type Output = Arc<V>;

    fn index(&self, key: &V::Key) -> &Arc<V> {
        let (namespace, name) = key.parts();
        &self.namespaces[namespace][name]
    }
}

impl<V: PartialEq> PartialEq for Namespaced<V> {
    fn eq(&self, other: &Self) -> bool {
        self.namespaces == other.namespaces
    }
}

impl<V: fmt::Debug> fmt::Debug for Namespaced<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.namespaces.fmt(f)
    }
}

impl<V: Keyed> FromIterator<Arc<V>> for Namespaced<V> {
    fn from_iter<I: IntoIterator<Item = Arc<V>>>(values: I) -> Self {
        let mut all = Self::default();
        for value in values {
            all.insert(value);
        }
        all
    }
}

/// Lists of one namespace each, in its order; copies share them.
#[derive(PartialEq)]
pub(crate) struct ByNamespace<T>(Arc<BTreeMap<Name, Arc<[T]>>>);

impl<T> Clone for ByNamespace<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for ByNamespace<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> ByNamespace<T> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values().flat_map(|list| list.iter())
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    #[must_use]
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(|list| list.len()).sum()
    }

    #[must_use]
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub(crate) fn of(&self, namespace: &str) -> &[T] {
        self.0.get(namespace).map_or(&[], |list| &list[..])
    }

    pub(crate) fn group(&self, namespace: &str) -> Option<&Arc<[T]>> {
        self.0.get(namespace)
    }

    /// An empty list takes the namespace out.
    pub(crate) fn set(&mut self, namespace: Name, list: Vec<T>) {
        match list.is_empty() {
            true if !self.0.contains_key(&namespace) => {}
            true => drop(Arc::make_mut(&mut self.0).remove(&namespace)),
            false => drop(Arc::make_mut(&mut self.0).insert(namespace, list.into())),
        }
    }
}

impl<T: PartialEq> ByNamespace<Arc<T>> {
    /// What is as it was, stays the very same; by a key that each of the list has for itself.
    /// Is anything not?
    pub(crate) fn put<K: Ord>(
        &mut self,
        namespace: &Name,
        mut list: Vec<Arc<T>>,
        key: impl Fn(&T) -> K,
    ) -> bool {
        let before = self.of(namespace);
        let known: BTreeMap<K, &Arc<T>> = before.iter().map(|one| (key(one), one)).collect();
        for one in &mut list {
            if let Some(same) = known.get(&key(one)).filter(|same| **same == one) {
                one.clone_from(same);
            }
        }
        let is_changed = list != before;
        if is_changed {
            self.set(namespace.clone(), list);
        }
        is_changed
    }
}

impl<T: fmt::Debug> fmt::Debug for ByNamespace<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An object of which a namespace has a list.
pub(crate) trait InNamespace {
    fn namespace(&self) -> &str;
}

/// Keeps the order within each namespace.
impl<T: InNamespace> From<Vec<T>> for ByNamespace<Arc<T>> {
    fn from(all: Vec<T>) -> Self {
        let mut lists: BTreeMap<Name, Vec<Arc<T>>> = BTreeMap::new();
        for one in all {
            let list = lists.entry(one.namespace().into()).or_default();
            list.push(Arc::new(one));
        }
        let lists = lists.into_iter();
        Self(Arc::new(lists.map(|(n, list)| (n, list.into())).collect()))
    }
}

impl InNamespace for AuthorizationPolicy {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}

#[cfg(test)]
impl InNamespace for ReferenceGrant {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}

impl InNamespace for PeerAuthentication {
    fn namespace(&self) -> &str {
        &self.namespace
    }
}
