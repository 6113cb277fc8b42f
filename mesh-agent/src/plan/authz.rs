//! Whether a connection may be: what a policy is asked, and what it says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::in_force::InForce;
use crate::model::policy::PeerMode;
use crate::model::{KeptHead, RefuseReason, RequestHead, RuleRef, SpiffeId, Workload, WorkloadKey};
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
    carries: Carries,
}

/// What may go by the leave that is asked for again.
#[derive(Clone, Debug)]
enum Carries {
    /// Whatever comes.
    Bytes,
    /// What begins with a hello that asks for this name, or for none where it is empty.
    Named(Box<str>),
    Request(Arc<KeptHead>),
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

    /// What the access log has of a policy's refusal, in Istio's words.
    pub(crate) fn details(&self) -> Option<String> {
        match self {
            Self::Plaintext | Self::Gone => None,
            Self::Policy(deny) => Some(deny.details()),
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
            carries: Carries::Bytes,
        }
    }

    /// From elsewhere, without TLS: whoever it is from, nothing proves it.
    pub(crate) fn plaintext(source_ip: IpAddr, destination: Arc<Workload>, to: SocketAddr) -> Self {
        Self {
            plaintext: true,
            ..Self::new(None, source_ip, destination, to)
        }
    }

    /// The name in the hello that it begins with; empty: it asks for none, or is none.
    pub(crate) fn named(mut self, server_name: Box<str>) -> Self {
        self.carries = Carries::Named(server_name);
        self
    }

    /// To be asked again of an open request.
    pub(crate) fn for_request(mut self, head: &RequestHead<'_>) -> Self {
        self.carries = Carries::Request(KeptHead::of(head).into());
        self
    }

    /// Does what it allowed stand, as the destination is configured now?
    pub(crate) fn is_allowed_still(&self, now: &InForce) -> bool {
        let permits = |verdict| matches!(verdict, Verdict::Permit(_));
        match &self.carries {
            Carries::Bytes | Carries::Named(_) => permits(self.of_now(now, None)),
            Carries::Request(kept) => kept.with(|head| permits(self.of_now(now, Some(head)))),
        }
    }

    /// What the destination says that was found when the connection came, by one
    /// configuration. Where another one is in force by now, that one is asked too:
    /// whoever looked at live connections then did not see this one.
    pub(crate) fn verdict(&self, pinned: &InForce, now: &InForce) -> Verdict {
        self.both(pinned, now, None)
    }

    /// The same of a request on the connection.
    pub(crate) fn verdict_on(
        &self,
        head: &RequestHead<'_>,
        pinned: &InForce,
        now: &InForce,
    ) -> Verdict {
        self.both(pinned, now, Some(head))
    }

    /// The name in a hello decides too, by either configuration.
    pub(crate) fn needs_name(&self, pinned: &InForce, now: &InForce) -> bool {
        self.needs(pinned).sni || self.needs(now).sni
    }

    /// What of a request's head the verdict on one depends on.
    pub(crate) fn needs(&self, pinned: &InForce) -> Needs {
        pinned.policy.needs(&self.request(&self.destination, None))
    }

