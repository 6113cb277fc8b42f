//! Rules as they are written, made ready to be asked.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::SystemTime;

use regex::bytes::Regex;

use super::cors;
use super::filters::Static;
use super::index::Place;
use super::pattern;
use super::query::path_decoded;
use super::session::Session;
use crate::model::http_route::{
    Cors, Filter, HttpMatch, HttpRule, NamedMatch, PathMatch, PathModifier, Redirect, Retry,
    TextMatch, Timeouts,
};
use crate::model::route::{Backend, BackendRef, BackendTarget, Route, RouteKind, RouteRule, Rules};
use crate::route::attached::{Permits, age};

/// One way for a rule to match.
#[derive(Debug)]
pub(super) struct CompiledMatch {
    pub(super) rule: u32,
    pub(super) place: Place,
    /// What the place does not say of the path.
    pub(super) path: PathTest,
    /// Of the prefix that it matches by.
    pub(super) elements: usize,
    pub(super) method: Option<Box<str>>,
    pub(super) headers: Box<[NamedTest]>,
    pub(super) query: Box<[NamedTest]>,
}

#[derive(Debug)]
pub(super) enum PathTest {
    Any,
    Regex(Regex),
    Grpc {
        service: Option<ValueTest>,
        method: Option<ValueTest>,
    },
    /// A pattern that does not compile. What is read here has none.
    Never,
}

#[derive(Debug)]
pub(super) struct NamedTest {
    pub(super) name: Box<str>,
    pub(super) value: ValueTest,
}

#[derive(Debug)]
pub(super) enum ValueTest {
    Exact(Box<[u8]>),
    Regex(Regex),
    Never,
}

impl ValueTest {
    fn of(value: &TextMatch) -> Self {
        match value {
            TextMatch::Exact(text) => Self::Exact(text.as_bytes().into()),
            TextMatch::Regex(text) => pattern::compile(text).map_or(Self::Never, Self::Regex),
        }
    }

    pub(super) fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => **text == *value,
            Self::Regex(pattern) => pattern.is_match(value),
            Self::Never => false,
        }
    }
}

/// What becomes of the requests that a rule gets.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<RouteRule>,
    pub(super) action: Action,
    pub(super) cors: Option<Cors>,
    pub(super) timeouts: Timeouts,
    pub(super) retry: Option<Retry>,
    pub(super) session: Option<Session>,
}

#[derive(Debug)]
pub(super) enum Action {
    Forward(Weighted),
    Redirect(Redirect),
    /// A filter that is not served.
    Unsupported,
}

/// Backends by their shares.
#[derive(Debug)]
pub(super) struct Weighted {
    pub(super) total: u64,
    /// Of those with a weight.
    pub(super) backends: Box<[Weighed]>,
    /// The others, of a rule with sessions: these stay where they are.
    pub(super) resting: Box<[Weighed]>,
}

#[derive(Debug)]
pub(super) struct Weighed {
    /// It is chosen by numbers below this, and not below that of the one before.
    pub(super) below: u64,
    pub(super) to: Chosen,
    pub(super) edits: Static,
    pub(super) path: Option<PathModifier>,
    pub(super) mirrors: Box<[MirrorTo]>,
}

#[derive(Debug)]
pub(super) enum Chosen {
    Backend(BackendRef),
    Invalid,
    Unsupported,
}

#[derive(Debug)]
pub(super) struct MirrorTo {
    pub(super) to: BackendRef,
    /// So many of so many.
    pub(super) share: (u32, u32),
}

pub(super) struct Compiled {
    pub(super) rules: Vec<Rule>,
    /// By precedence.
    pub(super) entries: Vec<CompiledMatch>,
    /// Some rule goes by the path, or puts a part of it elsewhere.
    pub(super) looks_at_paths: bool,
}

