//! Runtime classes: which of them are sandboxes, and what is made of one that is not there.

use super::id::ObjectId;
use super::listed::Listed;
use super::state::Store;
use crate::discovery::kinds::{KindId, RuntimeClass, unfit_by_name};
use crate::discovery::objects::{Kind, Object};
use crate::model::{Name, Unfit, WorkloadKey};

impl Store {
    /// Of runtime classes.
    pub(in crate::discovery) fn note_classes(&mut self, listed: Listed) {
        if self.classes != listed {
            self.classes = listed;
            self.look_at_pods_with_class();
        }
    }

    /// Why a pod of that class cannot be captured, if it cannot. What is not known is
    /// closed; where there are no classes at all their names say it, as far as they do.
    pub(super) fn unfit_by_class(&self, class: &Name) -> Option<Unfit> {
        let id = ObjectId {
            kind: KindId::RuntimeClass,
            namespace: Name::default(),
            name: class.clone(),
        };
        let entry = self.objects.get(&id);
        let known = entry.filter(|entry| !entry.is_doubtful());
        let known = known.and_then(|entry| of(entry.effective.as_deref()));
        let has_any = || self.all_of(KindId::RuntimeClass).next().is_some();
        let is_told = match self.classes {
            Listed::AsGiven => has_any(),
            Listed::Not | Listed::All => true,
            Listed::Absent => false,
        };
        match known.filter(|_| self.classes != Listed::Not) {
            Some(known) => known.unfit(class),
            None if is_told => {
                unfit_by_name(class).or_else(|| Some(Unfit::UnknownRuntime(class.clone())))
            }
            None => unfit_by_name(class),
        }
    }

    /// With any class: with the first one, and without the last, all are judged differently.
    pub(super) fn look_at_pods_with_class(&mut self) {
        let pods = self.all_of(KindId::Pod).filter_map(|(id, entry)| {
            let Kind::Pod(pod) = &entry.effective.as_ref()?.kind else {
                return None;
            };
            pod.runtime_class.is_some().then(|| id.workload_key())
        });
        let pods: Vec<WorkloadKey> = pods.collect();
        self.dirty.pods.extend(pods);
    }
}

fn of(object: Option<&Object>) -> Option<&RuntimeClass> {
    match &object?.kind {
        Kind::RuntimeClass(class) => Some(&**class),
        _ => None,
    }
}
