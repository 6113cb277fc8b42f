//! One object of the API, as it was understood.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::discovery::objects::Object;
use crate::discovery::origin::{Place, Version};

/// In a set by its place, which is said by itself: there are very many of the first sort.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// Whole, in the version and of the place that it says itself.
    One(Arc<Object>),
    Other(Box<Other>),
}

/// With what its last good version said.
#[derive(Clone, Debug)]
pub(super) struct Other {
    place: Place,
    version: Version,
    objects: Vec<Arc<Object>>,
}

impl Held {
    pub(super) fn new(place: &Place, version: Version, mut objects: Vec<Arc<Object>>) -> Self {
        let is_its =
            |one: &Object| one.origin.place == *place && one.origin.api_version() == Some(&version);
        match objects.pop() {
            Some(one) if objects.is_empty() && is_its(&one) => Self::One(one),
            last => {
                objects.extend(last);
                Self::Other(Box::new(Other {
                    place: place.clone(),
                    version,
                    objects,
                }))
            }
        }
    }

    /// Texts that only this object has, and `before` has as well.
    pub(super) fn share(&mut self, before: &Self) {
        if let (Self::One(now), Self::One(before)) = (self, before)
            && now.meta.uid == before.meta.uid
        {
            let uid = &mut Arc::make_mut(now).meta.uid;
            uid.clone_from(&before.meta.uid);
        }
    }

    /// Is it the very same one?
    pub(super) fn is(&self, other: &Self) -> bool {
        matches!((self, other), (Self::One(one), Self::One(other)) if Arc::ptr_eq(one, other))
    }

    pub(super) fn place(&self) -> &Place {
        match self {
            Self::One(object) => &object.origin.place,
            Self::Other(other) => &other.place,
        }
    }

    pub(super) fn objects(&self) -> &[Arc<Object>] {
        match self {
            Self::One(object) => std::slice::from_ref(object),
            Self::Other(other) => &other.objects,
        }
    }

    /// `None` where the API server said none.
    pub(super) fn version(&self) -> Option<&Version> {
        let version = match self {
            Self::One(object) => object.origin.api_version(),
            Self::Other(other) => Some(&other.version),
        };
        version.filter(|version| !version.is_empty())
    }
}

impl Borrow<Place> for Held {
    fn borrow(&self) -> &Place {
        self.place()
    }
}

impl Hash for Held {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Held {}