/// Routes of one kind, from the oldest to the youngest.
pub(super) fn compile(routes: &[Arc<Route>], permits: Permits<'_>) -> Compiled {
    let mut rules = Vec::new();
    let mut entries: Vec<(Rank, CompiledMatch)> = Vec::new();
    let mut looks_at_paths = false;
    for (nth, route) in routes.iter().enumerate() {
        let Rules::Http(of_route) = &route.rules else {
            continue;
        };
        for (index, rule) in (0_u32..).zip(of_route) {
            let number = u32::try_from(rules.len()).unwrap_or(u32::MAX);
            looks_at_paths |= rewrites_prefix(rule);
            for (at, one) in rule.matches.iter().enumerate() {
                looks_at_paths |= !one.path.is_any();
                let order = (age(route.created), nth, index, at);
                let rank = rank(route.key.kind, one, order);
                entries.push((rank, entry(number, one)));
            }
            rules.push(self::rule(route, index, rule, permits));
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Compiled {
        rules,
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        looks_at_paths,
    }
}

type Order = ((bool, Option<SystemTime>), usize, u32, usize);

/// The lower goes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    path: (u8, Reverse<usize>, Reverse<usize>),
    no_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    order: Order,
}

fn rank(kind: RouteKind, one: &HttpMatch, order: Order) -> Rank {
    let length = |text: &Option<TextMatch>| text.as_ref().map_or(0, |text| text.text().len());
    let path = match &one.path {
        PathMatch::Exact(_) => (0, 0, 0),
        // Where the API leaves it to us: more exact than any prefix.
        PathMatch::Regex(pattern) => (1, pattern.len(), 0),
        PathMatch::Prefix(prefix) => (2, trimmed(prefix).len(), 0),
        PathMatch::Grpc { service, method } => (0, length(service), length(method)),
    };
    debug_assert!(kind.is_http(), "{kind}");
    Rank {
        path: (path.0, Reverse(path.1), Reverse(path.2)),
        no_method: one.method.is_none(),
        headers: Reverse(one.headers.len()),
        query: Reverse(one.query.len()),
        order,
    }
}

/// What stays of the path must not lead out of what is put before it.
fn rewrites_prefix(rule: &HttpRule) -> bool {
    let of_backends = rule.backends.iter().flat_map(|one| one.filters.iter());
    let mut filters = rule.filters.iter().chain(of_backends);
    filters.any(|filter| match filter {
        Filter::Rewrite(rewrite) => matches!(rewrite.path, Some(PathModifier::Prefix(_))),
        _ => false,
    })
}

fn trimmed(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

/// How many elements a prefix has.
pub(super) fn elements(prefix: &str) -> usize {
    trimmed(prefix).matches('/').count()
}

fn entry(rule: u32, one: &HttpMatch) -> CompiledMatch {
    let (place, path) = path(&one.path);
    let elements = match &one.path {
        PathMatch::Prefix(prefix) => elements(prefix),
        _ => 0,
    };
    CompiledMatch {
        rule,
        place,
        path,
        elements,
        method: one.method.clone(),
        headers: named(&one.headers),
        query: named(&one.query),
    }
}

fn named(matches: &[NamedMatch]) -> Box<[NamedTest]> {
    let test = |one: &NamedMatch| NamedTest {
        name: one.name.clone(),
        value: ValueTest::of(&one.value),
    };
    matches.iter().map(test).collect()
}

fn path(path: &PathMatch) -> (Place, PathTest) {
    let decoded = |text: &str| path_decoded(text.as_bytes()).into_boxed_slice();
    match path {
        PathMatch::Exact(path) => (Place::Exact(decoded(path)), PathTest::Any),
        PathMatch::Prefix(prefix) => (Place::Prefix(decoded(trimmed(prefix))), PathTest::Any),
        PathMatch::Regex(text) => {
            let test = pattern::compile(text).map_or(PathTest::Never, PathTest::Regex);
            (Place::Every, test)
        }
        PathMatch::Grpc { service, method } => match (service, method) {
            (Some(TextMatch::Exact(service)), Some(TextMatch::Exact(method))) => {
                let path = format!("/{service}/{method}");
                (Place::Exact(path.into_bytes().into()), PathTest::Any)
            }
            (None, None) => (Place::Prefix(Box::default()), PathTest::Any),
            (service, method) => {
                let place = match service {
                    Some(TextMatch::Exact(service)) => {
                        Place::Prefix(format!("/{service}").into_bytes().into())
                    }
                    _ => Place::Every,
                };
                let test = |text: &Option<TextMatch>| text.as_ref().map(ValueTest::of);
                let (service, method) = (test(service), test(method));
                (place, PathTest::Grpc { service, method })
            }
        },
    }
}

fn rule(route: &Route, index: u32, rule: &HttpRule, permits: Permits<'_>) -> Rule {
    let name = RouteRule::new(route.key.clone(), index, rule.name.clone());
    let redirect = rule.filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect.clone()),
        _ => None,
    });
    let cors = rule.filters.iter().find_map(|filter| match filter {
        Filter::Cors(cors) => Some(cors.clone()),
        _ => None,
    });
    let action = match redirect {
        _ if is_unsupported(&rule.filters) => Action::Unsupported,
        Some(redirect) => Action::Redirect(redirect),
        None => Action::Forward(weighted(route, rule, permits)),
    };
    Rule {
        name: Arc::new(name),
        action,
        cors,
        timeouts: rule.timeouts,
        retry: rule.retry.clone(),
        session: rule
            .session
            .as_ref()
            .map(|says| Session::new(says, &route.key, (index, rule.name.as_ref()))),
    }
}

