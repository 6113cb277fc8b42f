//! Whether a connection may be: what a policy is asked, and what it says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::in_force::InForce;
use crate::model::policy::PeerMode;
use crate::model::{RefuseReason, RequestHead, RuleRef, SpiffeId, Workload, WorkloadKey};
use crate::policy::{self, Authorizer, Deny, DryRun, Needs, Request};

/// What a policy decided on, for deciding again.
#[derive(Clone, Debug)]
pub(crate) struct AuthzInput {
    source: Option<SpiffeId>,
    source_ip: IpAddr,
    destination: Arc<Workload>,
    destination_ip: IpAddr,
    destination_port: u16,
    /// It came in plaintext from elsewhere.
    plaintext: bool,
}

/// What the destination says of a connection, or of a request on one.
pub(crate) type Verdict = policy::Verdict<Refusal>;

/// The destination says no.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It takes no plaintext.
    Plaintext,
    /// It is not there any more: it has no policy to allow anything by.
    Gone,
    Policy(Deny),
}

impl Refusal {
    pub(crate) fn reason(&self) -> RefuseReason {
        match self {
            Self::Plaintext => RefuseReason::PlaintextRefused,
            Self::Gone | Self::Policy(_) => RefuseReason::Denied,
        }
    }

    pub(crate) fn rule(&self) -> Option<&RuleRef> {
        match self {
            Self::Plaintext | Self::Gone => None,
            Self::Policy(deny) => Some(deny.rule()),
        }
    }

    pub(crate) fn dry_run(&self) -> &[DryRun] {
        match self {
            Self::Plaintext | Self::Gone => &[],
            Self::Policy(deny) => deny.dry_run(),
        }
    }
}

impl AuthzInput {
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

    /// What the destination says that was found when the connection came, by one
    /// configuration. Where another one is in force by now, that one is asked too:
    /// whoever looked at live connections then did not see this one.
    pub(crate) fn verdict(&self, pinned: &InForce, now: &InForce) -> Verdict {
        self.both(pinned, now, None)
    }

    /// The same of a request on the connection.
    #[expect(dead_code, reason = "the HTTP data path comes in parts")]
    pub(crate) fn verdict_on(
        &self,
        head: &RequestHead<'_>,
        pinned: &InForce,
        now: &InForce,
    ) -> Verdict {
        self.both(pinned, now, Some(head))
    }

    /// What of a request's head the verdict on one depends on.
    #[expect(dead_code, reason = "the HTTP data path comes in parts")]
    pub(crate) fn needs(&self, pinned: &InForce) -> Needs {
        pinned.policy.needs(&self.request(&self.destination, None))
    }

    fn both(&self, pinned: &InForce, now: &InForce, head: Option<&RequestHead<'_>>) -> Verdict {
        let verdict = self.of(&pinned.policy, &self.destination, head);
        let is_same = Arc::ptr_eq(&pinned.policy, &now.policy);
        match verdict {
            Verdict::Permit(permit) if !is_same => match self.of_now(now, head) {
                Verdict::Permit(_) => Verdict::Permit(permit),
                other => other,
            },
            Verdict::NeedsRequest if !is_same => match self.of_now(now, head) {
                Verdict::Deny(refusal) => Verdict::Deny(refusal),
                Verdict::Permit(_) | Verdict::NeedsRequest => Verdict::NeedsRequest,
            },
            verdict => verdict,
        }
    }

    pub(crate) fn destination(&self) -> &WorkloadKey {
        &self.destination.key
    }

    /// What the destination says as it is configured now.
    pub(crate) fn verdict_now(&self, now: &InForce) -> Verdict {
        self.of_now(now, None)
    }

    fn of_now(&self, now: &InForce, head: Option<&RequestHead<'_>>) -> Verdict {
        match now.snapshot.workloads.get(&self.destination.key) {
            Some(destination) => self.of(&now.policy, destination, head),
            None => Verdict::Deny(Refusal::Gone),
        }
    }

    fn of(
        &self,
        authorizer: &Authorizer,
        destination: &Workload,
        head: Option<&RequestHead<'_>>,
    ) -> Verdict {
        let strict =
            || authorizer.peer_mode(destination, self.destination_port) == PeerMode::Strict;
        if self.plaintext && strict() {
            return Verdict::Deny(Refusal::Plaintext);
        }
        let said = authorizer.check(&self.request(destination, head));
        said.map_deny(Refusal::Policy)
    }

    pub(crate) fn request<'c>(
        &'c self,
        destination: &'c Workload,
        head: Option<&'c RequestHead<'c>>,
    ) -> Request<'c> {
        Request {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
            sni: None,
            http: head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Snapshot;
    use crate::model::policy::{Action, AuthorizationPolicy, Scope};

    fn web() -> Arc<Workload> {
        Arc::new(Workload::for_test("shop", "web"))
    }

    fn published(workloads: &[Arc<Workload>], deny: bool) -> InForce {
        let mut snapshot = Snapshot::default();
        for workload in workloads {
            snapshot.workloads.insert(workload.clone());
        }
        if deny {
            let nobody = AuthorizationPolicy {
                namespace: "shop".to_owned(),
                name: "nobody".to_owned(),
                action: Action::Allow,
                dry_run: false,
                scope: Scope::Namespace,
                rules: Vec::new(),
                broken: None,
            };
            snapshot.policies = vec![nobody].into();
        }
        let policy = Arc::new(Authorizer::compile(&snapshot));
        InForce {
            snapshot: Arc::new(snapshot),
            policy,
            ..InForce::default()
        }
    }

    #[test]
    fn what_is_not_allowed_any_more_is_not_allowed_by_an_older_configuration() {
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        let asked = AuthzInput::new(None, [10, 0, 0, 2].into(), web(), to);
        let is_allowed = |pinned: &InForce, now: &InForce| {
            matches!(asked.verdict(pinned, now), Verdict::Permit(_))
        };
        let (open, denying) = (published(&[web()], false), published(&[web()], true));
        assert!(is_allowed(&open, &open));
        assert!(!is_allowed(&open, &denying));
        assert!(!is_allowed(&denying, &open), "its own says no");
        assert!(!is_allowed(&open, &published(&[], false)), "it is gone");
    }
}
