//! The objects of one kind: those that are known, and those of a list that has
//! not come to its end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::held::Held;
use super::held_back::HeldBack;
use crate::discovery::documents::document;
use crate::discovery::intern::Interner;
use crate::discovery::last_good::keep_last_good;
use crate::discovery::objects::Object;
use crate::discovery::origin::{Origin, Place, Version};
use crate::discovery::publish::Publisher;
use crate::discovery::store::Said;
use crate::discovery::{Code, Problem};
use crate::kube::{Head, Item, Resource};

/// Of one kind. More are not taken over at all: a part of them would be a lie.
const MAX_OBJECTS: usize = 500_000;

type Problems = Option<Box<[Problem]>>;

#[derive(Debug)]
enum Staged {
    /// In the version that is known.
    Same,
    Other(Held, Problems),
}

type Map<V> = HashMap<Place, V, foldhash::fast::RandomState>;

#[derive(Debug)]
pub(super) struct Places {
    pub(super) resource: Resource,
    known: HashSet<Held, foldhash::fast::RandomState>,
    /// All of them are known, as of some time.
    pub(super) is_whole: bool,
    /// There are more than can be held.
    pub(super) is_too_large: bool,
    pub(super) held_back: HeldBack,
}

/// A list that has not come to its end.
#[derive(Debug, Default)]
pub(super) struct Staging {
    objects: Map<Staged>,
    /// Those without a name.
    nameless: usize,
    is_too_large: bool,
}

impl Staging {
    /// Of that version, and without a mistake.
    fn told(&self, place: &Place, version: &Version) -> Option<&Held> {
        match self.objects.get(place)? {
            Staged::Other(held, None) => Some(held).filter(|held| held.version() == Some(version)),
            Staged::Other(..) | Staged::Same => None,
        }
    }
}

/// Where the changes go.
pub(super) struct To<'t> {
    pub(super) publisher: &'t mut Publisher,
    pub(super) names: &'t mut Interner,
    /// Of all kinds, by place.
    pub(super) problems: &'t mut std::collections::BTreeMap<Place, Box<[Problem]>>,
}

impl To<'_> {
    fn tell(&mut self, place: &Place, problems: Problems) {
        match problems {
            Some(problems) => self.problems.insert(place.clone(), problems),
            None => self.problems.remove(place),
        };
    }
}

fn said(held: Option<&Held>) -> Said<'_> {
    held.map_or(Said::NOTHING, |held| Said::here(held.objects()))
}

impl Places {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            resource,
            known: HashSet::default(),
            is_whole: false,
            is_too_large: false,
            held_back: HeldBack::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// One object of a list. `other`: what somebody else tells of the same kind at the same
    /// time; what that has of the same version is held once.
    pub(super) fn stage(
        &self,
        item: &Item,
        (to, other): (&mut Staging, Option<&Staging>),
        names: &mut Interner,
    ) {
        if to.objects.len() >= MAX_OBJECTS {
            to.is_too_large = true;
            return;
        }
        let place = match item.head.name.is_empty() {
            true => {
                to.nameless += 1;
                Place::resource(&self.resource.path(None, &format!("?{}", to.nameless)))
            }
            false => self.place(&item.head, names),
        };
        let version = Version::from(&*item.head.version);
        let known = self.known.get(&place);
        if known.is_some_and(|held| held.version() == Some(&version)) {
            to.objects.insert(place, Staged::Same);
            return;
        }
        let told = other.and_then(|other| other.told(&place, &version));
        let (held, problems) = match told {
            Some(held) => (held.clone(), None),
            None => read(&place, item, known.map_or(&[], Held::objects), names),
        };
        to.objects.insert(place, Staged::Other(held, problems));
    }

    /// The list is whole: it holds. False where it cannot.
    pub(super) fn take(&mut self, staging: Staging, to: &mut To<'_>) -> bool {
        self.is_too_large = staging.is_too_large;
        if staging.is_too_large {
            return false;
        }
        let staged = staging.objects;
        let is_gone = |place: &&Place| !staged.contains_key(*place);
        let known = self.known.iter().map(Held::place);
        let gone: Vec<Place> = known.filter(is_gone).cloned().collect();
        for place in gone {
            self.drop(&place, to);
        }
        for (place, staged) in staged {
            let Staged::Other(held, problems) = staged else {
                continue;
            };
            // The disk's end has put it there meanwhile.
            if !self.known.get(&place).is_some_and(|known| known.is(&held)) {
                self.put(&place, (held, problems), to);
            }
        }
        self.is_whole = true;
        true
    }

