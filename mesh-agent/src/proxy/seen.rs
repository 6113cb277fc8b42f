//! By which addresses pods call each other.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::plan::Target;

/// Told once of each kind: what is known already costs a read.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    service: AtomicBool,
    pod: AtomicBool,
}

impl Seen {
    pub(super) fn note(&self, target: &Target) {
        let known = match (&target.service, &target.destination) {
            (Some(_), _) => &self.service,
            (None, Some(_)) => &self.pod,
            (None, None) => return,
        };
        if !known.load(Ordering::Relaxed) {
            known.store(true, Ordering::Relaxed);
        }
    }

    /// Pods were called, and never by a Service's address.
    pub(crate) fn is_pods_only(&self) -> bool {
        self.pod.load(Ordering::Relaxed) && !self.service.load(Ordering::Relaxed)
    }

    pub(crate) fn forget(&self) {
        self.service.store(false, Ordering::Relaxed);
        self.pod.store(false, Ordering::Relaxed);
    }
}