fn is_unsupported(filters: &[Filter]) -> bool {
    let mut filters = filters.iter();
    filters.any(|filter| matches!(filter, Filter::Unsupported(_)))
}

fn weighted(route: &Route, rule: &HttpRule, permits: Permits<'_>) -> Weighted {
    let mut total = 0;
    let weighing = rule.backends.iter().filter(|backend| backend.weight > 0);
    let backends = weighing.map(|backend| {
        total += u64::from(backend.weight);
        weighed(route, rule, backend, total, permits)
    });
    let backends = backends.collect();
    let others = rule.backends.iter().filter(|backend| backend.weight == 0);
    let resting = others
        .filter(|_| rule.session.is_some())
        .map(|backend| weighed(route, rule, backend, total, permits));
    Weighted {
        total,
        backends,
        resting: resting.collect(),
    }
}

fn weighed(
    route: &Route,
    rule: &HttpRule,
    backend: &Backend,
    below: u64,
    permits: Permits<'_>,
) -> Weighed {
    let filters = || rule.filters.iter().chain(&backend.filters);
    let only_of_rules = |filter: &Filter| matches!(filter, Filter::Redirect(_) | Filter::Cors(_));
    let is_unsupported =
        is_unsupported(&backend.filters) || backend.filters.iter().any(only_of_rules);
    let to = match permitted(route, &backend.to, permits) {
        Some(_) if is_unsupported => Chosen::Unsupported,
        Some(to) => Chosen::Backend(to.clone()),
        None => Chosen::Invalid,
    };
    let mut path = filters().filter_map(|filter| match filter {
        Filter::Rewrite(rewrite) => rewrite.path.clone(),
        _ => None,
    });
    let mirrors = filters().filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(MirrorTo {
            to: permitted(route, &mirror.to, permits)?.clone(),
            share: mirror.share,
        }),
        _ => None,
    });
    let mut edits = Static::of(filters());
    if filters().any(|filter| matches!(filter, Filter::Cors(_))) {
        cors::own(&mut edits.response);
    }
    Weighed {
        below,
        to,
        edits,
        path: path.next_back(),
        mirrors: mirrors.collect(),
    }
}

fn permitted<'b>(
    route: &Route,
    to: &'b BackendTarget,
    permits: Permits<'_>,
) -> Option<&'b BackendRef> {
    match to {
        BackendTarget::Service(to) if permits(route, to) => Some(to),
        BackendTarget::Service(_) | BackendTarget::Invalid(_) => None,
    }
}
