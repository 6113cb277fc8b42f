//! `mesh-agent explain`: what would become of a connection or a request, and why.
//!
//! It goes the way of the data path ([`crate::plan`]) without a socket; nothing is
//! decided here a second time, and nothing of the data path is asked. Answers
//! are bounded.

mod explaining;
mod question;
mod request;
mod routed;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::detect;
use crate::model::{SpiffeId, TrustDomain};
use crate::observe::explanation::{EndpointPath, Explanation, Verdict};
use crate::plan::{DecisionContext, InForce};
use explaining::Explaining;
use question::Question;
pub(crate) use question::Unanswerable;
pub(crate) use request::RequestWords;

/// Of whoever asks without an agent: no pod is there.
const NO_NODE: &str = "no agent";
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
    /// What the hello of its own TLS asks for, of a connection that begins with one.
    pub(crate) sni: Option<&'q str>,
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
    let request = words
        .request
        .map(|words| words.written(&host))
        .transpose()?;
    if request.is_some() && words.sni.is_some() {
        return Err(Unanswerable::NameOfRequest);
    }
    let named = |text: &str| {
        let name = detect::server_name(text);
        name.ok_or_else(|| Unanswerable::ServerName(text.to_owned()))
    };
    let server_name = words.sni.map(named).transpose()?;
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
        server_name,
        routes_requests: false,
        notes,
    };
    let route = explaining.routed(&goal);
    let ways = match &route {
        Some(routed) => explaining.ways_of(&goal, routed)?,
        None => explaining.ways(&goal)?,
    };
    let (ways, ways_total) = ways;
    Ok(Explanation {
        verdict: verdict(&ways),
        node: own.node.to_owned(),
        generation: snapshot.generation,
        from,
        to: goal.side(own.trust_domain),
        port,
        route: route.map(|routed| routed.shown),
        ways,
        ways_total,
        notes: explaining.notes,
    })
}

fn verdict(ways: &[EndpointPath]) -> Verdict {
    let refused = ways.iter().filter(|w| w.refused.is_some()).count();
    let open = ways.iter().any(|w| w.needs_request);
    match refused {
        all if all == ways.len() => Verdict::Refused,
        0 if open => Verdict::NeedsRequest,
        0 => Verdict::Allowed,
        _ => Verdict::Mixed,
    }
}
