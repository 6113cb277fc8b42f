//! Labels, and annotations: texts by name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// All pods of one Deployment have the same ones, so that they share one copy;
/// who changes it gets an own one.
///
/// In the order of names, without room for more: a tree would take half a KiB for
/// the first of them.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Labels(Arc<Vec<(String, String)>>);

impl Labels {
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&String> {
        let at = self.0.binary_search_by(|(own, _)| own.as_str().cmp(name));
        Some(&self.0[at.ok()?].1)
    }

    /// In the order of names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().map(|(name, text)| (name, text))
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        let mut texts = self.0.iter().cloned().collect();
        change(&mut texts);
        *self = texts.into();
    }

    /// The very same copy.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Nobody else has this very copy.
    #[must_use]
    pub(crate) fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Index<&str> for Labels {
    type Output = String;

    fn index(&self, name: &str) -> &String {
        self.get(name).expect("a label of that name")
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(texts: BTreeMap<String, String>) -> Self {
        Self(Arc::new(texts.into_iter().collect()))
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(texts: [(String, String); N]) -> Self {
        BTreeMap::from(texts).into()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
