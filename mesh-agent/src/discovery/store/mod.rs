//! What the configuration says now, and the snapshot that is made of it.
//!
//! Sources give whole lists of what a place says; an object is known by its
//! kind, namespace and name, whichever place it is from. `commit` makes of what
//! changed since the last time the parts of the snapshot that follow from it,
//! and of these what follows from them in turn; what comes out as it was makes
//! nothing else to be looked at. Invariants: the snapshot is always the one
//! that a store makes that is given everything at once; a change costs what it
//! touches, but for what cannot be read at all, which may be about anything.

mod address;
mod claims;
mod classes;
mod commit;
mod departed;
mod entry;
mod id;
mod listed;
mod objects;
mod pods;
mod records;
mod referring;
mod routes;
mod services;
mod state;
mod traffic;
mod twice;
mod zones;

pub(super) use listed::Listed;
pub(super) use state::{Said, Store, Touched};

/// Of all objects at once.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn build<'o>(
    objects: impl Iterator<Item = &'o std::sync::Arc<super::Object>>,
) -> (crate::model::Snapshot, Vec<super::Problem>) {
    let objects: Vec<_> = objects.cloned().collect();
    let now = Said::here(&objects);
    let mut store = Store::default();
    store.replace(&Said::NOTHING, &now);
    store.commit(std::time::Instant::now());
    let problems = store.problems().cloned().collect();
    (store.snapshot().clone(), problems)
}
