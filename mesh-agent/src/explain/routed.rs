//! The route's part: which rule, where to in which shares, and what changes.

use std::borrow::Cow;

use super::explaining::{Explaining, Ways, refused};
use super::question::{Goal, Unanswerable};
use super::request::Written;
use crate::model::http_route::Longest;
use crate::model::route::{BackendRef, RouteRule};
use crate::model::{Edits, HeaderEdit, OrigDst, RefuseReason};
use crate::observe::explanation::{EndpointPath, Routed as Shown, Share};
use crate::route::http::{Decision, Forward, Mirrored, Respond};
use crate::route::{ConnectionDecision, ConnectionRefusal, ServiceRoutes, Share as Part};

/// As shown, and where each share goes.
pub(super) struct Routed {
    pub(super) shown: Shown,
    lead: Vec<Lead>,
}

/// What one share comes to.
enum Lead {
    To(BackendRef, Edits),
    /// The agent's own answer; `None` where it is what the route is for.
    Answer(Option<RefuseReason>),
}

const BY_REQUEST: &str = "requests of HTTP are routed one by one: add METHOD URL; what is no HTTP goes to the Service's own endpoints";
const BY_REQUEST_ALONE: &str = "requests of HTTP are routed one by one: add METHOD URL; what is no HTTP is refused (undecided_protocol)";

impl Explaining<'_> {
    /// `None`: it is the destination's own endpoints.
    pub(super) fn routed(&mut self, goal: &Goal) -> Option<Routed> {
        if !self.caller.in_mesh() {
            // No agent sees what it sends out.
            return None;
        }
        let published = self.decision_context.published;
        let identity = self.caller.identity(self.decision_context.trust_domain)?;
        let namespace = identity.namespace();
        if self.server_name.is_some() {
            let mut addresses = goal.addresses().iter();
            self.routes_requests =
                addresses.any(|to| published.is_called_for_requests(*to, namespace));
        }
        let mut addresses = goal.addresses().iter();
        let routed = |address: &OrigDst| Some((*address, published.routes_at(*address)?));
        let (address, routes) = addresses.find_map(routed)?;
        match &self.request {
            Some(request) => request.with(|head| of_request(routes.every(head, namespace))),
            None => {
                if routes.kind(namespace).is_some_and(|kind| kind.is_http()) {
                    self.routes_requests = published.is_called_for_requests(address, namespace);
                    // What has a name is no request.
                    match (self.server_name.is_some(), self.routes_requests) {
                        (true, _) => {}
                        (false, true) => self.note(BY_REQUEST_ALONE),
                        (false, false) => self.note(BY_REQUEST),
                    }
                }
                of_connection(routes, namespace, self.server_name.as_deref())
            }
        }
    }

    /// The endpoints of each share's backend.
    pub(super) fn ways_of(
        &mut self,
        goal: &Goal,
        routed: &Routed,
    ) -> Result<(Vec<EndpointPath>, usize), Unanswerable> {
        let mut ways = Ways::default();
        for (lead, share) in routed.lead.iter().zip(&routed.shown.shares) {
            let (to, edits) = match lead {
                Lead::To(to, edits) => (to, edits),
                Lead::Answer(reason) => {
                    ways.total += 1;
                    if ways.left() > 0 {
                        ways.ways.push(answered(*reason, share));
                    }
                    continue;
                }
            };
            let going_on = self.going_on(edits)?;
            let before = ways.ways.len();
            for address in goal.addresses() {
                let targets = self.targets((*address, Some(to)), ways.left());
                self.add(&mut ways, targets, going_on.as_ref())?;
            }
            for way in &mut ways.ways[before..] {
                way.backend.clone_from(&share.backend);
            }
        }
        Ok((ways.ways, ways.total))
    }

    fn going_on(&self, edits: &Edits) -> Result<Option<Written>, Unanswerable> {
        let request = self.request.as_ref();
        request.map(|request| request.going_on(edits)).transpose()
    }
}

fn answered(reason: Option<RefuseReason>, share: &Share) -> EndpointPath {
    let way = reason.map(refused).unwrap_or_default();
    EndpointPath {
        details: share.why.clone(),
        ..way
    }
}

