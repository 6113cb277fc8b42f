//! What of an object is large and says nothing to the mesh: it is not kept.

use crate::kube::Cut;

/// Not what a probe or a hook says, nor what may be asked of a pod that is to be enrolled.
pub(super) const OF_PODS: Cut = Cut {
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
