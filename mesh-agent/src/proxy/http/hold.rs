//! Answers that are not passed on at once, for the request may go elsewhere.

use std::time::Duration;

use crate::http::answer::REASON;
use crate::http::h1::Response;
use crate::model::http_route::Retry;
use crate::model::{REFUSE_REASONS, RefuseReason, Retry as Help};

/// Which ones these are.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Hold {
    /// What the route's retries are for.
    pub(in crate::proxy) codes: Box<[u16]>,
    /// The other agent is believed that its application saw nothing.
    pub(in crate::proxy) believes: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Held {
    pub(in crate::proxy) status: u16,
    /// Why the other agent did not reach its application, which saw nothing.
    pub(in crate::proxy) unseen: Option<RefuseReason>,
    /// `Retry-After`, where it is a number.
    pub(in crate::proxy) after: Option<Duration>,
}

impl Hold {
    pub(in crate::proxy) fn of(retry: Option<&Retry>, believes: bool) -> Self {
        let is_off = retry.is_some_and(Retry::is_off);
        let asked = retry.filter(|_| !is_off);
        Self {
            codes: asked.map(|retry| retry.codes.clone()).unwrap_or_default(),
            believes: believes && !is_off,
        }
    }

    pub(super) fn held(&self, response: &Response<'_>) -> Option<Held> {
        if response.informational {
            return None;
        }
        let status = response.status;
        let value = |name: &str| {
            let mut lines = response.headers.iter();
            let line = lines.find(|line| line.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(line.value).ok()
        };
        let unseen = (self.believes && status == 503)
            .then(|| value(REASON).and_then(unseen))
            .flatten();
        let is_held = unseen.is_some() || self.codes.contains(&status);
        is_held.then(|| Held {
            status,
            unseen,
            after: value("retry-after")
                .and_then(|text| text.trim().parse().ok())
                .map(Duration::from_secs),
        })
    }
}

/// By the word of a reason: no application was reached.
fn unseen(label: &str) -> Option<RefuseReason> {
    let mut reasons = REFUSE_REASONS.iter().copied();
    reasons.find(|reason| {
        let refusal = reason.refusal();
        refusal.label == label && refusal.retry == Help::Elsewhere && refusal.status.http == 503
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reached_no_application_is_taken_for_unseen() {
        assert_eq!(
            unseen("connect_refused"),
            Some(RefuseReason::ConnectRefused)
        );
        assert_eq!(
            unseen("connect_timeout"),
            Some(RefuseReason::ConnectTimeout)
        );
        for seen in [
            "upstream_closed",
            "request_timeout",
            "malformed_response",
            "denied",
            "x",
        ] {
            assert_eq!(unseen(seen), None, "{seen}");
        }
    }
}