    /// It is new, or not what it was.
    pub(super) fn change(&mut self, item: &Item, to: &mut To<'_>) {
        let place = self.place(&item.head, to.names);
        if self.known.len() >= MAX_OBJECTS && !self.known.contains(&place) {
            self.is_too_large = true;
            return;
        }
        let before = self.known.get(&place);
        let version = Version::from(&*item.head.version);
        // Told twice.
        if before.is_some_and(|held| held.version() == Some(&version)) {
            return;
        }
        let objects = before.map_or(&[][..], Held::objects);
        let held = read(&place, item, objects, to.names);
        self.put(&place, held, to);
    }

    fn put(&mut self, place: &Place, (mut held, problems): (Held, Problems), to: &mut To<'_>) {
        let is_understood = !problems.iter().flatten().any(Problem::is_mistake);
        let version = held.version().and_then(Version::as_number).unwrap_or(0);
        self.held_back
            .note(place, (!is_understood).then_some(version));
        let before = self.known.get(place);
        if let Some(before) = before {
            held.share(before);
        }
        to.publisher.replace(&said(before), &said(Some(&held)));
        to.tell(place, problems);
        self.known.replace(held);
    }

    fn drop(&mut self, place: &Place, to: &mut To<'_>) {
        let before = self.known.take(place);
        self.held_back.note(place, None);
        to.publisher.replace(&said(before.as_ref()), &said(None));
        to.tell(place, None);
    }

    /// False where what is known of that name is another object, made since.
    pub(super) fn delete(&mut self, head: &Head, to: &mut To<'_>) -> bool {
        let place = self.place(head, to.names);
        let Some(held) = self.known.get(&place) else {
            return true;
        };
        let known = held
            .objects()
            .iter()
            .find_map(|object| object.meta.uid.as_ref());
        let is_other =
            known.is_some_and(|known| head.uid.as_deref().is_some_and(|uid| *uid != **known));
        if is_other {
            return false;
        }
        self.drop(&place, to);
        true
    }

    fn place(&self, head: &Head, names: &mut Interner) -> Place {
        let folder = self.resource.path(head.namespace.as_deref(), "");
        Place::named(names.name(&folder), names.name(&head.name))
    }
}

fn read(
    place: &Place,
    item: &Item,
    before: &[Arc<Object>],
    names: &mut Interner,
) -> (Held, Problems) {
    let version = Version::from(&*item.head.version);
    let origin = Origin::version(place.clone(), version.clone());
    let text = String::from_utf8_lossy(&item.json);
    let is_text = matches!(text, std::borrow::Cow::Borrowed(_));
    let mut parsed = document(&origin, &text, is_text);
    if !is_text {
        let message = "the object is not UTF-8".to_owned();
        parsed
            .problems
            .push(Problem::new(Code::Syntax, origin, message));
    }
    for object in &mut parsed.objects {
        Arc::make_mut(object).share(names);
    }
    if parsed.problems.iter().any(Problem::is_mistake) {
        keep_last_good(&mut parsed, before);
    }
    let held = Held::new(place, version, parsed.objects);
    let problems = (!parsed.problems.is_empty()).then(|| parsed.problems.into());
    (held, problems)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::discovery::api::resources;

    fn item(resource: &Resource, version: &str) -> Item {
        let json = format!(
            r#"{{"metadata":{{"name":"web","namespace":"shop","resourceVersion":"{version}"}},"spec":{{}}}}"#
        );
        Item::read(resource, json.as_bytes())
    }

    fn object(staging: &Staging) -> &Arc<Object> {
        match staging.objects.values().next() {
            Some(Staged::Other(held, _)) => &held.objects()[0],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_told_twice_at_the_same_time_in_one_version_is_held_once() {
        let resource = resources::served().into_iter().find(|r| r.plural == "pods");
        let resource = resource.expect("pods");
        let (places, mut names) = (Places::new(resource), Interner::default());
        let mut listing = Staging::default();
        places.stage(&item(&resource, "7"), (&mut listing, None), &mut names);
        for (version, is_one) in [("7", true), ("6", false)] {
            let mut loading = Staging::default();
            let to = (&mut loading, Some(&listing));
            places.stage(&item(&resource, version), to, &mut names);
            assert_eq!(Arc::ptr_eq(object(&listing), object(&loading)), is_one);
        }
    }
}
