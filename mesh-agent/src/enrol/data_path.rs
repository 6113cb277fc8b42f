//! What enrolment asks of the data path.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::carried::Active;
use super::local_pod::LocalPod;
use crate::plan::Changes;
use crate::tls::Trust;

/// What live connections are to be looked at again for.
#[derive(Clone, Debug)]
pub(crate) enum Recheck {
    /// The configuration changed, in what these are about.
    Policy(Arc<Changes>),
    /// Roots or revocations changed.
    Trust(Arc<Trust>),
}

/// Why a pod could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot open listeners in the pod's network namespace: {0}")]
    Listen(#[source] std::io::Error),
    #[error("a worker thread has ended")]
    WorkerGone,
}

/// The workers, as far as enrolment knows them.
pub(crate) trait DataPath {
    /// It will be served in a moment: who connects to it is to know it by then.
    fn expect(&self, pod: &LocalPod);

    /// Serves the pod, or has one that is served be what it is now: its
    /// listeners stay, and connections that were begun as somebody else are cut
    /// when this returns. Gives one member of each listener group that is new,
    /// for the kernel to steer to. Listeners of addresses that it has no more
    /// refuse, and are there until [`Self::close_former`].
    async fn put_pod(&self, pod: &LocalPod) -> Result<Vec<(IpAddr, OwnedFd)>, ServeError>;

    /// Closes the listeners of addresses that the pod has no more, when the kernel
    /// has those of its new ones.
    async fn close_former(&self, netns_cookie: u64) -> Result<(), ServeError>;

    /// Closes the pod's listeners and resets its connections; returns when all are closed.
    async fn remove_pod(&self, netns_cookie: u64) -> Result<(), ServeError>;

    /// Has every live connection looked at again; what is not allowed any
    /// more is cut.
    async fn recheck(&self, what: &Recheck) -> Result<(), ServeError>;

    /// Source ports of deliveries.
    fn delivery_ports(&self) -> &RangeInclusive<u16>;

    /// What is carried now.
    fn active(&self) -> Active;

    /// Stops accepting, lets connections end until `deadline`, cuts the rest, ends the threads.
    /// `stays`: the capture does, and with it what the kernel still carries to clients.
    async fn drain(self, deadline: Duration, stays: bool);
}
