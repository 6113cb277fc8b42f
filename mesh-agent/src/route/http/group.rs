//! The rules that one kind of caller gets of one port.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::compile::{
    Action, Chosen, Compiled, CompiledMatch, NamedTest, PathTest, Rule, ValueTest, Weighed,
    Weighted, compile,
};
use super::cors;
use super::decision::{Decision, Forward, Mirrored, Respond, RouteReason};
use super::filters::modified;
use super::index::Index;
use super::query;
use super::redirect::{self, location};
use super::session::{Session, Token};
use crate::model::route::{Route, RouteKind};
use crate::model::{Edits, Path, RequestHead};
use crate::route::attached::Permits;
use crate::route::share::Share;

/// Compiled; of HTTPRoutes or of GRPCRoutes.
#[derive(Debug)]
pub(in crate::route) struct HttpGroup {
    pub(in crate::route) kind: RouteKind,
    rules: Box<[Rule]>,
    /// By precedence.
    entries: Box<[CompiledMatch]>,
    index: Index,
    looks_at_paths: bool,
}

/// What the rules say of a request before its backend is chosen.
enum Found<'r> {
    Answered(Respond<'r>),
    Shared(&'r Rule, &'r CompiledMatch, &'r Weighted),
}

impl HttpGroup {
    /// Of routes of one kind, from the oldest to the youngest.
    pub(in crate::route) fn new(
        kind: RouteKind,
        routes: &[Arc<Route>],
        permits: Permits<'_>,
    ) -> Self {
        let Compiled {
            rules,
            entries,
            looks_at_paths,
        } = compile(routes, permits);
        let mut index = Index::default();
        for (number, entry) in (0_u32..).zip(&entries) {
            index.insert(&entry.place, number);
        }
        Self {
            kind,
            rules: rules.into(),
            entries: entries.into(),
            index,
            looks_at_paths,
        }
    }

    /// `port`: the one that the request came to. `now`: tells seconds since 1970, where
    /// sessions go on. `random` gives a number below its argument.
    pub(in crate::route) fn decide(
        &self,
        head: &RequestHead<'_>,
        (port, now): (u16, Option<fn() -> u64>),
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Decision<'_> {
        let (rule, entry, weighted) = match self.found(head, port) {
            Found::Answered(answer) => return Decision::Respond(answer),
            Found::Shared(rule, entry, weighted) => (rule, entry, weighted),
        };
        let session = rule.session.as_ref();
        let goes_on = session.zip(now).and_then(|(session, now)| {
            let token = session.came(head, now())?;
            Some((weighted.of(session, &token)?, token))
        });
        let chosen = match goes_on {
            Some((chosen, _)) => Some(chosen),
            None => weighted.choose(random),
        };
        let Some(chosen) = chosen else {
            return Decision::Respond(Respond::of(RouteReason::NoBackend, Some(&rule.name)));
        };
        let mut decision = self.forward(rule, entry, chosen, head, random);
        if let Decision::Forward(forward) = &mut decision
            && let Some(session) = &mut forward.session
        {
            session.token = goes_on.map(|(_, token)| token);
        }
        decision
    }

    /// Each decision that there can be of the request, with its share.
    pub(in crate::route) fn every(
        &self,
        head: &RequestHead<'_>,
        port: u16,
    ) -> Vec<(Share, Decision<'_>)> {
        let (rule, entry, weighted) = match self.found(head, port) {
            Found::Answered(answer) => return vec![(Share::ALL, Decision::Respond(answer))],
            Found::Shared(rule, _, weighted) if weighted.backends.is_empty() => {
                let answer = Respond::of(RouteReason::NoBackend, Some(&rule.name));
                return vec![(Share::ALL, Decision::Respond(answer))];
            }
            Found::Shared(rule, entry, weighted) => (rule, entry, weighted),
        };
        let shares = Share::of(weighted.backends.iter().map(|one| one.below));
        let decisions = weighted
            .backends
            .iter()
            // Every copy that there may be.
            .map(|one| self.forward(rule, entry, one, head, &mut |_| 0));
        shares.into_iter().zip(decisions).collect()
    }

    fn found(&self, head: &RequestHead<'_>, port: u16) -> Found<'_> {
        let path = match &head.path {
            Path::Normal(path) => Some(&*path.decoded),
            Path::Ambiguous(_) if self.looks_at_paths => {
                let answer = Respond::of(RouteReason::AmbiguousPath, None);
                return Found::Answered(answer);
            }
            Path::Ambiguous(_) | Path::None => None,
        };
        let found = self.index.find(path, |entry| {
            self.entries[entry as usize].matches(head, path)
        });
        let Some(entry) = found else {
            let answer = Respond::of(RouteReason::NoRouteMatched, None);
            return Found::Answered(answer);
        };
        let entry = &self.entries[entry as usize];
        let rule = &self.rules[entry.rule as usize];
        let respond = |reason| Found::Answered(Respond::of(reason, Some(&rule.name)));
        if let Some(cors) = &rule.cors
            && !matches!(rule.action, Action::Unsupported)
            && cors::is_preflight(head)
        {
            let mut answer = Respond::of(RouteReason::CorsPreflight, Some(&rule.name));
            answer.headers = cors::preflight(cors, head);
            return Found::Answered(answer);
        }
        match &rule.action {
            Action::Unsupported => respond(RouteReason::UnsupportedFilter),
            Action::Redirect(to) => {
                let mut answer = Respond::of(RouteReason::Redirect, Some(&rule.name));
                answer.status = to.status;
                let location = location(to, head, entry.elements, port);
                answer.headers.push(("location", location));
                Found::Answered(answer)
            }
            Action::Forward(weighted)
                if weighted.backends.is_empty() && weighted.resting.is_empty() =>
            {
                respond(RouteReason::NoBackend)
            }
            Action::Forward(weighted) => Found::Shared(rule, entry, weighted),
        }
    }

    fn forward<'r>(
        &'r self,
        rule: &'r Rule,
        entry: &'r CompiledMatch,
        chosen: &'r Weighed,
        head: &RequestHead<'_>,
        random: &mut dyn FnMut(u64) -> u64,
    ) -> Decision<'r> {
        let backend = match &chosen.to {
            Chosen::Backend(backend) => backend,
            Chosen::Invalid => {
                let answer = Respond::of(RouteReason::InvalidBackend, Some(&rule.name));
                return Decision::Respond(answer);
            }
            Chosen::Unsupported => {
                let answer = Respond::of(RouteReason::UnsupportedFilter, Some(&rule.name));
                return Decision::Respond(answer);
            }
        };
        let mut response = Cow::Borrowed(&chosen.edits.response);
        if let Some(cors) = &rule.cors
            && let Some(origin) = cors::allowed(cors, head)
        {
            cors::answer(cors, origin, response.to_mut());
        }
        let mut mirrors = SmallVec::new();
        for mirror in &chosen.mirrors {
            let (some, of) = mirror.share;
            if some >= of || random(u64::from(of)) < u64::from(some) {
                mirrors.push(Mirrored {
                    to: &mirror.to,
                    share: mirror.share,
                });
            }
        }
        Decision::Forward(Forward {
            rule: &rule.name,
            backend,
            request: self.request(entry, chosen, head),
            response,
            mirrors,
            timeouts: rule.timeouts,
            retry: rule.retry.as_ref(),
            session: rule
                .session
                .as_ref()
                .map(|says| Box::new(says.sticky(backend))),
        })
    }

    /// Where rules go by the path, the server gets the form that they saw.
    fn request<'r>(
        &self,
        entry: &CompiledMatch,
        chosen: &'r Weighed,
        head: &RequestHead<'_>,
    ) -> Cow<'r, Edits> {
        let mut edits = Cow::Borrowed(&chosen.edits.request);
        if let Some(modifier) = &chosen.path {
            let path = redirect::path(head);
            let mut target = modified(&path, entry.elements, modifier);
            if let Some(query) = head.query {
                target.push('?');
                target.push_str(&redirect::text(query));
            }
            edits.to_mut().target = Some(target);
        } else if self.looks_at_paths
            && let Some(target) = head.normal_target()
        {
            edits.to_mut().target = Some(target);
        }
        edits
    }
}

