//! What became of a connection or a request, as far as it says something of its endpoint.

use std::time::Duration;

use crate::model::grpc_status::{
    DATA_LOSS, DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, UNAVAILABLE,
};
use crate::model::traffic::Limits;
use crate::model::{Fault, RefuseReason, Told};

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Connection,
}

impl Kind {
    /// How many of it may be in flight, and what that limit is called.
    pub(super) fn limit(self, of: &Limits) -> (u32, RefuseReason) {
        match self {
            Self::Request => (of.max_requests, RefuseReason::MaxRequests),
            Self::Connection => (
                of.max_connections.unwrap_or(u32::MAX),
                RefuseReason::MaxConnections,
            ),
        }
    }
}

/// How an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It did not take the connection, or not in time.
    Connect,
    /// The handshake with its agent.
    Tls,
    /// It closed before it said anything.
    Reset,
    /// 5xx, or what is no answer; the like of gRPC.
    Status,
    /// A timeout passed before it answered.
    Timeout,
    /// The client gave up: others answer a request much sooner.
    Silent,
}

impl Failure {
    pub(super) fn of(number: u8) -> Self {
        const ALL: [Failure; 6] = [
            Failure::Connect,
            Failure::Tls,
            Failure::Reset,
            Failure::Status,
            Failure::Timeout,
            Failure::Silent,
        ];
        ALL[usize::from(number).min(ALL.len() - 1)]
    }

    /// Of what the agent gives as the reason; `None`: it is not the endpoint's.
    #[must_use]
    pub(crate) fn of_reason(reason: RefuseReason) -> Option<Self> {
        match reason {
            RefuseReason::Tls(_) => Some(Self::Tls),
            RefuseReason::UpstreamClosed => Some(Self::Reset),
            RefuseReason::MalformedResponse => Some(Self::Status),
            RefuseReason::RequestTimeout => Some(Self::Timeout),
            reason => (reason.refusal().fault == Fault::Upstream).then_some(Self::Connect),
        }
    }

    /// Of an answer; `None`: it is none.
    #[must_use]
    pub(crate) fn of_answer(status: u16, grpc_status: Option<u32>) -> Option<Self> {
        let failed = match grpc_status {
            Some(grpc) => matches!(
                u8::try_from(grpc),
                Ok(DEADLINE_EXCEEDED | INTERNAL | UNAVAILABLE | DATA_LOSS)
            ),
            // As gRPC's UNIMPLEMENTED, 501 says something of the request.
            None => status >= 500 && status != 501,
        };
        failed.then_some(Self::Status)
    }

    /// In labels and log.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Silent => "silent",
        }
    }
}

/// Which rule ejected an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    InARow,
    SuccessRate,
}

impl Cause {
    pub(super) fn of(number: u8) -> Self {
        match number {
            0 => Self::InARow,
            _ => Self::SuccessRate,
        }
    }

    /// In labels and log.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::InARow => "consecutive_failures",
            Self::SuccessRate => "success_rate",
        }
    }
}

/// What a connection or a request says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// It answered that it takes no more: it works, and others are asked first.
    Shed,
    Failure(Failure),
    /// The client left, and no answer had begun.
    Abandoned,
    /// The client had ended its side, and the connection was reset for an answer: for that, or
    /// as the endpoint does with every one.
    ResetBehindEnd,
    /// An agent had no room for it, and the endpoint has not seen it.
    Overflow,
    /// An agent refused it by what its caller may ask, and the endpoint has not seen it.
    OverRate,
    /// Nothing.
    Neutral,
}

impl Outcome {
    /// Of what went wrong; `None`: that says nothing of the endpoint.
    #[must_use]
    pub(crate) fn of_failure(failure: Option<Failure>) -> Self {
        failure.map_or(Self::Neutral, Self::Failure)
    }

    /// Of what the agent gives as the reason.
    #[must_use]
    pub(crate) fn of_reason(reason: RefuseReason) -> Self {
        match Failure::of_reason(reason) {
            Some(failure) => Self::Failure(failure),
            None if is_overflow(reason) => Self::Overflow,
            None if reason == RefuseReason::RateLimited => Self::OverRate,
            None => Self::Neutral,
        }
    }

    #[must_use]
    pub(crate) fn of_answer(said: Said) -> Self {
        let is_shed = match said.grpc {
            Some(grpc) => grpc == u32::from(RESOURCE_EXHAUSTED),
            None => said.status == 429,
        };
        match Failure::of_answer(said.status, said.grpc) {
            _ if said.is_overflow && is_shed => Self::OverRate,
            _ if said.is_overflow => Self::Overflow,
            Some(failure) => Self::Failure(failure),
            None if is_shed => Self::Shed,
            None => Self::Success,
        }
    }
}

/// An answer, as far as it says something of its endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) grpc: Option<u32>,
    /// It is the other agent's, which refused by a limit of its own or of the caller's.
    pub(crate) is_overflow: bool,
}

/// An agent had no room for it.
fn is_overflow(reason: RefuseReason) -> bool {
    is_over_limit(reason) && reason.refusal().status.http == 503
}

/// Where the other agent says so: for what it has no room, and what its caller may not.
#[must_use]
pub(crate) fn is_over_limit(reason: RefuseReason) -> bool {
    reason.told() == Told::OverLimit
}

/// A client that waits for so long has waited long, whatever others take.
pub(super) const LONG: Duration = Duration::from_secs(1);
/// A probe is not given less than that.
pub(super) const SHORT: Duration = Duration::from_millis(100);
/// And others take less than this part of it.
pub(super) const MUCH: f32 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Its own refusals would be its endpoints' failures else, and all would be ejected for it.
    #[test]
    fn what_an_agent_has_no_room_for_says_nothing_of_its_endpoint() {
        for (reason, outcome) in [
            (RefuseReason::OverLimit, Outcome::Overflow),
            (RefuseReason::MaxRequestsPerPod, Outcome::Overflow),
            (RefuseReason::SourcePortsExhausted, Outcome::Overflow),
            (RefuseReason::RateLimited, Outcome::OverRate),
            (RefuseReason::Denied, Outcome::Neutral),
            (
                RefuseReason::ConnectRefused,
                Outcome::Failure(Failure::Connect),
            ),
        ] {
            assert_eq!(Outcome::of_reason(reason), outcome, "{reason}");
        }
    }

    #[test]
    fn what_is_not_implemented_says_nothing_of_its_endpoint() {
        let is_failure = |status, grpc| Failure::of_answer(status, grpc).is_some();
        assert!(is_failure(500, None) && is_failure(503, None) && is_failure(200, Some(14)));
        assert!(!is_failure(501, None) && !is_failure(404, None) && !is_failure(200, Some(12)));
    }
}
