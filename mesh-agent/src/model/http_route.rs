//! What HTTPRoute and GRPCRoute say of requests, as written.

use std::time::Duration;

use super::Name;
use super::backend::BackendTarget;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRule {
    pub name: Option<Name>,
    /// One of them is enough. Never empty: nothing said is the prefix `/`.
    pub matches: Box<[HttpMatch]>,
    /// In their order.
    pub filters: Box<[Filter]>,
    pub backends: Box<[Backend]>,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub session: Option<SessionPersistence>,
}

/// One of the places that a rule leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub to: BackendTarget,
    /// Its share is this of the sum; 0 is none.
    pub weight: u32,
    /// After those of the rule.
    pub filters: Box<[Filter]>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpMatch {
    pub path: PathMatch,
    pub method: Option<Box<str>>,
    /// Each name once: of two only the first counts.
    pub headers: Box<[NamedMatch]>,
    pub query: Box<[NamedMatch]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Exact(Box<str>),
    /// By whole elements; a `/` at its end does not count.
    Prefix(Box<str>),
    /// Of the whole path.
    Regex(Box<str>),
    /// Of a GRPCRoute: `/service/method`; `None` is any.
    Grpc {
        service: Option<TextMatch>,
        method: Option<TextMatch>,
    },
}

impl PathMatch {
    /// Does it hold of every path?
    #[must_use]
    pub fn is_any(&self) -> bool {
        match self {
            Self::Prefix(prefix) => prefix.trim_end_matches('/').is_empty(),
            Self::Grpc { service, method } => service.is_none() && method.is_none(),
            Self::Exact(_) | Self::Regex(_) => false,
        }
    }
}

/// Of the whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    Exact(Box<str>),
    Regex(Box<str>),
}

impl TextMatch {
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Regex(text) => text,
        }
    }
}

/// Of a header or of a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedMatch {
    pub name: Box<str>,
    pub value: TextMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    RequestHeaders(HeaderModifier),
    ResponseHeaders(HeaderModifier),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(Mirror),
    Cors(Cors),
    /// One that this agent has not: requests are answered with an error, for a
    /// filter is never passed over.
    Unsupported(Box<str>),
}

/// A name is in one of the three only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    pub set: Box<[(Box<str>, Box<str>)]>,
    pub add: Box<[(Box<str>, Box<str>)]>,
    pub remove: Box<[Box<str>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub host: Option<Box<str>>,
    pub path: Option<PathModifier>,
    pub port: Option<u16>,
    pub status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub host: Option<Box<str>>,
    pub path: Option<PathModifier>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    Full(Box<str>),
    /// In place of the prefix by which the rule matched.
    Prefix(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub to: BackendTarget,
    /// So many of so many requests.
    pub share: (u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `*`, whole origins, or origins with `*.` before the host.
    pub origins: Box<[Box<str>]>,
    pub credentials: bool,
    /// `*` is any.
    pub methods: Box<[Box<str>]>,
    pub headers: Box<[Box<str>]>,
    pub expose: Box<[Box<str>]>,
    /// In seconds.
    pub max_age: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Of the whole exchange, with all its attempts; `None`: as the Service's
    /// TrafficPolicy has it.
    pub request: Option<Longest>,
    /// Of each attempt.
    pub backend_request: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Longest {
    Within(Duration),
    /// It is said that there is none.
    Endless,
}

impl Longest {
    #[must_use]
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Within(time) => Some(time),
            Self::Endless => None,
        }
    }
}

/// What a rule says of retries. That it says anything means retries where no
/// connection could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    pub codes: Box<[u16]>,
    /// Beside the first; 0 switches retries off, `None` is our own.
    pub attempts: Option<u32>,
    /// The base interval between two.
    pub backoff: Option<Duration>,
}

impl Retry {
    /// The route wants none at all.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.attempts == Some(0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Of the cookie or the header.
    pub name: Option<Box<str>>,
    pub by: SessionBy,
    pub absolute: Option<Duration>,
    pub idle: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionBy {
    Header,
    /// `path`: as the cookie says it. `is_permanent`: it outlives the browser.
    Cookie {
        path: Option<Box<str>>,
        is_permanent: bool,
    },
}
