//! What each kind says of itself, and how it is read.
//!
//! There are two natures. A fact says what there is: what cannot be understood
//! of it is not known, is filled by its last good version, and without one means
//! the closed of two possibilities. A record is a fact of which the store makes no more
//! than it says. A policy restricts: what cannot be
//! understood of it restricts most, and its loss grants nothing.

use std::net::IpAddr;
use std::sync::Arc;

use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use crate::discovery::fields::Mistake;
use crate::discovery::intern::Interner;
use crate::discovery::tree::Node;
use crate::kube::Cut;
use crate::model::{ByNamespace, Name, Snapshot};

/// A kind, as the API has it.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) name: &'static str,
    /// Empty for the API's core.
    pub(crate) group: &'static str,
    /// Those that are served; the API is asked for the first.
    pub(crate) versions: &'static [&'static str],
    pub(crate) plural: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) followed: Followed,
    /// For people: what the mesh takes from it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the documentation"))]
    pub(crate) meaning: &'static str,
}

/// What the API is asked for of a kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Followed {
    Whole,
    /// But for what is large and says nothing to the mesh.
    Without(&'static Cut),
    /// What its objects say lets through no more and no less: where it cannot be listed,
    /// the node does without.
    Dispensable,
    /// Not for it: other kinds say all that counts.
    Never,
}

impl About {
    /// As `apiVersion` says them.
    pub(crate) fn api_versions(&self) -> impl Iterator<Item = String> {
        let group = match self.group {
            "" => String::new(),
            group => format!("{group}/"),
        };
        let versions = self.versions.iter();
        versions.map(move |version| format!("{group}{version}"))
    }

    pub(in crate::discovery) fn is_served_as(&self, api: &str) -> bool {
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        group == self.group && self.versions.contains(&version)
    }
}

/// What two versions of one object say differently.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::discovery) enum Contradiction {
    #[default]
    None,
    Parts(Vec<Part>),
    /// Nobody can say which is meant.
    Whole,
}

impl Contradiction {
    /// Of kinds that have no parts.
    pub(in crate::discovery) fn unless(are_same: bool) -> Self {
        match are_same {
            true => Self::None,
            false => Self::Whole,
        }
    }
}

/// A kind that says what there is.
pub(in crate::discovery) trait Fact: Sized {
    const ABOUT: About;

    fn read(value: &Node<'_>, found: &mut Found) -> Self;

    /// What cannot be understood of one part is as `before` said it; false where
    /// the kind has no such part.
    fn fill(&mut self, _before: &Self, _part: Part) -> bool {
        false
    }

    /// Takes the texts that objects have in common from `names`.
    fn share(&mut self, _names: &mut Interner) {}

    /// Of versions that differ the strictest counts.
    fn strictness(_meta: &Meta) -> u8 {
        0
    }

    /// Addresses that are nobody else's, also where this version does not count.
    fn addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    fn contradiction(_one: (&Meta, &Self), _other: (&Meta, &Self)) -> Contradiction {
        Contradiction::None
    }
}

/// The records of a kind in one namespace.
pub(in crate::discovery) type Records<'r, R> = dyn Iterator<Item = &'r R> + 'r;

/// A fact that stands in the snapshot, if at all, as it is read, beside those of its
/// namespace. Of the others the store makes more.
pub(in crate::discovery) trait Record: Fact {
    const FOLLOWERS: Followers;

    /// Makes `all` those of the namespace; were there others?
    fn publish(_snapshot: &mut Snapshot, _namespace: &Name, _all: &mut Records<'_, Self>) -> bool {
        false
    }
}

/// What is to be looked at again where records of a namespace are others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::discovery) enum Followers {
    Nobody,
    /// Pods that name a runtime class.
    PodsWithClass,
    /// Routes of other namespaces that name something of it, and their Services.
    RoutesNaming,
}

/// A kind that restricts.
pub(in crate::discovery) trait Policy: Clone + PartialEq {
    const ABOUT: About;

    /// Whatever is not understood is a mistake, and restricts. The metadata may
    /// be such that nobody can say whom it is for: it is not trusted.
    fn read(value: &Node<'_>, meta: &Meta, is_trusted: bool, mistakes: &mut Vec<Mistake>) -> Self;

    /// Has the spec fields that only this kind has?
    fn is_in(spec: &Node<'_>) -> bool;

    /// Does a text that is no document speak of this kind?
    fn is_spoken_of(text: &str) -> bool;

    /// Stands for whatever there may be of the kind: for the whole mesh.
    fn anything(namespace: &str, name: &str, why: &str) -> Self;

    /// What stays where nobody can say that it is meant: no grant.
    fn fail_closed(&mut self, why: &str);

    /// It is in force, and not only tried.
    fn restricts(&self) -> bool {
        true
    }

    /// Says more than `now`, which has a mistake: it is to hold instead.
    fn is_better_than(&self, _now: &Self) -> bool {
        false
    }

    /// Where the snapshot has them.
    fn of(snapshot: &mut Snapshot) -> &mut ByNamespace<Arc<Self>>;
}
