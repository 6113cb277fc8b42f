//! The objects of one kind: those that are known, and those of a list that has
//! not come to its end.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::discovery::documents::document;
use crate::discovery::intern::Interner;
use crate::discovery::last_good::keep_last_good;
use crate::discovery::objects::Object;
use crate::discovery::origin::{Origin, Place};
use crate::discovery::publish::Publisher;
use crate::discovery::store::Said;
use crate::discovery::{Code, Problem};
use crate::kube::{Head, Item, Resource};

/// Of one kind. More are not taken over at all: a part of them would be a lie.
const MAX_OBJECTS: usize = 500_000;

/// One object of the API, as it was understood.
#[derive(Debug)]
struct Held {
    version: Box<str>,
    /// With what its last good version said.
    objects: SmallVec<[Arc<Object>; 1]>,
    problems: Option<Box<[Problem]>>,
}

#[derive(Debug)]
enum Staged {
    /// In the version that is known.
    Same,
    Other(Held),
}

type Map<V> = HashMap<Place, V, foldhash::fast::RandomState>;

#[derive(Debug)]
pub(super) struct Places {
    pub(super) resource: Resource,
    known: Map<Held>,
    /// All of them are known, as of some time.
    pub(super) is_whole: bool,
    /// There are more than can be held.
    pub(super) is_too_large: bool,
}

/// A list that has not come to its end.
#[derive(Debug, Default)]
pub(super) struct Staging {
    objects: Map<Staged>,
    /// Those without a name.
    nameless: usize,
    is_too_large: bool,
}

/// Where the changes go.
pub(super) struct To<'t> {
    pub(super) publisher: &'t mut Publisher,
    pub(super) names: &'t mut Interner,
    /// Of all kinds, by place.
    pub(super) problems: &'t mut std::collections::BTreeMap<Place, Box<[Problem]>>,
}

impl To<'_> {
    fn replace(&mut self, place: &Place, before: Option<&Held>, now: Option<&mut Held>) {
        let (problems, now) = match now {
            Some(now) => (now.problems.take(), Some(&*now)),
            None => (None, None),
        };
        self.publisher.replace(&said(before), &said(now));
        match problems {
            Some(problems) => self.problems.insert(place.clone(), problems),
            None => self.problems.remove(place),
        };
    }
}

fn said(held: Option<&Held>) -> Said<'_> {
    held.map_or(Said::NOTHING, |held| Said::here(&held.objects))
}

impl Places {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            resource,
            known: Map::default(),
            is_whole: false,
            is_too_large: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// One object of a list.
    pub(super) fn stage(&self, item: &Item, to: &mut Staging, names: &mut Interner) {
        if to.objects.len() >= MAX_OBJECTS {
            to.is_too_large = true;
            return;
        }
        let place = match item.head.name.is_empty() {
            true => {
                to.nameless += 1;
                let name = format!("?{}", to.nameless);
                Place::resource(self.resource.path(None, &name))
            }
            false => self.place(&item.head),
        };
        let version = &*item.head.version;
        let staged = match self.known.get_key_value(&place) {
            Some((known, held)) if *held.version == *version && !version.is_empty() => {
                to.objects.insert(known.clone(), Staged::Same);
                return;
            }
            Some((_, held)) => read(&place, item, &held.objects, names),
            None => read(&place, item, &[], names),
        };
        to.objects.insert(place, Staged::Other(staged));
    }

    /// The list is whole: it holds. False where it cannot.
    pub(super) fn take(&mut self, staging: Staging, to: &mut To<'_>) -> bool {
        self.is_too_large = staging.is_too_large;
        if staging.is_too_large {
            return false;
        }
        let staged = staging.objects;
        let is_gone = |place: &&Place| !staged.contains_key(*place);
        let gone: Vec<Place> = self.known.keys().filter(is_gone).cloned().collect();
        for place in gone {
            let before = self.known.remove(&place);
            to.replace(&place, before.as_ref(), None);
        }
        for (place, staged) in staged {
            if let Staged::Other(mut held) = staged {
                to.replace(&place, self.known.get(&place), Some(&mut held));
                self.known.insert(place, held);
            }
        }
        self.is_whole = true;
        true
    }

    /// It is new, or not what it was.
    pub(super) fn change(&mut self, item: &Item, to: &mut To<'_>) {
        let place = self.place(&item.head);
        if self.known.len() >= MAX_OBJECTS && !self.known.contains_key(&place) {
            self.is_too_large = true;
            return;
        }
        let before = self.known.get(&place);
        let version = &*item.head.version;
        // Told twice.
        if before.is_some_and(|held| *held.version == *version && !version.is_empty()) {
            return;
        }
        let objects = before.map_or(&[][..], |held| &held.objects);
        let mut held = read(&place, item, objects, to.names);
        to.replace(&place, before, Some(&mut held));
        self.known.insert(place, held);
    }

    /// False where what is known of that name is another object, made since.
    pub(super) fn delete(&mut self, head: &Head, to: &mut To<'_>) -> bool {
        let place = self.place(head);
        let Some(held) = self.known.get(&place) else {
            return true;
        };
        let known = held
            .objects
            .iter()
            .find_map(|object| object.meta.uid.as_ref());
        let is_other =
            known.is_some_and(|known| head.uid.as_deref().is_some_and(|uid| *uid != **known));
        if is_other {
            return false;
        }
        let before = self.known.remove(&place);
        to.replace(&place, before.as_ref(), None);
        true
    }

    fn place(&self, head: &Head) -> Place {
        Place::resource(self.resource.path(head.namespace.as_deref(), &head.name))
    }
}

fn read(place: &Place, item: &Item, before: &[Arc<Object>], names: &mut Interner) -> Held {
    let origin = Origin::version(place.clone(), &*item.head.version);
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
    Held {
        version: (*item.head.version).into(),
        objects: parsed.objects.into(),
        problems: (!parsed.problems.is_empty()).then(|| parsed.problems.into()),
    }
}
