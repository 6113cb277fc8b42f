//! `mesh-agent explain`: what would become of a connection or a request, and why.
//!
//! It goes the way of the data path ([`crate::plan`]) without a socket; nothing is
//! decided here a second time, and nothing of the data path is asked. Answers
//! are bounded.

mod question;
mod request;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::model::policy::{Action, PeerMode};
use crate::model::{
    KeptHead, Name, OrigDst, PodIps, RefuseReason, RequestHead, RuleRef, Security, SpiffeId,
    TrustDomain, Workload,
};
use crate::observe::explanation::{DryRun, Explanation, Policy, Rule, Verdict, Way};
use crate::observe::{refuse_reason, security};
use crate::plan::{
    AuthzInput, DecisionContext, InForce, Source, Target, Transport, Verdict as Asked,
};
use crate::policy::{Considered, DryRun as Rehearsed};
pub(crate) use question::Unanswerable;
use question::{Caller, Goal, Question};
pub(crate) use request::RequestWords;

/// Most endpoints of a service that are shown.
const MAX_WAYS: usize = 16;
/// Most policies that are shown for each.
const MAX_POLICIES: usize = 64;

/// Of whoever asks without an agent: no pod is there.
const NO_NODE: &str = "no agent";
const OWN: &str = "a pod's connections to its own address stay in the pod: no agent sees them";
const OUTSIDE: &str = "the destination is not in the mesh: it is reached in plaintext, and no policy of the mesh is asked";

/// A question, in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'q> {
    /// A pod, a SPIFFE id or an address.
    pub(crate) from: &'q str,
    /// A pod, a Service or an address.
    pub(crate) to: &'q str,
    pub(crate) port: u16,
    /// Without it the question is about a connection.
    pub(crate) request: Option<RequestWords<'q>>,
}

/// Answers for one agent.
pub(crate) struct Explainer {
    /// The agent's own node.
    pub(crate) node: String,
    /// Its zone, where it was told one.
    pub(crate) node_zone: Option<String>,
    pub(crate) trust_domain: TrustDomain,
    /// Mutual TLS also between pods of this node.
    pub(crate) same_node_tls: bool,
    pub(crate) published: Arc<ArcSwap<InForce>>,
}

impl Explainer {
    /// `certified` tells which identities this agent has a valid certificate for.
    pub(crate) fn explain(
        &self,
        words: Words<'_>,
        certified: &dyn Fn(&SpiffeId) -> bool,
    ) -> Result<Explanation, Unanswerable> {
        let published = self.published.load_full();
        let own = DecisionContext {
            published: &published,
            node: &self.node,
            node_zone: self.node_zone.as_deref(),
            trust_domain: &self.trust_domain,
            same_node_tls: self.same_node_tls,
        };
        explain(&own, certified, words)
    }
}

/// By a configuration alone, with no agent: certificates and flags are not asked.
pub(crate) fn offline(
    published: &InForce,
    trust_domain: &TrustDomain,
    words: Words<'_>,
) -> Result<Explanation, Unanswerable> {
    let nobody = DecisionContext {
        published,
        node: NO_NODE,
        node_zone: None,
        trust_domain,
        same_node_tls: false,
    };
    explain(&nobody, &|_| true, words)
}

/// What is explained to whom.
struct Explaining<'e> {
    /// As on the caller's node.
    decision_context: DecisionContext<'e>,
    /// The node of this agent.
    here: &'e str,
    certified: &'e dyn Fn(&SpiffeId) -> bool,
    caller: Caller,
    request: Option<KeptHead>,
    notes: Vec<String>,
}

