//! One copy of each name that objects have in common.

use std::collections::HashSet;

use crate::model::Name;

/// Names in use, and some that were a while ago.
#[derive(Debug, Default)]
pub(super) struct Interner {
    names: HashSet<Name, foldhash::fast::RandomState>,
    /// How many there were after the last sweep.
    kept: usize,
}

/// Below it is not worth the walk.
const SWEPT_ABOVE: usize = 1_024;

impl Interner {
    pub(super) fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.names.get(text) {
            return name.clone();
        }
        self.sweep();
        let name = Name::from(text);
        self.names.insert(name.clone());
        name
    }

    /// Drops what nobody has any more, when there are twice as many as then: a
    /// source that invents names takes no more than it holds.
    fn sweep(&mut self) {
        if self.names.len() >= SWEPT_ABOVE.max(2 * self.kept) {
            self.names.retain(|name| !name.is_unshared());
            self.kept = self.names.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_has_are_dropped_and_those_in_use_stay_one() {
        let mut names = Interner::default();
        let held: Vec<Name> = (0..10).map(|n| names.name(&format!("held-{n}"))).collect();
        for n in 0..10_000 {
            names.name(&format!("passing-{n}"));
            assert!(names.names.len() <= 2 * SWEPT_ABOVE, "after {n}");
        }
        for name in &held {
            assert!(std::ptr::eq(name.as_str(), names.name(name).as_str()));
        }
    }
}
