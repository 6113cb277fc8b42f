//! What is found out for one question: where it may go, and what each end says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::question::{Caller, Goal, Unanswerable};
use super::request::Written;
use crate::model::injection::Injection;
use crate::model::policy::{Action, PeerMode};
use crate::model::route::BackendRef;
use crate::model::{
    Name, OrigDst, PodIps, RefuseReason, RequestHead, RuleRef, Security, SpiffeId, Workload,
};
use crate::observe::explanation::{DryRun, EndpointPath, Policy, Rule};
use crate::observe::{refuse_reason, security};
use crate::plan::{
    AuthzInput, DecisionContext, InForce, SourcePod, Target, Transport, Verdict as Asked,
};
use crate::policy::{Considered, DryRun as Rehearsed};
use crate::traffic;

/// Most endpoints of a service that are shown.
pub(super) const MAX_WAYS: usize = 16;
/// Most policies that are shown for each.
const MAX_POLICIES: usize = 64;

const OWN: &str = "a pod's connections to its own address stay in the pod: no agent sees them";
const OUTSIDE: &str = "the destination is not in the mesh: it is reached in plaintext, and no policy of the mesh is asked";

/// Bounded; with how many there are.
#[derive(Default)]
pub(super) struct Ways {
    pub(super) ways: Vec<EndpointPath>,
    pub(super) total: usize,
}

impl Ways {
    pub(super) fn left(&self) -> usize {
        MAX_WAYS.saturating_sub(self.ways.len())
    }
}

/// What is explained to whom.
pub(super) struct Explaining<'e> {
    /// As on the caller's node.
    pub(super) decision_context: DecisionContext<'e>,
    /// The node of this agent.
    pub(super) here: &'e str,
    pub(super) certified: &'e dyn Fn(&SpiffeId) -> bool,
    pub(super) caller: Caller,
    pub(super) request: Option<Written>,
    /// What the hello of the application's own TLS asks for, in small letters.
    pub(super) server_name: Option<Box<str>>,
    /// A route of HTTP is for what the caller sends there.
    pub(super) routes_requests: bool,
    pub(super) notes: Vec<String>,
}

