//! What the container runtime says by the environment.

use std::ffi::OsString;
use std::path::PathBuf;

/// A pod, as the kubelet names it through its runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty where an old runtime does not say it.
    pub(crate) uid: String,
}

#[derive(Clone, Debug, Default)]
pub struct Call {
    pub(crate) command: String,
    pub(crate) sandbox: String,
    pub(crate) netns: PathBuf,
    pub(crate) pod: Option<Pod>,
}

impl Call {
    #[must_use]
    pub fn from(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let text = |name| variable(name).unwrap_or_default();
        let word = |name| text(name).to_string_lossy().into_owned();
        Self {
            command: word("CNI_COMMAND"),
            sandbox: word("CNI_CONTAINERID"),
            netns: text("CNI_NETNS").into(),
            pod: pod(&word("CNI_ARGS")),
        }
    }

    pub(crate) fn needs_configuration(&self) -> bool {
        self.command == "ADD"
    }
}

/// `KEY=VALUE;KEY=VALUE`. Without a namespace it is no pod of the kubelet's.
fn pod(args: &str) -> Option<Pod> {
    let of = |name: &str| {
        let mut pairs = args.split(';').filter_map(|pair| pair.split_once('='));
        let value = pairs.find_map(|(key, value)| (key == name).then_some(value));
        value.unwrap_or_default().to_owned()
    };
    let pod = Pod {
        namespace: of("K8S_POD_NAMESPACE"),
        name: of("K8S_POD_NAME"),
        uid: of("K8S_POD_UID"),
    };
    let is_any = !(pod.namespace.is_empty() && pod.name.is_empty() && pod.uid.is_empty());
    is_any.then_some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_what_any_of_its_names_says() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=s;K8S_POD_UID=u";
        let whole = pod(args).expect("a pod");
        assert_eq!(
            (&*whole.namespace, &*whole.name, &*whole.uid),
            ("shop", "web", "u")
        );
        assert!(pod("K8S_POD_NAME=web").is_some(), "half a name is one");
        assert_eq!(pod(""), None);
        assert_eq!(pod("IgnoreUnknown=1;;=;K8S_POD_NAMESPACE"), None);
    }
}