impl Weighted {
    /// The backend of a session, also one that new sessions do not get.
    fn of(&self, session: &Session, token: &Token) -> Option<&Weighed> {
        let mut all = self.backends.iter().chain(&self.resting);
        all.find(|one| match &one.to {
            Chosen::Backend(to) => session.is_of(token, to),
            Chosen::Invalid | Chosen::Unsupported => false,
        })
    }

    fn choose(&self, random: &mut dyn FnMut(u64) -> u64) -> Option<&Weighed> {
        let number = match &*self.backends {
            [] => return None,
            [one] => return Some(one),
            _ => random(self.total),
        };
        self.backends.iter().find(|one| number < one.below)
    }
}

impl CompiledMatch {
    fn matches(&self, head: &RequestHead<'_>, path: Option<&[u8]>) -> bool {
        let method = self.method.as_deref();
        method.is_none_or(|method| method == head.method)
            && self.headers.iter().all(|test| test.is_of_header(head))
            && self.query.iter().all(|test| test.is_of_query(head))
            && self.path.matches(path)
    }
}

impl PathTest {
    fn matches(&self, path: Option<&[u8]>) -> bool {
        match (self, path) {
            (Self::Any, _) => true,
            (Self::Never, _) | (_, None) => false,
            (Self::Regex(pattern), Some(path)) => pattern.is_match(path),
            (Self::Grpc { service, method }, Some(path)) => {
                let Some((of_service, of_method)) = call(path) else {
                    return false;
                };
                let holds = |test: &Option<ValueTest>, text: &[u8]| {
                    test.as_ref().is_none_or(|test| test.matches(text))
                };
                holds(service, of_service) && holds(method, of_method)
            }
        }
    }
}

