//! What HTTPRoute and GRPCRoute say of requests, as written.

use std::sync::Arc;
use std::time::Duration;

use super::Name;
use super::backend::BackendTarget;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpRule {
    pub(crate) name: Option<Name>,
    /// One of them is enough. Never empty: nothing said is the prefix `/`.
    pub(crate) matches: Box<[HttpMatch]>,
    /// In their order.
    pub(crate) filters: Box<[Filter]>,
    pub(crate) backends: Box<[Backend]>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<Retry>,
    pub(crate) session: Option<SessionPersistence>,
}

/// One of the places that a rule leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) to: BackendTarget,
    /// Its share is this of the sum; 0 is none.
    pub(crate) weight: u32,
    /// After those of the rule.
    pub(crate) filters: Box<[Filter]>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpMatch {
    pub(crate) path: PathMatch,
    pub(crate) method: Option<Box<str>>,
    /// Each name once: of two only the first counts.
    pub(crate) headers: Box<[NamedMatch]>,
    pub(crate) query: Box<[NamedMatch]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathMatch {
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
    pub(crate) fn is_any(&self) -> bool {
        match self {
            Self::Prefix(prefix) => prefix.trim_end_matches('/').is_empty(),
            Self::Grpc { service, method } => service.is_none() && method.is_none(),
            Self::Exact(_) | Self::Regex(_) => false,
        }
    }
}

/// Of the whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TextMatch {
    Exact(Box<str>),
    Regex(Box<str>),
}

impl TextMatch {
    #[must_use]
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Regex(text) => text,
        }
    }
}

/// Of a header or of a parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedMatch {
    pub(crate) name: Box<str>,
    pub(crate) value: TextMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
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
pub(crate) struct HeaderModifier {
    pub(crate) set: Box<[(Box<str>, Box<str>)]>,
    pub(crate) add: Box<[(Box<str>, Box<str>)]>,
    pub(crate) remove: Box<[Box<str>]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) path: Option<PathModifier>,
    pub(crate) port: Option<u16>,
    pub(crate) status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    #[must_use]
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    pub(crate) host: Option<Box<str>>,
    pub(crate) path: Option<PathModifier>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathModifier {
    Full(Box<str>),
    /// In place of the prefix by which the rule matched.
    Prefix(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) to: BackendTarget,
    /// So many of so many requests.
    pub(crate) share: (u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cors {
    /// `*`, whole origins, or origins with `*.` before the host.
    pub(crate) origins: Box<[Box<str>]>,
    pub(crate) credentials: bool,
    /// `*` is any.
    pub(crate) methods: Box<[Box<str>]>,
    pub(crate) headers: Box<[Box<str>]>,
    pub(crate) expose: Box<[Box<str>]>,
    /// In seconds.
    pub(crate) max_age: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// Of the whole exchange, with all its attempts; `None`: as the Service's
    /// TrafficPolicy has it.
    pub(crate) request: Option<Longest>,
    /// Of each attempt.
    pub(crate) backend_request: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Longest {
    Within(Duration),
    /// It is said that there is none.
    Endless,
}

impl Longest {
    #[must_use]
    pub(crate) fn time(self) -> Option<Duration> {
        match self {
            Self::Within(time) => Some(time),
            Self::Endless => None,
        }
    }
}

/// What a rule says of retries. That it says anything means retries where no
/// connection could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) codes: Arc<[u16]>,
    /// Beside the first; 0 switches retries off, `None` is our own.
    pub(crate) attempts: Option<u32>,
    /// The base interval between two.
    pub(crate) backoff: Option<Duration>,
}

impl Retry {
    /// The route wants none at all.
    #[must_use]
    pub(crate) fn is_off(&self) -> bool {
        self.attempts == Some(0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionPersistence {
    /// Of the cookie or the header.
    pub(crate) name: Option<Box<str>>,
    pub(crate) by: SessionBy,
    pub(crate) absolute: Option<Duration>,
    pub(crate) idle: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionBy {
    Header,
    /// `path`: as the cookie says it. `is_permanent`: it outlives the browser.
    Cookie {
        path: Option<Box<str>>,
        is_permanent: bool,
    },
}
