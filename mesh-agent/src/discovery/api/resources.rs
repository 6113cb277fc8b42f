//! What of the table of kinds the API is asked for.

use crate::discovery::kinds::KindId;
use crate::kube::{Cut, Resource};

/// Groups that every cluster has; the others come with a CRD.
const BUILT_IN: [&str; 2] = ["", "discovery.k8s.io"];

/// All kinds but accounts: a pod says its own, and an account says nothing more.
pub(super) fn served() -> Vec<Resource> {
    let kinds = KindId::ALL
        .iter()
        .filter(|kind| **kind != KindId::ServiceAccount);
    kinds.map(|kind| resource(*kind)).collect()
}

fn resource(kind: KindId) -> Resource {
    let about = kind.about();
    Resource {
        group: about.group,
        versions: about.versions,
        kind: about.name,
        plural: about.plural,
        optional: !BUILT_IN.contains(&about.group),
        cut: match kind {
            KindId::Pod => &OF_PODS,
            _ => Cut::NOTHING,
        },
    }
}

/// What is large and says nothing to the mesh. Not what a probe or a hook says,
/// nor what may be asked of a pod that is to be enrolled.
const OF_PODS: Cut = Cut {
    out: &[],
    inside: &[
        (
            "spec",
            Cut {
                out: &[
                    "affinity",
                    "imagePullSecrets",
                    "nodeSelector",
                    "tolerations",
                    "topologySpreadConstraints",
                    "volumes",
                ],
                inside: &[
                    ("containers", OF_CONTAINERS),
                    ("initContainers", OF_CONTAINERS),
                    ("ephemeralContainers", OF_CONTAINERS),
                ],
            },
        ),
        (
            "status",
            Cut {
                out: &[
                    "containerStatuses",
                    "ephemeralContainerStatuses",
                    "initContainerStatuses",
                ],
                inside: &[],
            },
        ),
    ],
};

const OF_CONTAINERS: Cut = Cut {
    out: &[
        "args",
        "command",
        "env",
        "envFrom",
        "resources",
        "volumeDevices",
        "volumeMounts",
    ],
    inside: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_with_a_crd_is_optional() {
        let kinds = served();
        let optional = kinds.iter().filter(|r| r.optional).map(|r| r.kind);
        let optional: Vec<_> = optional.collect();
        assert!(optional.contains(&"AuthorizationPolicy"), "{optional:?}");
        assert!(optional.contains(&"PeerAuthentication"), "{optional:?}");
        let needed = kinds.iter().filter(|r| !r.optional).map(|r| r.plural);
        let needed: Vec<_> = needed.collect();
        for plural in ["namespaces", "pods", "services", "endpointslices"] {
            assert!(needed.contains(&plural), "{needed:?}");
        }
    }
}