fn explain(
    own: &DecisionContext<'_>,
    certified: &dyn Fn(&SpiffeId) -> bool,
    words: Words<'_>,
) -> Result<Explanation, Unanswerable> {
    let snapshot = &own.published.snapshot;
    let Words { from, to, port, .. } = words;
    let question = Question::parse((snapshot, own.trust_domain), from, to, port)?;
    let Question {
        caller,
        goal,
        mut notes,
    } = question;
    let host = goal.host(port);
    let request = words.request.map(|words| words.head(&host)).transpose()?;
    // An identity without a pod is on none.
    let node = caller.workload.as_ref().map_or("", |w| &w.node);
    let decision_context = DecisionContext {
        node,
        // Another node's agent may be told another.
        node_zone: own.node_zone.filter(|_| node == own.node),
        ..*own
    };
    let from = caller.side(decision_context.trust_domain);
    if caller.workload.is_some() && from.in_mesh && node != own.node {
        notes.push(format!(
            "{} is on another node: its agent decides by the configuration and flags that it has",
            from.name.as_deref().unwrap_or_default()
        ));
    }
    let mut explaining = Explaining {
        decision_context,
        here: own.node,
        certified,
        caller: caller.clone(),
        request,
        notes,
    };
    let (ways, ways_total) = explaining.ways(&goal)?;
    Ok(Explanation {
        verdict: verdict(&ways),
        node: own.node.to_owned(),
        generation: snapshot.generation,
        from,
        to: goal.side(own.trust_domain),
        port,
        ways,
        ways_total,
        notes: explaining.notes,
    })
}

fn verdict(ways: &[Way]) -> Verdict {
    let refused = ways.iter().filter(|w| w.refused.is_some()).count();
    let open = ways.iter().any(|w| w.needs_request);
    match refused {
        all if all == ways.len() => Verdict::Refused,
        0 if open => Verdict::NeedsRequest,
        0 => Verdict::Allowed,
        _ => Verdict::Mixed,
    }
}

impl Explaining<'_> {
    /// One for each endpoint that the data path would take in turn; at least one for
    /// each address, which says why there is none.
    fn ways(&mut self, goal: &Goal) -> Result<(Vec<Way>, usize), Unanswerable> {
        let mut ways = Vec::new();
        let mut total = 0;
        for address in goal.addresses() {
            let left = MAX_WAYS.saturating_sub(ways.len());
            let (targets, count) = match self.targets(*address, left) {
                Ok((targets, count)) => (targets.into_iter().map(Ok).collect(), count),
                Err(reason) => (vec![Err(reason)], 1),
            };
            total += count;
            for target in targets.into_iter().take(left) {
                ways.push(match target {
                    Ok(target) => self.way(&target)?,
                    Err(reason) => refused(reason),
                });
            }
        }
        Ok((ways, total))
    }

    /// Some of them, and how many there are.
    fn targets(
        &mut self,
        address: OrigDst,
        most: usize,
    ) -> Result<(Vec<Target>, usize), RefuseReason> {
        let caller = self.caller.clone();
        let nobody = Name::default();
        let source = Source {
            own: match &caller.workload {
                Some(workload) => workload.ips,
                None => PodIps::from(caller.address),
            },
            address: caller.address,
            pod: caller.workload.as_ref().map_or(&nobody, |w| &w.uid),
        };
        let backends = self.decision_context.backends(&source, address)?;
        let (rules, listed) = (backends.chosen_by(), backends.list(most));
        for rule in rules {
            self.note(&rule);
        }
        listed
    }

    fn way(&mut self, target: &Target) -> Result<Way, Unanswerable> {
        let to = target.upstream.get();
        let mut way = Way {
            destination: Some(to.to_string()),
            ..Way::default()
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
                self.judge(&mut way, transport.as_ref(), destination.clone(), to)?;
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

    fn describe(&self, way: &mut Way, destination: &Workload, port: u16) {
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
        way: &mut Way,
        transport: Option<&Transport>,
        destination: Arc<Workload>,
        to: SocketAddr,
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
        let published = self.decision_context.published;
        let (considered, verdict) = match &self.request {
            None => asked(published, &input, &destination, None),
            Some(kept) => kept.with(|head| asked(published, &input, &destination, Some(head))),
        };
        if let Some(asks) = considered.iter().find(|c| c.asks_address)
            && self.caller.has_no_address()
        {
            return Err(Unanswerable::NeedsAddress(asks.policy.to_string()));
        }
        tell(way, &considered, &verdict);
        if let Some(Transport::Mesh(peer)) = transport {
            self.certificates(way, identity.as_ref(), (peer.expected(), &destination));
        }
        Ok(())
    }

    /// Both need one; what is not of this node is known to another agent.
    fn certificates(
        &mut self,
        way: &mut Way,
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
    fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|n| n == note) {
            self.notes.push(note.to_owned());
        }
    }
}

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

fn refused(reason: RefuseReason) -> Way {
    Way {
        refused: Some(refuse_reason(reason).to_owned()),
        ..Way::default()
    }
}

fn tell(way: &mut Way, considered: &[Considered], verdict: &Asked) {
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