impl Explaining<'_> {
    /// One for each endpoint that the data path would take in turn; at least one for
    /// each address, which says why there is none.
    pub(super) fn ways(&mut self, goal: &Goal) -> Result<(Vec<EndpointPath>, usize), Unanswerable> {
        let mut ways = Ways::default();
        for address in goal.addresses() {
            let targets = self.targets((*address, None), ways.left());
            self.add(&mut ways, targets, None)?;
        }
        Ok((ways.ways, ways.total))
    }

    /// Those of one place, or the one that says why there is none. `going_on`: what
    /// of the request is judged, where a route changes it.
    pub(super) fn add(
        &mut self,
        ways: &mut Ways,
        targets: Result<(Vec<Target>, usize), RefuseReason>,
        going_on: Option<&Written>,
    ) -> Result<(), Unanswerable> {
        let left = ways.left();
        let (targets, count) = match targets {
            Ok((targets, count)) => (targets.into_iter().map(Ok).collect(), count),
            Err(reason) => (vec![Err(reason)], 1),
        };
        ways.total += count;
        for target in targets.into_iter().take(left) {
            ways.ways.push(match target {
                Ok(target) => self.endpoint_path(&target, going_on)?,
                Err(reason) => refused(reason),
            });
        }
        Ok(())
    }

    /// Some of them, and how many there are. `to`: where a route leads.
    pub(super) fn targets(
        &mut self,
        (address, to): (OrigDst, Option<&BackendRef>),
        most: usize,
    ) -> Result<(Vec<Target>, usize), RefuseReason> {
        let caller = self.caller.clone();
        let nobody = Name::default();
        let source = SourcePod {
            own: match &caller.workload {
                Some(workload) => workload.ips,
                None => PodIps::from(caller.address),
            },
            address: caller.address,
            egress: PodIps::default(),
            pod: caller.workload.as_ref().map_or(&nobody, |w| &w.uid),
        };
        let backends = match to {
            Some(to) => self.decision_context.backends_of(&source, (address, to))?,
            None => self.decision_context.backends(&source, address)?,
        };
        let faults = backends.traffic().map(|traffic| traffic.faults.clone());
        let (rules, listed) = (backends.chosen_by(), backends.list(most));
        self.note_faults(&faults.unwrap_or_default());
        for rule in rules {
            self.note(&rule);
        }
        listed
    }

    /// What is injected into requests of the caller, or was.
    fn note_faults(&mut self, faults: &[Injection]) {
        let settings = &self.decision_context.published.snapshot.settings;
        let Some(caller) = self.caller.identity(self.decision_context.trust_domain) else {
            return;
        };
        let now = SystemTime::now();
        let notes: Vec<_> = faults
            .iter()
            .filter(|fault| {
                self.caller.in_mesh() && fault.from.have(&caller, |name| settings.is_own(name))
            })
            .map(|fault| traffic::fault(fault, now))
            .collect();
        for note in notes {
            self.note(&note);
        }
    }

    fn endpoint_path(
        &mut self,
        target: &Target,
        going_on: Option<&Written>,
    ) -> Result<EndpointPath, Unanswerable> {
        let to = target.upstream.get();
        let mut way = EndpointPath {
            destination: Some(to.to_string()),
            ..EndpointPath::default()
        };
        if let Some(destination) = &target.destination {
            self.describe(&mut way, destination, to.port());
        }
        if self.is_own(target) {
            self.note(OWN);
            return Ok(way);
        }
        let enrolled = target.destination.as_ref().filter(|w| w.is_enrolled());
        match (self.transport(target), enrolled) {
            (Err(reason), _) => way.refused = Some(refuse_reason(reason).to_owned()),
            (Ok(transport), Some(destination)) => {
                let to = (destination.clone(), to);
                self.judge(&mut way, transport.as_ref(), to, going_on)?;
            }
            (Ok(_), None) => {
                self.note(OUTSIDE);
                way.transport = Some(security(Security::None).to_owned());
            }
        }
        Ok(way)
    }

    /// Not by a Service: its pods may be reached that way by themselves, too.
    fn is_own(&self, target: &Target) -> bool {
        let key = |w: &Arc<Workload>| w.key.clone();
        let own = self.caller.workload.as_ref().map(key);
        own.is_some() && own == target.destination.as_ref().map(key) && target.service.is_none()
    }

    fn describe(&self, way: &mut EndpointPath, destination: &Workload, port: u16) {
        way.workload = Some(destination.key.to_string());
        way.node = Some(destination.node.to_string());
        if !destination.is_enrolled() {
            return;
        }
        let identity = destination
            .spiffe_id(self.decision_context.trust_domain)
            .ok();
        way.identity = identity.map(|id| id.to_string());
        let policy = &self.decision_context.published.policy;
        let decided = policy.peer_mode_by(destination, port);
        way.mode = Some(mode(decided.mode).to_owned());
        way.mode_by = decided.by.map(|by| by.to_string());
    }

    /// Who is not in the mesh comes in plaintext.
    fn transport(&self, target: &Target) -> Result<Option<Transport>, RefuseReason> {
        match self.caller.in_mesh() {
            true => self
                .decision_context
                .transport(target, Instant::now())
                .map(Some),
            false => Ok(None),
        }
    }

    /// What the destination says.
    fn judge(
        &mut self,
        way: &mut EndpointPath,
        transport: Option<&Transport>,
        (destination, to): (Arc<Workload>, SocketAddr),
        going_on: Option<&Written>,
    ) -> Result<(), Unanswerable> {
        let address = self.caller.address_for(to.ip());
        let identity = self.caller.identity(self.decision_context.trust_domain);
        let (how, input) = match transport {
            None | Some(Transport::Plain(_)) => (
                Security::None,
                AuthzInput::plaintext(address, destination.clone(), to),
            ),
            Some(Transport::SameNode(_)) => (
                Security::SameNode,
                AuthzInput::new(identity.clone(), address, destination.clone(), to),
            ),
            Some(Transport::Mesh(_)) => (
                Security::MutualTls,
                AuthzInput::new(identity.clone(), address, destination.clone(), to),
            ),
        };
        way.transport = Some(security(how).to_owned());
        let input = match &self.server_name {
            Some(name) => input.named(name.clone()),
            None => input,
        };
        let published = self.decision_context.published;
        let (considered, verdict) = match going_on.or(self.request.as_ref()) {
            None => asked(published, &input, &destination, None),
            Some(kept) => kept.with(|head| asked(published, &input, &destination, Some(head))),
        };
        if let Some(asks) = considered.iter().find(|c| c.asks_address)
            && self.caller.has_no_address()
        {
            return Err(Unanswerable::NeedsAddress(asks.policy.to_string()));
        }
        let needs = input.needs(published);
        let for_requests =
            || self.routes_requests || published.is_for_requests((&*destination, to.port()));
        let is_open = matches!(verdict, Asked::NeedsRequest);
        // It is known to be no HTTP, and nothing more of it is read.
        let is_undecided = self.server_name.is_some()
            && (is_open || matches!(verdict, Asked::Permit(_)) && for_requests());
        let note = match for_requests() {
            true => FOR_REQUESTS,
            false if needs.of_head() => BY_MORE,
            false => BY_NAME,
        };
        tell(way, &considered, &verdict);
        if is_undecided {
            way.needs_request = false;
            way.refused = Some(refuse_reason(RefuseReason::UndecidedProtocol).to_owned());
        } else if is_open && needs.sni {
            self.note(note);
        }
        if let Some(Transport::Mesh(peer)) = transport {
            self.certificates(way, identity.as_ref(), (peer.expected(), &destination));
        }
        Ok(())
    }

    /// Both need one; what is not of this node is known to another agent.
    fn certificates(
        &mut self,
        way: &mut EndpointPath,
        own: Option<&SpiffeId>,
        (peer, destination): (&SpiffeId, &Workload),
    ) {
        let callers = self.decision_context.node == self.here && !self.caller.has_no_address();
        let lacks = |local: bool, id: Option<&SpiffeId>| {
            local && !id.is_some_and(|id| (self.certified)(id))
        };
        let lacking = [(callers, own), (destination.node == self.here, Some(peer))]
            .into_iter()
            .find(|(local, id)| lacks(*local, *id));
        if let Some((_, id)) = lacking {
            let name = id.map_or("the caller", SpiffeId::as_str);
            self.note(&format!(
                "this node has no valid certificate for {name} now: see mesh-agent status"
            ));
            let reason = refuse_reason(RefuseReason::NoCertificate);
            way.refused.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Once, however many endpoints it is about.
    pub(super) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|n| n == note) {
            self.notes.push(note.to_owned());
        }
    }
}

