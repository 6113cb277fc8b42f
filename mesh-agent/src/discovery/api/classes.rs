//! Runtime classes: that there are none is not the same as that they are not known.

use crate::discovery::kinds::KindId;
use crate::discovery::store::Listed;
use crate::kube::{Event, Resource};

pub(super) fn are(resource: &Resource) -> bool {
    let about = KindId::RuntimeClass.about();
    (resource.group, resource.plural) == (about.group, about.plural)
}

/// What is known of them with an event that ends a list, of the API server or of the disk.
pub(super) fn listed(event: &Event, is_from_disk: bool) -> Listed {
    match event {
        // The disk has nothing of them.
        Event::Absent if is_from_disk => Listed::Not,
        Event::Absent => Listed::Absent,
        // As an absence is kept.
        Event::End(version) if is_from_disk && version.is_empty() => Listed::Absent,
        _ => Listed::All,
    }
}