fn of_request(decisions: Vec<(Part, Decision<'_>)>) -> Option<Routed> {
    let mut all = Routed::new();
    for (part, decision) in decisions {
        match decision {
            Decision::Implicit => return None,
            Decision::Forward(forward) => all.forward(part, forward),
            Decision::Respond(respond) => all.respond(part, &respond),
        }
    }
    Some(all)
}

fn of_connection(routes: &ServiceRoutes, namespace: &str, sni: Option<&str>) -> Option<Routed> {
    let mut all = Routed::new();
    for (part, decision) in routes.every_connection(namespace, sni) {
        match decision {
            ConnectionDecision::Implicit => return None,
            ConnectionDecision::Forward { rule, backend } => {
                all.by(Some(rule));
                let to = Lead::To(backend.clone(), Edits::default());
                all.add(part, Share::default(), to);
            }
            ConnectionDecision::Refused(why) => {
                let (reason, why) = match why {
                    ConnectionRefusal::NoRouteMatched => (
                        RefuseReason::NoRoute,
                        match sni {
                            Some(_) => {
                                "no route has the name that the client asks for: it is reset"
                            }
                            None => {
                                "no route has the name that the client asks for: without one it is reset"
                            }
                        },
                    ),
                    ConnectionRefusal::InvalidBackend | ConnectionRefusal::NoBackend => (
                        RefuseReason::NoBackend,
                        "the rule has no backend that can be used",
                    ),
                };
                let share = Share {
                    status: Some(0),
                    why: Some(why.to_owned()),
                    ..Share::default()
                };
                all.add(part, share, Lead::Answer(Some(reason)));
            }
        }
    }
    Some(all)
}

impl Routed {
    fn new() -> Self {
        Self {
            shown: Shown::default(),
            lead: Vec::new(),
        }
    }

    fn by(&mut self, rule: Option<&std::sync::Arc<RouteRule>>) {
        if let Some(rule) = rule {
            self.shown.route = Some(rule.shown.route.to_string());
            self.shown.rule = Some(rule.shown.rule.to_string());
        }
    }

    fn add(&mut self, part: Part, share: Share, lead: Lead) {
        let backend = match &lead {
            Lead::To(to, _) => Some(place(to)),
            Lead::Answer(_) => None,
        };
        self.shown.shares.push(Share {
            weight: part.weight,
            of: part.of,
            backend,
            ..share
        });
        self.lead.push(lead);
    }

    fn forward(&mut self, part: Part, forward: Forward<'_>) {
        self.by(Some(forward.rule));
        let mut changes = edits(&forward.request, "request");
        changes.extend(edits(&forward.response, "answer"));
        let timeouts = [
            ("request", forward.timeouts.request.and_then(Longest::time)),
            ("attempt", forward.timeouts.backend_request),
        ];
        for (of, longest) in timeouts {
            changes.extend(longest.map(|longest| format!("timeout of the {of}: {longest:?}")));
        }
        changes.extend(forward.session.as_ref().map(|session| session.shown()));
        let share = Share {
            changes,
            copies: forward.mirrors.iter().map(copy).collect(),
            ..Share::default()
        };
        let to = Lead::To(forward.backend.clone(), Cow::into_owned(forward.request));
        self.add(part, share, to);
    }

    fn respond(&mut self, part: Part, respond: &Respond<'_>) {
        self.by(respond.rule);
        let lines = respond.headers.iter();
        let share = Share {
            status: Some(respond.status),
            why: Some(respond.reason.sentence().to_owned()),
            changes: lines
                .map(|(name, value)| format!("{name}: {value}"))
                .collect(),
            ..Share::default()
        };
        self.add(part, share, Lead::Answer(respond.reason.refusal()));
    }
}

fn place(to: &BackendRef) -> String {
    format!("{}:{}", to.service, to.port)
}

fn copy(mirrored: &Mirrored<'_>) -> String {
    let (some, of) = mirrored.share;
    match some >= of {
        true => place(mirrored.to),
        false => format!("{}, {some} of {of}", place(mirrored.to)),
    }
}

/// `of`: requests or answers.
fn edits(edits: &Edits, of: &str) -> Vec<String> {
    let target = edits.target.iter().map(|to| format!("{of}: path {to}"));
    let host = edits.host.iter().map(|to| format!("{of}: host {to}"));
    let headers = edits.headers.iter().map(|edit| match edit {
        HeaderEdit::Set { name, value } => format!("{of}: set {name}: {value}"),
        HeaderEdit::Add { name, value } => format!("{of}: add {name}: {value}"),
        HeaderEdit::Remove { name } => format!("{of}: remove {name}"),
    });
    target.chain(host).chain(headers).collect()
}
