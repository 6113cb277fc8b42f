//! Answers that are not passed on at once, for the request may go elsewhere.

use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Failure, Said, is_over_limit};
use crate::http::answer::REASON;
use crate::model::http_route::Retry;
use crate::model::{REFUSE_REASONS, RefuseReason, Refused, Retry as Help};
use crate::tunnel::{ResetReason, StreamEnd};

const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Which ones these are.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Hold {
    /// What the route's retries are for.
    pub(in crate::proxy) codes: Arc<[u16]>,
    /// The other agent is believed what became of its application.
    pub(in crate::proxy) believes: bool,
    /// The request asks for nothing to be done: it may be seen twice.
    pub(in crate::proxy) is_safe: bool,
    /// Its endpoint is ejected, and this request shows whether it works again.
    pub(in crate::proxy) is_probe: bool,
    /// Two tries run: each answer is held, for the other one may be the client's.
    pub(in crate::proxy) races: bool,
    /// This is the second, whose answers before the answer are for nobody.
    pub(in crate::proxy) is_second: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Held {
    /// In the words of HTTP.
    pub(in crate::proxy) status: u16,
    /// What gRPC called it.
    pub(in crate::proxy) grpc: Option<u32>,
    /// Why there is no answer of the application: it saw nothing of the request, or the
    /// request is safe.
    pub(in crate::proxy) lost: Option<RefuseReason>,
    /// It was the probe of an ejected endpoint that failed, and the request is safe: its
    /// client is not to pay for the probe.
    pub(in crate::proxy) spared: bool,
    /// It is the other agent's, which had no room for the request.
    pub(in crate::proxy) is_overflow: bool,
    /// How long it wants to be left alone.
    pub(in crate::proxy) after: Option<Duration>,
}

impl Held {
    /// Its endpoint was not reached.
    pub(in crate::proxy) fn unreached(refused: &Refused) -> Self {
        Self {
            status: refused.reason.refusal().status.http,
            grpc: None,
            lost: Some(refused.reason),
            spared: false,
            is_overflow: false,
            after: None,
        }
    }

    /// Its endpoint has spoken, or the agent in front of it.
    pub(in crate::proxy) fn is_answer(&self) -> bool {
        self.lost.is_none() && self.status != 0
    }

    /// What it says of its endpoint.
    pub(in crate::proxy) fn said(&self) -> Said {
        Said {
            status: self.status,
            grpc: self.grpc,
            is_overflow: self.is_overflow,
        }
    }

    /// The upstream went away before it said anything, for no reason that another one
    /// would have too.
    pub(super) fn closed(end: Option<StreamEnd>) -> Option<Self> {
        let is_closed = match end {
            None | Some(StreamEnd::ResetByApplication | StreamEnd::Lost) => true,
            Some(StreamEnd::ResetByPeer(reason)) => reason == ResetReason::Aborted,
            Some(
                StreamEnd::Finished
                | StreamEnd::NotTaken
                | StreamEnd::Refused
                | StreamEnd::Protocol(_),
            ) => false,
        };
        is_closed.then_some(Self {
            status: 0,
            grpc: None,
            lost: Some(RefuseReason::UpstreamClosed),
            spared: false,
            is_overflow: false,
            after: None,
        })
    }
}

impl Hold {
    pub(in crate::proxy) fn of(retry: Option<&Retry>, believes: bool, is_safe: bool) -> Self {
        let is_off = retry.is_some_and(Retry::is_off);
        let asked = retry.filter(|_| !is_off);
        Self {
            codes: asked.map(|retry| retry.codes.clone()).unwrap_or_default(),
            believes: believes && !is_off,
            is_safe: is_safe && !is_off,
            is_probe: false,
            races: false,
            is_second: false,
        }
    }

    pub(in crate::proxy) fn of_probe(self, is_probe: bool) -> Self {
        Self { is_probe, ..self }
    }

    /// Of a final answer, before anything of it is passed on; `status`: in the words of
    /// HTTP, `value`: of a line of its head by the line's name.
    pub(in crate::proxy) fn held<'v>(
        &self,
        (status, grpc): (u16, Option<u32>),
        value: impl Fn(&str) -> Option<&'v [u8]>,
    ) -> Option<Held> {
        let value = |name: &str| std::str::from_utf8(value(name)?).ok();
        let lost = (self.believes && matches!(status, 502 | 503))
            .then(|| value(REASON).and_then(|label| lost(label, self.is_safe)))
            .flatten();
        let spared = self.is_probe && self.is_safe && Failure::of_answer(status, grpc).is_some();
        let is_held = self.races || lost.is_some() || spared || self.codes.contains(&status);
        is_held.then(|| Held {
            status,
            grpc,
            lost,
            spared,
            is_overflow: self.believes && value(REASON).is_some_and(says_overflow),
            after: after(&value),
        })
    }
}

impl Hold {
    /// Of two tries the one with this answer is the client's, whatever the other has.
    pub(in crate::proxy) fn will_do(&self, held: &Held) -> bool {
        let is_failure = Failure::of_answer(held.status, held.grpc).is_some();
        let is_wanted = self.codes.contains(&held.status);
        let is_own = held.lost.is_none() && !held.is_overflow;
        is_own && !held.spared && !is_failure && !is_wanted
    }
}

