//! Whether a connection may be: what a policy is asked, and what it says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::policy::PeerMode;
use crate::model::{RefuseReason, RuleRef, SpiffeId, Workload};
use crate::policy::{Deny, DryRun, Engine, Permit, Request};

/// What a policy decided on, for deciding again.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    source: Option<SpiffeId>,
    source_ip: IpAddr,
    pub(crate) destination: Arc<Workload>,
    destination_ip: IpAddr,
    destination_port: u16,
    /// It came in plaintext from elsewhere.
    plaintext: bool,
}

/// The destination says no.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It takes no plaintext.
    Plaintext,
    Policy(Deny),
}

impl Refusal {
    pub(crate) fn reason(&self) -> RefuseReason {
        match self {
            Self::Plaintext => RefuseReason::PlaintextRefused,
            Self::Policy(_) => RefuseReason::Denied,
        }
    }

    pub(crate) fn rule(&self) -> Option<&RuleRef> {
        match self {
            Self::Plaintext => None,
            Self::Policy(deny) => Some(deny.rule()),
        }
    }

    pub(crate) fn dry_run(&self) -> &[DryRun] {
        match self {
            Self::Plaintext => &[],
            Self::Policy(deny) => deny.dry_run(),
        }
    }
}

impl Checked {
    pub(crate) fn new(
        source: Option<SpiffeId>,
        source_ip: IpAddr,
        destination: Arc<Workload>,
        to: SocketAddr,
    ) -> Self {
        Self {
            source,
            source_ip,
            destination,
            destination_ip: to.ip(),
            destination_port: to.port(),
            plaintext: false,
        }
    }

    /// From elsewhere, without TLS: whoever it is from, nothing proves it.
    pub(crate) fn plaintext(source_ip: IpAddr, destination: Arc<Workload>, to: SocketAddr) -> Self {
        Self {
            plaintext: true,
            ..Self::new(None, source_ip, destination, to)
        }
    }

    /// What the destination says, by a policy and as it is configured now.
    pub(crate) fn verdict(&self, policy: &Engine, now: &Workload) -> Result<Permit, Refusal> {
        let strict = || policy.peer_mode(now, self.destination_port) == PeerMode::Strict;
        if self.plaintext && strict() {
            return Err(Refusal::Plaintext);
        }
        policy.check(&self.request(now)).map_err(Refusal::Policy)
    }

    pub(crate) fn request<'c>(&'c self, destination: &'c Workload) -> Request<'c> {
        Request {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
            sni: None,
        }
    }
}
