//! Metadata, which all kinds have.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::found::Found;
use super::part::Part;
use crate::discovery::intern::Interner;
use crate::discovery::tree::Node;
use crate::model::{Labels, Name};

/// Annotations and labels that mean something here begin so.
const OURS: &str = "mesh-agent.io/";
/// The label that puts a pod, or the pods of a namespace, into the mesh.
pub(in crate::discovery) const ENROLLED: &str = "mesh-agent.io/enrolled";

/// The fields that it has.
pub(in crate::discovery) const OBJECT_META: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    #[serde(deserialize_with = "name")]
    pub(crate) name: Name,
    #[serde(default, deserialize_with = "some_name")]
    pub(in crate::discovery) namespace: Option<Name>,
    #[serde(default, deserialize_with = "some_name")]
    pub(crate) uid: Option<Name>,
    #[serde(default, deserialize_with = "labels")]
    pub(crate) labels: Labels,
    #[serde(default, deserialize_with = "labels")]
    pub(crate) annotations: Labels,
    /// It has a `deletionTimestamp`: it ends.
    #[serde(default, rename = "deletionTimestamp", deserialize_with = "is_there")]
    pub(crate) ends: bool,
}

fn name<'de, D: Deserializer<'de>>(value: D) -> Result<Name, D::Error> {
    String::deserialize(value).map(Name::from)
}

fn some_name<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Name>, D::Error> {
    Ok(Option::<String>::deserialize(value)?.map(Name::from))
}

fn labels<'de, D: Deserializer<'de>>(value: D) -> Result<Labels, D::Error> {
    BTreeMap::deserialize(value).map(Labels::from)
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    Ok(Option::<String>::deserialize(value)?.is_some())
}

impl Meta {
    /// Of an object whose metadata does not parse.
    pub(in crate::discovery) fn recovered(namespace: Option<&str>, name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.map(Name::from),
            ..Self::default()
        }
    }

    /// `None` without a name, or in a namespace that cannot be read.
    pub(in crate::discovery) fn read(value: &Node<'_>, found: &mut Found) -> Option<Self> {
        found.names(value, "metadata", OBJECT_META);
        let name = found.name(&value["name"], "metadata.name", Part::Nothing);
        let namespace = &value["namespace"];
        let namespace_text = found.name(namespace, "metadata.namespace", Part::Nothing);
        if name.is_none() && value["name"].is_null() {
            found.mistake("metadata.name", "is missing", Part::Nothing);
        }
        let is_whole = namespace.is_null() || namespace_text.is_some();
        let name = name.filter(|n| !n.is_empty() && is_whole)?;
        // The API server writes "" for absent.
        let namespace = namespace_text.filter(|n| !n.is_empty());
        let mut meta = Self::recovered(namespace.as_deref(), &name);
        let uid = found.text(&value["uid"], "metadata.uid", Part::Nothing);
        meta.uid = uid.map(Name::from);
        let labels = found.texts(&value["labels"], "metadata.labels", Part::Labels);
        meta.labels = labels.into();
        let annotations = &value["annotations"];
        let mut annotations = found.texts(annotations, "metadata.annotations", Part::Annotations);
        // The others can be large, and say nothing to the mesh.
        annotations.retain(|name, _| name.starts_with(OURS));
        meta.annotations = annotations.into();
        meta.ends = !value["deletionTimestamp"].is_null();
        Some(meta)
    }

    /// Of two that differ the one that is in the mesh counts.
    pub(super) fn strictness(&self) -> u8 {
        match self.labels.get(ENROLLED).map(String::as_str) {
            None => 1,
            Some("false") => 0,
            Some(_) => 2,
        }
    }

    pub(in crate::discovery) fn share(&mut self, names: &mut Interner) {
        names.share(&mut self.name);
        self.namespace.iter_mut().for_each(|name| names.share(name));
        names.share_labels(&mut self.labels);
        names.share_labels(&mut self.annotations);
    }

    #[must_use]
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::super::api::fields;

    #[test]
    fn the_fields_are_those_of_the_api() {
        assert_eq!(super::OBJECT_META, fields::<ObjectMeta>());
    }
}