/// `Retry-After`, where it is a number, or what gRPC has for it: what is no time says
/// that there is to be no retry.
fn after<'v>(value: &impl Fn(&str) -> Option<&'v str>) -> Option<Duration> {
    if let Some(pushback) = value(PUSHBACK) {
        let millis = pushback.trim().parse().ok();
        return Some(millis.map_or(Duration::MAX, Duration::from_millis));
    }
    let seconds = value("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// By the word of a reason: the agent that gives it refused by a limit.
pub(in crate::proxy) fn says_overflow(label: &str) -> bool {
    let mut reasons = REFUSE_REASONS.iter().copied();
    reasons.any(|reason| reason.refusal().label == label && is_over_limit(reason))
}

/// By the word of a reason: no application was reached, or it closed before it said
/// anything and may be asked twice.
fn lost(label: &str, is_safe: bool) -> Option<RefuseReason> {
    let mut reasons = REFUSE_REASONS.iter().copied();
    reasons.find(|reason| {
        let refusal = reason.refusal();
        let is_unseen = refusal.status.http == 503;
        let may = is_unseen || (is_safe && *reason == RefuseReason::UpstreamClosed);
        refusal.label == label && refusal.retry == Help::Elsewhere && may
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_says_how_long_it_wants_to_be_left_alone() {
        let hold = Hold {
            codes: [503].into(),
            ..Hold::default()
        };
        for (name, value, after) in [
            ("retry-after", "3", Some(Duration::from_secs(3))),
            ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT", None),
            (PUSHBACK, "250", Some(Duration::from_millis(250))),
            (PUSHBACK, "-1", Some(Duration::MAX)),
            ("x", "3", None),
        ] {
            let line = |asked: &str| (asked == name).then_some(value.as_bytes());
            let held = hold.held((503, None), line).expect("it is asked for");
            assert_eq!(held.after, after, "{name}: {value}");
            assert_eq!(hold.held((500, None), line), None);
        }
    }

    #[test]
    fn an_agent_that_refuses_by_a_limit_is_known_by_its_word_where_it_is_one() {
        let of = |believes, label: &'static str| {
            let hold = Hold {
                codes: [503].into(),
                believes,
                ..Hold::default()
            };
            let reason = |name: &str| (name == REASON).then_some(label.as_bytes());
            let held = hold.held((503, None), reason).expect("it is asked for");
            (held.lost, held.said().is_overflow)
        };
        assert_eq!(of(true, "max_requests_per_pod"), (None, true));
        assert_eq!(of(true, "over_limit"), (None, true));
        assert_eq!(of(false, "max_requests_per_pod"), (None, false));
        assert_eq!(of(true, "draining"), (None, false));
        assert_eq!(of(true, "rate_limited"), (None, true), "one caller's limit");
        let lost = Some(RefuseReason::ConnectRefused);
        assert_eq!(of(true, "connect_refused"), (lost, false));
    }

    #[test]
    fn of_two_tries_each_answer_is_held_and_a_failure_will_not_do() {
        let mut hold = Hold {
            codes: [429].into(),
            believes: true,
            ..Hold::default()
        };
        let none = |_: &str| None;
        assert_eq!(hold.held((200, None), none), None);
        hold.races = true;
        for (status, will_do) in [
            (200, true),
            (304, true),
            (404, true),
            (429, false),
            (500, false),
            (501, true),
            (503, false),
        ] {
            let held = hold.held((status, None), none).expect("it is held");
            assert_eq!(hold.will_do(&held), will_do, "{status}");
        }
        for (grpc, will_do) in [(0, true), (2, true), (4, false), (14, false)] {
            let held = hold.held((500, Some(grpc)), none).expect("it is held");
            assert_eq!(hold.will_do(&held), will_do, "{grpc}");
        }
        // Another agent's word, and no application's answer; the first try may have one yet.
        hold.codes = [].into();
        for (status, label) in [(503, "connect_refused"), (429, "rate_limited")] {
            let reason = |name: &str| (name == REASON).then_some(label.as_bytes());
            let held = hold.held((status, None), reason).expect("it is held");
            assert!(!hold.will_do(&held), "{label}");
        }
    }

    #[test]
    fn a_failed_probe_is_held_where_the_request_is_safe() {
        let none = |_: &str| None;
        for (is_safe, is_probe) in [(true, true), (true, false), (false, true)] {
            let hold = Hold::of(None, true, is_safe).of_probe(is_probe);
            let held = hold.held((503, None), none);
            assert_eq!(held.is_some_and(|held| held.spared), is_safe && is_probe);
            assert_eq!(hold.held((404, None), none), None, "it works");
            // UNKNOWN is an application's own word, and no failure of its endpoint's.
            assert_eq!(hold.held((500, Some(2)), none), None);
        }
        let off = Retry {
            codes: [].into(),
            attempts: Some(0),
            backoff: None,
        };
        let hold = Hold::of(Some(&off), true, true).of_probe(true);
        assert_eq!(hold.held((503, None), none), None, "the route wants none");
    }

    #[test]
    fn only_what_reached_no_application_is_lost_and_what_is_safe_and_got_no_answer() {
        for is_safe in [true, false] {
            let refused = lost("connect_refused", is_safe);
            assert_eq!(refused, Some(RefuseReason::ConnectRefused));
            let late = lost("connect_timeout", is_safe);
            assert_eq!(late, Some(RefuseReason::ConnectTimeout));
        }
        let closed = |is_safe| lost("upstream_closed", is_safe);
        assert_eq!(closed(true), Some(RefuseReason::UpstreamClosed));
        assert_eq!(closed(false), None);
        for seen in ["request_timeout", "malformed_response", "denied", "x"] {
            assert_eq!(lost(seen, true), None, "{seen}");
        }
    }
}
