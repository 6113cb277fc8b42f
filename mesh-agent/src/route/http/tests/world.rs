//! Services, their routes and requests, in few words.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::query::path_decoded;
use crate::model::http_route::{
    Backend, Filter, HeaderModifier, HttpMatch, HttpRule, NamedMatch, PathMatch, TextMatch,
    Timeouts,
};
use crate::model::route::{
    BackendRef, BackendTarget, ParentRef, ReferenceGrant, Route, RouteKey, RouteKind, Rules,
};
use crate::model::{
    AppProtocol, ByNamespace, Edits, HeaderEdit, HeaderLine, Hinted, Host, HttpVersion, Labels,
    NormalPath, Path, PathProblem, RequestHead, Service, ServiceKey, ServicePort, Snapshot,
    TargetPort,
};
use crate::route::http::{Decision, RouteReason};
use crate::route::{ConnectionDecision, Routes};

pub(super) const NS: &str = "gateway-conformance-mesh";
pub(super) const CONSUMER: &str = "gateway-conformance-mesh-consumer";
const PORTS: [u16; 5] = [80, 8080, 443, 9090, 7070];

pub(super) fn service(namespace: &str, name: &str) -> Service {
    let port = |port| ServicePort {
        name: format!("p{port}"),
        port,
        node_port: None,
        target: TargetPort::Number(port),
        protocol: AppProtocol::Unspecified,
        endpoints: Arc::default(),
        hinted: Hinted::default(),
        slice_ports: BTreeSet::new(),
        traffic: None,
    };
    Service {
        key: ServiceKey::new(namespace, name),
        vips: vec![[10, 96, 0, 1].into()],
        ports: PORTS.map(port).into(),
        is_local: false,
        affinity: None,
        selector: Labels::default(),
        members: BTreeSet::new(),
        hides_ports: false,
        hides_members: false,
        traffic: Default::default(),
    }
}

/// Routes of the Services `echo`, `echo-v1` and `echo-v2`.
pub(super) struct World {
    pub(super) routes: Routes,
}

impl World {
    pub(super) fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        Self::with(routes, Vec::new())
    }

    pub(super) fn with(
        routes: impl IntoIterator<Item = Route>,
        grants: Vec<ReferenceGrant>,
    ) -> Self {
        let mut snapshot = Snapshot::default();
        for name in ["echo", "echo-v1", "echo-v2"] {
            snapshot.services.insert(Arc::new(service(NS, name)));
        }
        let mut attached: BTreeMap<ServiceKey, Vec<Arc<Route>>> = BTreeMap::new();
        for route in routes {
            let route = Arc::new(route);
            let parents = route.parents.iter();
            let parents = parents.filter_map(|parent| parent.service(&route.key.namespace));
            for service in parents.collect::<BTreeSet<_>>() {
                attached.entry(service).or_default().push(route.clone());
            }
        }
        for (service, routes) in attached {
            snapshot.attached.insert(service, routes.into());
        }
        snapshot.grants = ByNamespace::from(grants);
        let routes = Routes::compile(&snapshot);
        Self { routes }
    }

    /// What a caller of the Service's own namespace gets at port 80.
    pub(super) fn ask(&self, request: &Asked) -> Got {
        self.ask_at(("echo", 80), NS, request, 0)
    }

    pub(super) fn ask_at(
        &self,
        (name, port): (&str, u16),
        caller: &str,
        request: &Asked,
        number: u64,
    ) -> Got {
        let service = ServiceKey::new(NS, name);
        let Some(routes) = self.routes.of(&service, port) else {
            return Got::Implicit;
        };
        request.with_head(|head| {
            let random = |below: u64| {
                assert!(below > 0);
                number % below
            };
            Got::of(routes.decide(head, caller, random))
        })
    }

    /// How many of 10,000 requests each backend gets; "" is an error.
    pub(super) fn shares(&self, request: &Asked) -> BTreeMap<String, u32> {
        let service = ServiceKey::new(NS, "echo");
        let routes = self.routes.of(&service, 80).expect("routes");
        let mut shares = BTreeMap::new();
        let mut state: u64 = 42;
        let mut random = |below: u64| {
            // An LCG with its upper half taken: even enough, and always the same.
            state = state.wrapping_mul(6_364_136_223_846_793_005);
            state = state.wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..10_000 {
            let got = request.with_head(|head| Got::of(routes.decide(head, NS, &mut random)));
            let name = match got {
                Got::To { backend, .. } => backend,
                _ => String::new(),
            };
            *shares.entry(name).or_default() += 1;
        }
        shares
    }

    pub(super) fn connect(&self, port: u16, sni: Option<&str>, number: u64) -> String {
        let service = ServiceKey::new(NS, "echo");
        let Some(routes) = self.routes.of(&service, port) else {
            return "implicit".to_owned();
        };
        match routes.decide_connection(sni, NS, |below| number % below) {
            ConnectionDecision::Implicit => "implicit".to_owned(),
            ConnectionDecision::Forward { backend, .. } => backend.service.name.to_string(),
            ConnectionDecision::Refused(why) => format!("{why:?}"),
        }
    }
}

