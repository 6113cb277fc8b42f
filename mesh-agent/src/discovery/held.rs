//! Which configurations are in memory.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::model::Snapshot;

/// All that one source has put in force, as long as something uses them: what is being
/// decided, and what goes on by one. Those that nothing uses are forgotten with the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<Mutex<Vec<Weak<Snapshot>>>>);

impl Held {
    pub(crate) fn note(&self, snapshot: &Arc<Snapshot>) {
        let mut held = self.0.lock();
        held.retain(|one| one.strong_count() > 0);
        held.push(Arc::downgrade(snapshot));
    }

    #[must_use]
    pub(crate) fn count(&self) -> usize {
        let held = self.0.lock();
        held.iter().filter(|one| one.strong_count() > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_counts_until_nothing_uses_it() {
        let held = Held::default();
        let [first, second] = [(); 2].map(|()| Arc::<Snapshot>::default());
        held.note(&first);
        held.note(&second);
        assert_eq!(held.clone().count(), 2);
        drop(first);
        assert_eq!(held.count(), 1);
        held.note(&second);
        assert_eq!(held.0.lock().len(), 2, "the first is forgotten");
    }
}
