//! A workload: one pod (or one service of a VM) as the configuration tells it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Labels, Name, PodIps, SpiffeError, SpiffeId, TrustDomain};

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkloadKey {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
}

impl WorkloadKey {
    pub(crate) fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a local workload's network namespace is found
/// (annotations `mesh-agent.io/netns`, `/pid`, `/cgroup`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NetnsRef {
    /// A namespace file, for example `/run/netns/NAME`.
    Path(PathBuf),
    /// A process that lives in the namespace.
    Pid(u32),
    /// A cgroup2 directory; the namespace of any process in it.
    Cgroup(PathBuf),
}

/// What an enrolled pod's new connections meet while no agent runs
/// (annotation `mesh-agent.io/on-agent-down`, default `closed`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnAgentDown {
    /// Refused: EPERM outbound, ECONNREFUSED inbound.
    #[default]
    Closed,
    /// Passed directly, in plaintext.
    Open,
}

/// Why a pod is outside of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outside {
    /// Neither it nor its namespace has the label that enrols.
    NotAsked,
    /// The label says `"false"`.
    OptedOut,
    /// A container of another mesh is in it.
    AnotherMesh,
    /// It is to be enrolled, and has its node's addresses.
    HostNetwork,
}

impl Outside {
    /// In one word that stays the same.
    #[must_use]
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::NotAsked => "NotAsked",
            Self::OptedOut => "OptedOut",
            Self::AnotherMesh => "AnotherMesh",
            Self::HostNetwork => "HostNetwork",
        }
    }
}

/// Is the workload in the mesh, and how is it captured here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enrolment {
    /// Not in the mesh.
    No(Outside),
    Yes(OnAgentDown),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) key: WorkloadKey,
    /// `metadata.uid`; `namespace/name` where the source gives none.
    pub(crate) uid: Name,
    pub(crate) ips: PodIps,
    /// `spec.nodeName`.
    pub(crate) node: Name,
    pub(crate) service_account: Name,
    /// Owner-like name for metrics: label `app.kubernetes.io/name`, else `app`, else the pod's name.
    pub(crate) app: Name,
    pub(crate) labels: Labels,
    pub(crate) enrolment: Enrolment,
    pub(crate) ports: Arc<[NamedPort]>,
    pub(crate) on_node: Arc<OnNode>,
}

/// What only the node asks for that a pod is on. Pods that have the same of it, or nothing,
/// share one: a cluster's pods are known to each node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct OnNode {
    pub(crate) netns: Option<NetnsRef>,
    /// Annotation `mesh-agent.io/cgroup`, also when the namespace is given by path:
    /// processes in it are refused until the namespace is enrolled.
    pub(crate) cgroup: Option<PathBuf>,
    /// Annotation `mesh-agent.io/exclude-addresses`: addresses of other interfaces,
    /// connections to which are left alone.
    pub(crate) excluded: Vec<IpAddr>,
    /// UID by which the node knows it, where that is another one: of a static pod,
    /// whose object only mirrors it.
    pub(crate) runtime_uid: Option<Name>,
    /// Ports that its own probes and hooks name.
    pub(crate) probe_ports: Vec<u16>,
    pub(crate) unfit: Option<Unfit>,
    /// Its application is told who calls, in `x-forwarded-client-cert`
    /// (annotation `mesh-agent.io/forward-client-cert-details`).
    pub(crate) forwards_client_cert: bool,
    /// Requests of CONNECT may come to it, behind which there are bytes that no rule sees
    /// (annotation `mesh-agent.io/allow-connect`).
    pub(crate) allows_connect: bool,
}

/// Why a pod cannot be the mesh's, whatever its labels say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unfit {
    /// Its runtime class: its connections do not pass the node's kernel.
    Sandboxed(Name),
    /// Its runtime class, of which it is not known whether they do.
    UnknownRuntime(Name),
    /// It is of another mesh, as its containers say, which stay for its life.
    AnotherMesh(Name),
    /// It is in the mesh and another one claims it, as this annotation says, which may
    /// come and go.
    Claimed(Name),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandboxed(class) => write!(
                f,
                "its runtime class {} is a sandbox: its connections do not pass the node's kernel and cannot be captured; give it another class, or the label mesh-agent.io/enrolled=false",
                class.as_str()
            ),
            Self::UnknownRuntime(class) => write!(
                f,
                "its runtime class {} is not known, and so whether its connections pass the node's kernel: no RuntimeClass that can be understood says so (it is not there, has a mistake, or is given twice and differently; of an API server also: agents may not list runtimeclasses of node.k8s.io, ClusterRole mesh-agent); mend that, or give the pod the label mesh-agent.io/enrolled=false",
                class.as_str()
            ),
            Self::AnotherMesh(sign) => write!(f, "it is a pod of another mesh ({})", sign.as_str()),
            Self::Claimed(annotation) => write!(
                f,
                "it is a pod of this mesh and another one claims it (annotation {}): take it out of one of them; out of this one with the label mesh-agent.io/enrolled=false",
                annotation.as_str()
            ),
        }
    }
}

impl Workload {
    /// An enrolled pod without an address, for tests to say more of.
    #[cfg(test)]
    pub(crate) fn for_test(namespace: &str, name: &str) -> Self {
        Self {
            key: WorkloadKey {
                namespace: namespace.into(),
                name: name.into(),
            },
            uid: name.into(),
            ips: PodIps::default(),
            node: "n1".into(),
            service_account: name.into(),
            app: name.into(),
            labels: Labels::default(),
            enrolment: Enrolment::Yes(OnAgentDown::Closed),
            ports: Arc::default(),
            on_node: Arc::default(),
        }
    }

    #[must_use]
    pub(crate) fn is_enrolled(&self) -> bool {
        matches!(self.enrolment, Enrolment::Yes(_))
    }

    /// As the node's runtime and kubelet know it.
    #[must_use]
    pub(crate) fn runtime_uid(&self) -> &Name {
        self.on_node.runtime_uid.as_ref().unwrap_or(&self.uid)
    }

    /// Who it is, and whom a connection to it must find there. A name that makes
    /// no identity is nobody's to prove.
    pub(crate) fn spiffe_id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeError> {
        SpiffeId::new(trust_domain, &self.key.namespace, &self.service_account)
    }
}
