//! RuntimeClass: what runs the pods of that class, and so whether their sockets are the
//! node's.

use super::about::{About, Contradiction, Fact, Followed, Followers, Record};
use super::found::Found;
use super::meta::Meta;
use super::part::Part;
use crate::discovery::tree::Node;
use crate::model::{Name, Unfit};

const RUNTIME_CLASS: &[&str] = &[
    "apiVersion",
    "handler",
    "kind",
    "metadata",
    "overhead",
    "scheduling",
];

/// In names of runtime classes, and of handlers, whose pods have a kernel, or a network
/// stack, of their own.
const SANDBOXES: [&str; 3] = ["gvisor", "runsc", "kata"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuntimeClass {
    /// `None` where it cannot be understood: it may be any.
    pub(crate) handler: Option<Name>,
}

impl Fact for RuntimeClass {
    const ABOUT: About = About {
        name: "RuntimeClass",
        group: "node.k8s.io",
        versions: &["v1"],
        plural: "runtimeclasses",
        namespaced: false,
        followed: Followed::Dispensable,
        meaning: "by its handler, whether pods of the class are in a sandbox (gVisor, Kata) and cannot be captured",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        found.names(value, "", RUNTIME_CLASS);
        let handler = found.name(&value["handler"], "handler", Part::Class);
        let handler = handler.filter(|handler| !handler.is_empty());
        if handler.is_none() && !found.unread.contains(Part::Class) {
            found.mistake("handler", "a class needs a handler", Part::Class);
        }
        Self {
            handler: handler.map(Name::from),
        }
    }

    fn fill(&mut self, before: &Self, part: Part) -> bool {
        if part == Part::Class {
            self.clone_from(before);
        }
        part == Part::Class
    }

    fn contradiction(one: (&Meta, &Self), other: (&Meta, &Self)) -> Contradiction {
        Contradiction::unless(one.1 == other.1)
    }
}

impl Record for RuntimeClass {
    const FOLLOWERS: Followers = Followers::PodsWithClass;
}

impl RuntimeClass {
    /// Why pods of the class of that name cannot be captured, if they cannot.
    pub(in crate::discovery) fn unfit(&self, name: &Name) -> Option<Unfit> {
        let Some(handler) = &self.handler else {
            return Some(Unfit::UnknownRuntime(name.clone()));
        };
        let is_sandbox = is_sandbox(name) || is_sandbox(handler);
        is_sandbox.then(|| {
            let both = format!("{} (handler {})", name.as_str(), handler.as_str());
            Unfit::Sandboxed(both.into())
        })
    }
}

/// By its name alone.
pub(in crate::discovery) fn unfit_by_name(name: &Name) -> Option<Unfit> {
    is_sandbox(name).then(|| Unfit::Sandboxed(name.clone()))
}

fn is_sandbox(name: &Name) -> bool {
    let lower = name.as_str().to_ascii_lowercase();
    SANDBOXES.iter().any(|sandbox| lower.contains(sandbox))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::node::v1::RuntimeClass;

    use super::super::api::{fields, is_of_the_api};
    use super::{Fact as _, RuntimeClass as Kind};

    #[test]
    fn the_fields_are_those_of_the_api() {
        is_of_the_api::<RuntimeClass>(&Kind::ABOUT);
        assert_eq!(super::RUNTIME_CLASS, fields::<RuntimeClass>());
    }
}
