//! Namespace: its labels and annotations are those of its pods, too.

use super::about::{About, Fact, Followed};
use super::found::Found;
use super::meta::Meta;
use crate::discovery::tree::Node;

const NAMESPACE: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// Its metadata says it all.
#[derive(Clone, Debug)]
pub(crate) struct Namespace;

impl Fact for Namespace {
    const ABOUT: About = About {
        name: "Namespace",
        group: "",
        versions: &["v1"],
        plural: "namespaces",
        namespaced: false,
        followed: Followed::Whole,
        meaning: "labels and annotations that hold for its pods: whether they are in the mesh, and what becomes of them without an agent",
    };

    fn read(value: &Node<'_>, found: &mut Found) -> Self {
        found.names(value, "", NAMESPACE);
        Self
    }

    fn strictness(meta: &Meta) -> u8 {
        meta.strictness()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;

    use super::super::api::{fields, is_of_the_api};
    use super::{Fact as _, Namespace as Kind};

    #[test]
    fn the_fields_are_those_of_the_api() {
        is_of_the_api::<Namespace>(&Kind::ABOUT);
        assert_eq!(super::NAMESPACE, fields::<Namespace>());
    }
}