/// Of what is no request a rule asks for the name.
const BY_NAME: &str = "a rule asks for connection.sni: what is no HTTP is decided by the name that its TLS \
                       hello asks for";
/// And others for what only a request has.
const BY_MORE: &str = "a rule asks for connection.sni, and one for what only a request has: what is no HTTP is \
                       refused (undecided_protocol) unless the name that its TLS hello asks for decides it alone";
/// Nobody looks at a name there.
const FOR_REQUESTS: &str = "a rule asks for connection.sni, but the port is for requests: what is no HTTP is refused \
                            (undecided_protocol), whatever name its TLS hello asks for";

/// The policies that were looked at, and what all say together.
fn asked(
    published: &InForce,
    input: &AuthzInput,
    destination: &Workload,
    head: Option<&RequestHead<'_>>,
) -> (Vec<Considered>, Asked) {
    let considered = published.policy.explain(&input.request(destination, head));
    let verdict = match head {
        Some(head) => input.verdict_on(head, published, published),
        None => input.verdict(published, published),
    };
    (considered, verdict)
}

pub(super) fn refused(reason: RefuseReason) -> EndpointPath {
    EndpointPath {
        refused: Some(refuse_reason(reason).to_owned()),
        ..EndpointPath::default()
    }
}

fn tell(way: &mut EndpointPath, considered: &[Considered], verdict: &Asked) {
    let (rule, rehearsed) = match verdict {
        Asked::Permit(permit) => (permit.rule(), permit.dry_run()),
        Asked::Deny(refusal) => {
            way.refused = Some(refuse_reason(refusal.reason()).to_owned());
            way.details = refusal.details();
            (refusal.rule(), refusal.dry_run())
        }
        Asked::NeedsRequest => {
            way.needs_request = true;
            (None, &[][..])
        }
    };
    way.rule = rule.map(rule_of);
    way.policies_total = considered.len();
    let shown = considered.iter().take(MAX_POLICIES);
    way.policies = shown.map(|c| policy_of(c, rehearsed)).collect();
}

fn rule_of(rule: &RuleRef) -> Rule {
    Rule {
        policy: rule.policy.to_string(),
        rule: rule.rule,
        generation: rule.generation,
    }
}

fn policy_of(considered: &Considered, rehearsed: &[Rehearsed]) -> Policy {
    let said = || {
        let said = rehearsed
            .iter()
            .find(|d| d.rule.policy == considered.policy);
        match said.map(|d| d.allowed) {
            Some(true) => DryRun::WouldAllow,
            Some(false) => DryRun::WouldDeny,
            None => DryRun::NoEffect,
        }
    };
    Policy {
        policy: considered.policy.to_string(),
        action: match considered.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
        }
        .to_owned(),
        matches: considered.matched.is_some(),
        needs_request: considered.needs_request,
        rule: considered.matched.as_ref().and_then(|m| m.rule),
        dry_run: considered.dry_run.then(said),
        problem: considered.problem.clone(),
    }
}

fn mode(mode: PeerMode) -> &'static str {
    match mode {
        PeerMode::Strict => "STRICT",
        PeerMode::Permissive => "PERMISSIVE",
        PeerMode::Disable => "DISABLE",
    }
}
