//! A hash map of which copies share what they have in common.
//!
//! Snapshots are read without locks and swapped whole, so that a change makes a
//! new one. It must cost what it touches: the map is many small maps, and a
//! write copies one of them and the list of all, in some microseconds at any
//! size that this agent serves.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, Hash};
use std::ops::Index;
use std::sync::Arc;

use foldhash::fast::RandomState;

/// 50,000 entries are some 200 in each.
const SHARDS: usize = 256;

type Shard<K, V> = HashMap<K, V, RandomState>;

/// Copies share their shards until one of them is written to. The order of
/// entries is not defined: who shows them sorts.
pub(crate) struct Sharded<K, V> {
    shards: Arc<[Arc<Shard<K, V>>; SHARDS]>,
    len: usize,
    /// Of this map and all that were copied from it.
    hasher: RandomState,
}

impl<K, V> Clone for Sharded<K, V> {
    fn clone(&self) -> Self {
        Self {
            shards: self.shards.clone(),
            len: self.len,
            hasher: self.hasher.clone(),
        }
    }
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Self {
            shards: Arc::new(std::array::from_fn(|_| empty.clone())),
            len: 0,
            hasher: RandomState::default(),
        }
    }
}

impl<K: Eq + Hash, V> Sharded<K, V> {
    /// By bits that the shard itself does not go by.
    fn shard_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let hash = self.hasher.hash_one(key);
        usize::from((hash >> 32).to_le_bytes()[0])
    }

    #[must_use]
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.shards[self.shard_of(key)].get(key)
    }

    #[must_use]
    pub(crate) fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.get(key).is_some()
    }
}

impl<K, V> Sharded<K, V> {
    #[must_use]
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// How many shards are the same memory as those of `other`.
    #[cfg(test)]
    pub(crate) fn shared_with(&self, other: &Self) -> usize {
        let both = self.shards.iter().zip(other.shards.iter());
        both.filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Sharded<K, V> {
    fn shard_mut<Q: Hash + ?Sized>(&mut self, key: &Q) -> &mut Shard<K, V> {
        let at = self.shard_of(key);
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[at])
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.shard_mut(&key).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// What is not there is not copied for.
    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if !self.contains_key(key) {
            return None;
        }
        let old = self.shard_mut(key).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    /// `None` takes it out.
    pub(crate) fn set(&mut self, key: K, value: Option<V>) -> Option<V> {
        match value {
            Some(value) => self.insert(key, value),
            None => self.remove(&key),
        }
    }
}

impl<K, Q, V> Index<&Q> for Sharded<K, V>
where
    K: Eq + Hash + Borrow<Q>,
    Q: Eq + Hash + ?Sized,
{
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        &self.shards[self.shard_of(key)][key]
    }
}

impl<K: Eq + Hash, V: PartialEq> PartialEq for Sharded<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let has = |(key, value): (&K, &V)| other.get(key) == Some(value);
        self.len == other.len && self.iter().all(has)
    }
}

impl<K: Eq + Hash + fmt::Debug, V: fmt::Debug> fmt::Debug for Sharded<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Eq + Hash + Clone, V: Clone> FromIterator<(K, V)> for Sharded<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Extend<(K, V)> for Sharded<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map_of_which_old_copies_stay(
            ops in proptest::collection::vec((any::<bool>(), 0_u8..40, any::<u16>()), 0..200),
        ) {
            let mut map = Sharded::default();
            let mut plain = HashMap::new();
            let mut copies = Vec::new();
            for (inserts, key, value) in ops {
                copies.push((map.clone(), plain.clone()));
                let (old, expected) = match inserts {
                    true => (map.insert(key, value), plain.insert(key, value)),
                    false => (map.remove(&key), plain.remove(&key)),
                };
                prop_assert_eq!(old, expected);
            }
            copies.push((map, plain));
            for (map, plain) in copies {
                prop_assert_eq!(map.len(), plain.len());
                let entries: HashMap<u8, u16> = map.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(&entries, &plain);
                prop_assert_eq!(map, plain.into_iter().collect());
            }
        }
    }

    #[test]
    fn a_write_copies_one_shard() {
        let before: Sharded<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let mut after = before.clone();
        assert_eq!(after.shared_with(&before), SHARDS);
        after.insert(7, 8);
        assert_eq!(after.shared_with(&before), SHARDS - 1);
        after.remove(&10_000);
        assert_eq!(
            after.shared_with(&before),
            SHARDS - 1,
            "of what is not there"
        );
        let most = before.shards.iter().map(|shard| shard.len()).max();
        assert!(most < Some(100), "{most:?} of 10,000 in one");
    }
}
