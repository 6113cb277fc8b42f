//! What is listed and watched, and what the API server calls it.

use super::cut::Cut;

/// One kind of objects, of all namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resource {
    /// Empty for the core group.
    pub(crate) group: &'static str,
    /// Those that are understood; the first is asked for where it is served.
    pub(crate) versions: &'static [&'static str],
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    /// Whoever runs the cluster may not have installed it.
    pub(crate) optional: bool,
    /// What its objects say lets through no more and no less, or what they do not say lets
    /// through no more: where it cannot be listed, for whatever reason, the node has what the
    /// disk knows of it, or does without.
    pub(crate) dispensable: bool,
    /// What of its objects nobody reads.
    pub(crate) cut: &'static Cut,
}

impl Resource {
    pub(crate) fn version(&self) -> &'static str {
        self.versions.first().copied().unwrap_or("v1")
    }

    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version().to_owned(),
            group => format!("{group}/{}", self.version()),
        }
    }

    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub(super) fn root(&self, version: &str) -> String {
        match self.group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        }
    }

    /// Of all namespaces.
    pub(super) fn collection(&self, version: &str) -> String {
        format!("{}/{}", self.root(version), self.plural)
    }

    /// Where one object stands; the same whichever version it is read in.
    pub(crate) fn path(&self, namespace: Option<&str>, name: &str) -> String {
        let (root, plural) = (self.root(self.version()), self.plural);
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
            None => format!("{root}/{plural}/{name}"),
        }
    }
}

#[cfg(test)]
impl Resource {
    /// For tests, with all of its fields.
    pub(crate) const PODS: Self = Self {
        group: "",
        versions: &["v1"],
        kind: "Pod",
        plural: "pods",
        optional: false,
        dispensable: false,
        cut: Cut::NOTHING,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stands_where_the_api_server_has_it() {
        let pods = Resource::PODS;
        assert_eq!(pods.collection("v1"), "/api/v1/pods");
        let path = pods.path(Some("shop"), "web-0");
        assert_eq!(path, "/api/v1/namespaces/shop/pods/web-0");
        let slices = Resource {
            group: "discovery.k8s.io",
            plural: "endpointslices",
            ..pods
        };
        assert_eq!(slices.api_version(), "discovery.k8s.io/v1");
        let path = slices.path(None, "a");
        assert_eq!(path, "/apis/discovery.k8s.io/v1/endpointslices/a");
    }
}
