//! Records: what stands in the snapshot as it is read, and who follows it.

use super::state::Store;
use crate::discovery::kinds::{Followers, KindId};
use crate::model::Name;

impl Store {
    pub(super) fn settle_records(&mut self, kind: KindId, namespace: &Name) {
        let objects = self.objects.in_namespace(kind, namespace);
        let effective = objects.filter_map(|(_, entry)| Some(&entry.effective.as_ref()?.kind));
        let is_changed = kind.publish_records(&mut self.snapshot, namespace, effective);
        self.dirty.touched.snapshot |= is_changed;
        match kind.followers() {
            Followers::Nobody => {}
            Followers::PodsWithClass => self.look_at_pods_with_class(),
            Followers::RoutesNaming if is_changed => self.look_at_routes_naming(namespace),
            Followers::RoutesNaming => {}
        }
    }
}
