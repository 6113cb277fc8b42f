//! Why a pod is not enrolled.

use super::data_path::ServeError;
use super::find::NotFound;
use crate::capture;
use crate::model::{SpiffeError, Unfit};
use crate::sys::netns::NetnsError;
use crate::sys::route::RouteError;

/// [`Error::NoAddress`], in a word.
pub(super) const NO_ADDRESS: &str = "NoAddress";

/// Cause first, then what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "no annotation says where its network namespace is; set mesh-agent.io/netns, /pid or /cgroup"
    )]
    NoNetns,
    #[error(
        "its network namespace is the node's own: a pod on the host network cannot be enrolled"
    )]
    HostNetwork,
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error("{0}")]
    Unfit(Unfit),
    #[error("it has no address")]
    NoAddress,
    #[error("namespace and service account make no identity: {0}")]
    Identity(#[from] SpiffeError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Capture(#[from] capture::Error),
}

impl Error {
    /// As long as the pod is what it is.
    pub(super) fn lasts(&self) -> bool {
        match self {
            // Its class may be told after it.
            Self::Unfit(unfit) => !matches!(unfit, Unfit::UnknownRuntime(_)),
            _ => matches!(self, Self::HostNetwork | Self::Identity(_)),
        }
    }

    /// The same word whatever the message says, for programs that wait for one.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoNetns => "NoPlace",
            Self::HostNetwork => "HostNetwork",
            Self::NotFound(NotFound::Nowhere) => "SandboxNotFound",
            Self::NotFound(NotFound::WithoutAddress { .. }) => "AddressNotFound",
            Self::NotFound(NotFound::Ambiguous { .. }) => "AmbiguousNamespace",
            Self::NotFound(NotFound::Look { .. } | NotFound::Unseen(_)) => "NodeUnreadable",
            Self::NotFound(NotFound::Elsewhere { .. }) => "CgroupElsewhere",
            Self::Unfit(Unfit::Sandboxed(_)) => "SandboxedRuntime",
            Self::Unfit(Unfit::UnknownRuntime(_)) => "UnknownRuntime",
            Self::Unfit(Unfit::AnotherMesh(_) | Unfit::Claimed(_)) => "AnotherMesh",
            Self::NoAddress => NO_ADDRESS,
            Self::Identity(_) => "InvalidIdentity",
            Self::Netns(_) => "NamespaceUnreadable",
            Self::Route(_) => "RoutesFailed",
            Self::Serve(_) => "ListenersFailed",
            Self::Capture(_) => "CaptureFailed",
        }
    }
}