/// Service and method of `/service/method`.
fn call(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = path.strip_prefix(b"/")?;
    let slash = path.iter().position(|byte| *byte == b'/')?;
    let (service, method) = (&path[..slash], &path[slash + 1..]);
    (!service.is_empty() && !method.is_empty() && !method.contains(&b'/'))
        .then_some((service, method))
}

impl NamedTest {
    /// Lines of one name are one value.
    fn is_of_header(&self, head: &RequestHead<'_>) -> bool {
        if self.name.eq_ignore_ascii_case("host") {
            return self.is_of_host(head);
        }
        let value = head.joined(&self.name);
        value.is_some_and(|value| self.value.matches(&value))
    }

    /// Whether it came as a header or, in HTTP/2, as a pseudo-header. It has no case.
    fn is_of_host(&self, head: &RequestHead<'_>) -> bool {
        let Some(host) = &head.host else {
            return false;
        };
        let text = match host.port {
            None => Cow::Borrowed(&*host.name),
            Some(port) => Cow::Owned(format!("{}:{port}", host.name)),
        };
        match &self.value {
            ValueTest::Exact(exact) => exact.eq_ignore_ascii_case(text.as_bytes()),
            other => other.matches(text.as_bytes()),
        }
    }

    fn is_of_query(&self, head: &RequestHead<'_>) -> bool {
        let value = head
            .query
            .and_then(|query| query::first(query, self.name.as_bytes()));
        let Some(value) = value else {
            return false;
        };
        let is_plain = !value.iter().any(|byte| matches!(byte, b'%' | b'+'));
        match &self.value {
            ValueTest::Exact(exact) => query::decoded(value).eq(exact.iter().copied()),
            other if is_plain => other.matches(value),
            other => other.matches(&query::decoded(value).collect::<Vec<_>>()),
        }
    }
}