    /// The destination by this configuration: its annotations may have changed since the
    /// connection came.
    pub(crate) fn destination_in<'c>(&self, in_force: &'c InForce) -> Option<&'c Arc<Workload>> {
        in_force.snapshot.workloads.get(&self.destination.key)
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

    /// To where, and who asks.
    pub(crate) fn asked(&self) -> ((&Workload, u16), Option<&SpiffeId>) {
        let to = (&*self.destination, self.destination_port);
        (to, self.source.as_ref())
    }

    pub(crate) fn destination(&self) -> &WorkloadKey {
        &self.destination.key
    }

    /// As it is configured now.
    fn of_now(&self, now: &InForce, head: Option<&RequestHead<'_>>) -> Verdict {
        match self.destination_in(now) {
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
        let sni = match &self.carries {
            Carries::Named(name) => Some(&**name),
            Carries::Bytes | Carries::Request(_) => None,
        };
        Request {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
            sni,
            http: head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Snapshot;
    use crate::model::policy::{
        Action, AuthorizationPolicy, Condition, Match, Operation, PathPattern, Pattern, Rule, Scope,
    };

    fn web() -> Arc<Workload> {
        Arc::new(Workload::for_test("shop", "web"))
    }

    fn policy(action: Action, rules: Vec<Rule>) -> AuthorizationPolicy {
        AuthorizationPolicy {
            namespace: "shop".to_owned(),
            name: "p".to_owned(),
            action,
            dry_run: false,
            scope: Scope::Namespace,
            rules,
            broken: None,
        }
    }

    fn published(workloads: &[Arc<Workload>], deny: bool) -> InForce {
        let nobody = deny.then(|| policy(Action::Allow, Vec::new()));
        in_force(workloads, nobody.into_iter().collect())
    }

    fn in_force(workloads: &[Arc<Workload>], policies: Vec<AuthorizationPolicy>) -> InForce {
        let mut snapshot = Snapshot {
            policies: policies.into(),
            ..Snapshot::default()
        };
        for workload in workloads {
            snapshot.workloads.insert(workload.clone());
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

    fn get(path: &'static str) -> RequestHead<'static> {
        RequestHead::for_test("GET", path, &[])
    }

    fn about(action: Action, path: &str) -> InForce {
        let path = PathPattern::parse(path).expect("a path");
        let to = Operation {
            paths: Match {
                values: vec![path],
                not_values: vec![],
            },
            ..Operation::default()
        };
        let rule = Rule {
            to: vec![to],
            ..Rule::default()
        };
        in_force(&[web()], vec![policy(action, vec![rule])])
    }

    #[test]
    fn what_is_open_is_asked_about_again_by_what_it_is() {
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        let asked = || AuthzInput::new(None, [10, 0, 0, 2].into(), web(), to);
        let admin = asked().for_request(&get("/admin/x"));
        let public = asked().for_request(&get("/public"));
        let bytes = asked();
        let open = published(&[web()], false);
        let denying = about(Action::Deny, "/admin*");
        let allowing = about(Action::Allow, "/public");
        let closed = published(&[web()], true);
        let gone = published(&[], false);
        for (now, expected) in [
            // admin, public, no request
            (open, [true; 3]),
            (denying, [false, true, false]),
            (allowing, [false, true, false]),
            (closed, [false; 3]),
            (gone, [false; 3]),
        ] {
            let all = [&admin, &public, &bytes];
            let got = all.map(|check| check.is_allowed_still(&now));
            assert_eq!(got, expected, "{:?}", now.snapshot.policies);
        }
    }

    #[test]
    fn what_came_by_a_name_is_asked_about_again_by_that() {
        let by_name = |action, name: &str| {
            let names = Match {
                values: vec![Pattern::Exact(name.to_owned())],
                not_values: vec![],
            };
            let rule = Rule {
                when: vec![Condition::Sni(names)],
                ..Rule::default()
            };
            in_force(&[web()], vec![policy(action, vec![rule])])
        };
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        let asked = AuthzInput::new(None, [10, 0, 0, 2].into(), web(), to);
        let open = published(&[web()], false);
        let denying = by_name(Action::Deny, "a.example");
        let allowing = by_name(Action::Allow, "a.example");
        for (now, expected) in [
            // a.example, b.example, no name, not looked at
            (&open, [true; 4]),
            (&denying, [false, true, true, false]),
            (&allowing, [true, false, false, false]),
            (&published(&[web()], true), [false; 4]),
        ] {
            let named = ["a.example", "b.example", ""].map(|n| asked.clone().named(n.into()));
            let got = named.iter().chain([&asked]);
            let got: Vec<bool> = got.map(|check| check.is_allowed_still(now)).collect();
            assert_eq!(got, expected, "{:?}", now.snapshot.policies);
        }
        assert!(asked.needs_name(&denying, &open) && asked.needs_name(&open, &allowing));
        assert!(!asked.needs_name(&open, &open));
    }

    #[test]
    fn a_request_is_judged_by_the_newest_configuration_too() {
        let to = SocketAddr::from(([10, 0, 0, 1], 80));
        let asked = AuthzInput::new(None, [10, 0, 0, 2].into(), web(), to);
        let (open, denying) = (published(&[web()], false), about(Action::Deny, "/admin*"));
        let said = |head: Option<&RequestHead<'_>>, pinned, now| {
            let verdict = match head {
                Some(head) => asked.verdict_on(head, pinned, now),
                None => asked.verdict(pinned, now),
            };
            match verdict {
                Verdict::Permit(_) => "permit",
                Verdict::Deny(_) => "deny",
                Verdict::NeedsRequest => "later",
            }
        };
        let (admin, public) = (get("/admin"), get("/public"));
        for (pinned, now, expected) in [
            (&open, &open, ["permit", "permit", "permit"]),
            (&open, &denying, ["later", "deny", "permit"]),
            (&denying, &open, ["later", "deny", "permit"]),
            (&denying, &published(&[], false), ["deny", "deny", "deny"]),
        ] {
            let heads = [None, Some(&admin), Some(&public)];
            let got = heads.map(|head| said(head, pinned, now));
            assert_eq!(got, expected);
        }
        assert!(asked.needs(&denying).path && asked.needs(&open).is_empty());
    }
}