/// A decision, without what it borrows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Implicit,
    To {
        rule: String,
        /// Name of the Service.
        backend: String,
        request: Edits,
        response: Edits,
        mirrors: Vec<String>,
        /// Nothing was made for it.
        is_borrowed: bool,
    },
    Answer {
        status: u16,
        reason: RouteReason,
        headers: Vec<(&'static str, String)>,
    },
}

impl Got {
    fn of(decision: Decision<'_>) -> Self {
        match decision {
            Decision::Implicit => Self::Implicit,
            Decision::Forward(forward) => Self::To {
                rule: forward.rule.to_string(),
                backend: forward.backend.service.name.to_string(),
                is_borrowed: matches!(
                    (&forward.request, &forward.response),
                    (Cow::Borrowed(_), Cow::Borrowed(_))
                ),
                request: forward.request.into_owned(),
                response: forward.response.into_owned(),
                mirrors: forward
                    .mirrors
                    .iter()
                    .map(|mirror| mirror.to.service.name.to_string())
                    .collect(),
            },
            Decision::Respond(answer) => Self::Answer {
                status: answer.status,
                reason: answer.reason,
                headers: answer.headers,
            },
        }
    }

    /// The Service's name, or the status of the answer.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::Implicit => "implicit".to_owned(),
            Self::To { backend, .. } => backend.clone(),
            Self::Answer { status, .. } => status.to_string(),
        }
    }

    pub(super) fn request(&self) -> &Edits {
        match self {
            Self::To { request, .. } => request,
            other => panic!("not forwarded: {other:?}"),
        }
    }

    pub(super) fn location(&self) -> (u16, &str) {
        let Self::Answer {
            status, headers, ..
        } = self
        else {
            panic!("not answered: {self:?}");
        };
        let location = headers.iter().find(|(name, _)| *name == "location");
        (*status, location.map_or("", |(_, value)| value))
    }
}

/// Header lines as they are after the edits: removals, then the others in order.
pub(super) fn edited(edits: &Edits, lines: &[(&str, &str)]) -> Vec<(String, String)> {
    let lower = |(name, value): &(&str, &str)| (name.to_ascii_lowercase(), (*value).to_owned());
    let mut all: Vec<(String, String)> = lines.iter().map(lower).collect();
    for edit in &edits.headers {
        match edit {
            HeaderEdit::Set { name, value } => {
                all.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
                all.push((name.to_ascii_lowercase(), value.clone()));
            }
            HeaderEdit::Add { name, value } => {
                all.push((name.to_ascii_lowercase(), value.clone()));
            }
            HeaderEdit::Remove { name } => {
                all.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
            }
        }
    }
    all.sort();
    all
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) problem: Option<PathProblem>,
}

pub(super) fn get(target: &str) -> Asked {
    Asked {
        method: "GET".to_owned(),
        target: target.to_owned(),
        host: Some("echo".to_owned()),
        headers: Vec::new(),
        problem: None,
    }
}

impl Asked {
    pub(super) fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub(super) fn with_head<T>(&self, ask: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let lines = self.headers.iter().map(|(name, value)| HeaderLine {
            name,
            value: value.as_bytes(),
        });
        let lines: Vec<HeaderLine<'_>> = lines.collect();
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query.as_bytes())),
            None => (&*self.target, None),
        };
        let path = match self.problem {
            Some(problem) => Path::Ambiguous(problem),
            None if !path.starts_with('/') => Path::None,
            // Dots alone: more is not needed here.
            None => {
                let normal = path.replace("/./", "/");
                Path::Normal(NormalPath {
                    decoded: Cow::Owned(path_decoded(normal.as_bytes())),
                    normal: Cow::Owned(normal),
                    without_parameters: None,
                })
            }
        };
        let host = self.host.as_deref().map(|host| match host.split_once(':') {
            Some((name, port)) => Host {
                name: name.into(),
                port: port.parse().ok(),
            },
            None => Host {
                name: host.into(),
                port: None,
            },
        });
        ask(&RequestHead {
            version: HttpVersion::Http11,
            method: &self.method,
            target: self.target.as_bytes(),
            path,
            query,
            host,
            headers: &lines,
        })
    }
}

