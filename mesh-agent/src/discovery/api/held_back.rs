//! Objects whose newest version is not understood in full: of each an older one is in
//! force, or none.

use std::collections::HashMap;
use std::sync::Arc;

use crate::discovery::origin::Place;
use crate::model::MAX_HELD_BACK;

/// Of one kind.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    /// The version that is not understood, where it is a number.
    all: HashMap<Place, u64, foldhash::fast::RandomState>,
    /// As they were told last, until they change.
    told: Option<(Named, Option<u64>)>,
}

/// As `NAMESPACE/NAME`.
pub(super) type Named = Arc<[Box<str>]>;

impl HeldBack {
    /// `version`: of one that is not understood, 0 where it is no number; `None`: there is
    /// no such any more.
    pub(super) fn note(&mut self, place: &Place, version: Option<u64>) {
        let is_other = match version {
            Some(version) => self.all.insert(place.clone(), version) != Some(version),
            None => self.all.remove(place).is_some(),
        };
        if is_other {
            self.told = None;
        }
    }

    /// Of a kind that was told up to `version`: up to which it is in force, but for those
    /// that are named.
    pub(super) fn in_force(&mut self, version: u64) -> (u64, Named) {
        let (named, before) = self.told.get_or_insert_with(|| summary(&self.all));
        let version = before.map_or(version, |before| version.min(before));
        (version, named.clone())
    }
}

/// Those that are named, the oldest, and the version before all others.
fn summary(all: &HashMap<Place, u64, foldhash::fast::RandomState>) -> (Named, Option<u64>) {
    let mut all: Vec<(u64, &Place)> = all.iter().map(|(place, at)| (*at, place)).collect();
    all.sort_unstable();
    let others = all.split_off(all.len().min(MAX_HELD_BACK));
    let named = all.iter().filter_map(|(_, place)| place.namespaced());
    let named = named.map(|(namespace, name)| format!("{namespace}/{name}").into());
    let before = others.first().map(|(at, _)| at.saturating_sub(1));
    (named.collect(), before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        let path = format!("/apis/a.x/v1/namespaces/shop/things/{name}");
        Place::resource(&path)
    }

    fn names(named: &Named) -> Vec<&str> {
        named.iter().map(|name| &**name).collect()
    }

    #[test]
    fn those_that_are_not_understood_are_named_until_they_are() {
        let mut held_back = HeldBack::default();
        assert_eq!(held_back.in_force(9), (9, Named::default()));
        held_back.note(&place("a"), Some(7));
        held_back.note(&place("b"), Some(8));
        let (version, named) = held_back.in_force(9);
        assert_eq!((version, names(&named)), (9, vec!["shop/a", "shop/b"]));
        held_back.note(&place("a"), None);
        let (version, named) = held_back.in_force(10);
        assert_eq!((version, names(&named)), (10, vec!["shop/b"]));
    }

    #[test]
    fn more_than_are_named_stop_the_kind_before_the_first_of_them() {
        let mut held_back = HeldBack::default();
        for at in 1..=MAX_HELD_BACK + 2 {
            held_back.note(&place(&at.to_string()), Some(at as u64 * 10));
        }
        let (version, named) = held_back.in_force(9_999);
        assert_eq!(named.len(), MAX_HELD_BACK, "the oldest");
        assert_eq!(version, (MAX_HELD_BACK as u64 + 1) * 10 - 1);
        held_back.note(&place("1"), None);
        held_back.note(&place("2"), None);
        assert_eq!(held_back.in_force(9_999).0, 9_999);
    }
}
