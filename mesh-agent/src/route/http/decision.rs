//! What is decided of a request.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::session::Sticky;
use crate::model::http_route::{Retry, Timeouts};
use crate::model::route::{BackendRef, RouteRule};
use crate::model::{Edits, RefuseReason};
use crate::route::connections::{ConnectionDecision, ConnectionRefusal};

#[derive(Clone, Debug)]
pub(crate) enum Decision<'r> {
    /// Nobody has a route for this caller: the Service's own endpoints.
    Implicit,
    Forward(Forward<'r>),
    /// No server sees the request.
    Respond(Respond<'r>),
}

#[derive(Clone, Debug)]
pub(crate) struct Forward<'r> {
    pub(crate) rule: &'r Arc<RouteRule>,
    pub(crate) backend: &'r BackendRef,
    pub(crate) request: Cow<'r, Edits>,
    /// Of the final response and of no other.
    pub(crate) response: Cow<'r, Edits>,
    /// Those that get a copy of this request, with the same edits.
    pub(crate) mirrors: SmallVec<[Mirrored<'r>; 1]>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<&'r Retry>,
    pub(crate) session: Option<Box<Sticky<'r>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mirrored<'r> {
    pub(crate) to: &'r BackendRef,
    /// So many of so many requests have it.
    pub(crate) share: (u32, u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Respond<'r> {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) reason: RouteReason,
    /// `None` where no rule matched.
    pub(crate) rule: Option<&'r Arc<RouteRule>>,
}

/// Why a request is answered by the mesh itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RouteReason {
    NoRouteMatched,
    /// A backend that is no Service, is not permitted, or is none at all.
    InvalidBackend,
    /// The rule has no backend, or all have the weight 0.
    NoBackend,
    /// A filter that is not served: a filter is never passed over.
    UnsupportedFilter,
    /// The path means different things to different servers, and rules go by it.
    AmbiguousPath,
    Redirect,
    CorsPreflight,
}

impl RouteReason {
    /// The gRPC status that a caller of gRPC gets instead.
    #[must_use]
    pub(crate) fn grpc_status(self) -> u8 {
        match self {
            // UNIMPLEMENTED
            Self::NoRouteMatched => 12,
            // INTERNAL
            Self::UnsupportedFilter | Self::AmbiguousPath => 13,
            // UNAVAILABLE
            Self::InvalidBackend | Self::NoBackend | Self::Redirect | Self::CorsPreflight => 14,
        }
    }

    #[must_use]
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::NoRouteMatched => 404,
            Self::InvalidBackend | Self::NoBackend | Self::UnsupportedFilter => 500,
            Self::AmbiguousPath => 400,
            Self::Redirect => 302,
            Self::CorsPreflight => 204,
        }
    }

    /// How it is counted and logged; `None`: it is what the route is for.
    #[must_use]
    pub(crate) fn refusal(self) -> Option<RefuseReason> {
        Some(match self {
            Self::Redirect | Self::CorsPreflight => return None,
            Self::NoRouteMatched => RefuseReason::NoRoute,
            Self::InvalidBackend | Self::NoBackend | Self::UnsupportedFilter => {
                RefuseReason::NoBackend
            }
            Self::AmbiguousPath => RefuseReason::AmbiguousPath,
        })
    }

    /// A sentence for people.
    #[must_use]
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::NoRouteMatched => "no rule of the Service's routes matches the request",
            Self::InvalidBackend => "the backend that the rule chose cannot be used",
            Self::NoBackend => "the rule has no backend with a weight",
            Self::UnsupportedFilter => "the rule has a filter that is not served",
            Self::AmbiguousPath => "the path is ambiguous, and rules go by the path",
            Self::Redirect => "the rule redirects",
            Self::CorsPreflight => "the rule answers CORS preflights",
        }
    }
}

impl<'r> Decision<'r> {
    /// `None` where there is none, or none matched.
    pub(crate) fn rule(&self) -> Option<&'r Arc<RouteRule>> {
        match self {
            Self::Implicit => None,
            Self::Forward(forward) => Some(forward.rule),
            Self::Respond(respond) => respond.rule,
        }
    }

    /// What holds for the connection holds for each request on it.
    pub(in crate::route) fn of_connection(decision: ConnectionDecision<'r>) -> Self {
        let reason = match decision {
            ConnectionDecision::Implicit => return Self::Implicit,
            ConnectionDecision::Forward { rule, backend } => {
                return Self::Forward(Forward {
                    rule,
                    backend,
                    request: Cow::Owned(Edits::default()),
                    response: Cow::Owned(Edits::default()),
                    mirrors: SmallVec::new(),
                    timeouts: Timeouts::default(),
                    retry: None,
                    session: None,
                });
            }
            ConnectionDecision::Refused(ConnectionRefusal::NoRouteMatched) => {
                RouteReason::NoRouteMatched
            }
            ConnectionDecision::Refused(ConnectionRefusal::InvalidBackend) => {
                RouteReason::InvalidBackend
            }
            ConnectionDecision::Refused(ConnectionRefusal::NoBackend) => RouteReason::NoBackend,
        };
        Self::Respond(Respond::of(reason, None))
    }
}

impl<'r> Respond<'r> {
    pub(super) fn of(reason: RouteReason, rule: Option<&'r Arc<RouteRule>>) -> Self {
        Self {
            status: reason.status(),
            headers: Vec::new(),
            reason,
            rule,
        }
    }
}