/// An HTTPRoute of `echo`, in its namespace.
pub(super) fn route(name: &str, rules: impl IntoIterator<Item = HttpRule>) -> Route {
    route_of(RouteKind::Http, (NS, name), None, rules)
}

pub(super) fn route_of(
    kind: RouteKind,
    (namespace, name): (&str, &str),
    port: Option<u16>,
    rules: impl IntoIterator<Item = HttpRule>,
) -> Route {
    Route {
        key: RouteKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        },
        created: None,
        parents: [parent("echo", port)].into(),
        hostnames: Box::default(),
        rules: Rules::Http(rules.into_iter().collect()),
        fault: None,
        is_known: true,
    }
}

pub(super) fn parent(name: &str, port: Option<u16>) -> ParentRef {
    ParentRef {
        group: "".into(),
        kind: "Service".into(),
        namespace: Some(NS.into()),
        name: name.into(),
        section: None,
        port,
    }
}

pub(super) fn aged(mut route: Route, seconds: u64) -> Route {
    route.created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    route
}

/// Of any request, to these Services in shares.
pub(super) fn rule(backends: &[(&str, u32)]) -> HttpRule {
    HttpRule {
        name: None,
        matches: [prefix("/")].into(),
        filters: Box::default(),
        backends: backends
            .iter()
            .map(|(name, weight)| backend(name, *weight))
            .collect(),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
    }
}

pub(super) fn to(name: &str, matches: impl IntoIterator<Item = HttpMatch>) -> HttpRule {
    HttpRule {
        matches: matches.into_iter().collect(),
        ..rule(&[(name, 1)])
    }
}

pub(super) fn filtered(mut rule: HttpRule, filters: impl IntoIterator<Item = Filter>) -> HttpRule {
    rule.filters = filters.into_iter().collect();
    rule
}

pub(super) fn backend(name: &str, weight: u32) -> Backend {
    Backend {
        to: BackendTarget::Service(BackendRef {
            service: ServiceKey::new(NS, name),
            port: 8080,
        }),
        weight,
        filters: Box::default(),
    }
}

fn matching(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        method: None,
        headers: Box::default(),
        query: Box::default(),
    }
}

pub(super) fn prefix(path: &str) -> HttpMatch {
    matching(PathMatch::Prefix(path.into()))
}

pub(super) fn exact(path: &str) -> HttpMatch {
    matching(PathMatch::Exact(path.into()))
}

pub(super) fn regex(path: &str) -> HttpMatch {
    matching(PathMatch::Regex(path.into()))
}

pub(super) fn call(service: Option<&str>, method: Option<&str>) -> HttpMatch {
    let text = |text: &str| TextMatch::Exact(text.into());
    matching(PathMatch::Grpc {
        service: service.map(text),
        method: method.map(text),
    })
}

fn named(pairs: &[(&str, &str)]) -> Box<[NamedMatch]> {
    let one = |(name, value): &(&str, &str)| NamedMatch {
        name: (*name).into(),
        value: TextMatch::Exact((*value).into()),
    };
    pairs.iter().map(one).collect()
}

pub(super) fn headers(mut one: HttpMatch, pairs: &[(&str, &str)]) -> HttpMatch {
    one.headers = named(pairs);
    one
}

pub(super) fn query(mut one: HttpMatch, pairs: &[(&str, &str)]) -> HttpMatch {
    one.query = named(pairs);
    one
}

pub(super) fn method(mut one: HttpMatch, method: &str) -> HttpMatch {
    one.method = Some(method.into());
    one
}

pub(super) fn modifier(
    set: &[(&str, &str)],
    add: &[(&str, &str)],
    remove: &[&str],
) -> HeaderModifier {
    let pairs = |pairs: &[(&str, &str)]| {
        let one = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
        pairs.iter().map(one).collect()
    };
    HeaderModifier {
        set: pairs(set),
        add: pairs(add),
        remove: remove.iter().map(|name| (*name).into()).collect(),
    }
}
