//! How long things may take: what a route says of a request, and behind it what the
//! TrafficPolicy of the Service that it goes to says.

use std::time::{Duration, Instant};

use crate::model::http_route::Longest;
use crate::model::{RefuseReason, Refused, http_route, traffic};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// Of the whole exchange, with all its attempts.
    pub(super) request: Option<Duration>,
    /// Of each attempt.
    pub(super) attempt: Option<Duration>,
    /// Instead of the agent's own.
    pub(super) idle: Option<Duration>,
    /// Beside the agent's own.
    pub(super) connect: Option<Duration>,
}

impl Times {
    pub(super) fn of(policy: traffic::Timeouts) -> Self {
        let traffic::Timeouts {
            connect,
            idle,
            request,
        } = policy;
        Self {
            request,
            attempt: None,
            idle,
            connect,
        }
    }

    /// A route's own wins, also where it says that there is none.
    pub(super) fn by_route(self, route: http_route::Timeouts) -> Self {
        let http_route::Timeouts {
            request,
            backend_request,
        } = route;
        Self {
            request: request.map_or(self.request, Longest::time),
            attempt: backend_request,
            ..self
        }
    }

    /// When an exchange that began then has to be over.
    pub(super) fn whole(&self, began: Instant) -> Option<Instant> {
        self.request.map(|longest| began + longest)
    }

    /// When an attempt that begins now has to be over.
    pub(super) fn ends(&self, began: Instant, now: Instant) -> Option<Instant> {
        let one = self.attempt.map(|longest| now + longest);
        [self.whole(began), one].into_iter().flatten().min()
    }
}

/// What is not connected within that time is not reached.
pub(super) async fn connected<T>(
    within: Option<Duration>,
    connecting: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    match within {
        None => connecting.await,
        Some(within) => tokio::time::timeout(within, connecting)
            .await
            .unwrap_or(Err(RefuseReason::ConnectTimeout.into())),
    }
}

/// What is not there before a try is over is late.
pub(super) async fn in_time<T>(
    ends: Option<Instant>,
    connecting: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    match ends {
        None => connecting.await,
        Some(ends) => tokio::time::timeout_at(ends.into(), connecting)
            .await
            .unwrap_or(Err(RefuseReason::RequestTimeout.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> Times {
        Times::of(traffic::Timeouts {
            connect: Some(SECOND),
            idle: Some(2 * SECOND),
            request: Some(3 * SECOND),
        })
    }

    #[test]
    fn a_policy_holds_where_a_route_says_nothing_else() {
        let silent = policy().by_route(http_route::Timeouts::default());
        assert_eq!(silent, policy());
        let own = policy().by_route(http_route::Timeouts {
            request: Some(Longest::Within(9 * SECOND)),
            backend_request: Some(SECOND),
        });
        assert_eq!((own.request, own.attempt), (Some(9 * SECOND), Some(SECOND)));
        assert_eq!((own.idle, own.connect), (policy().idle, policy().connect));
        let endless = policy().by_route(http_route::Timeouts {
            request: Some(Longest::Endless),
            ..http_route::Timeouts::default()
        });
        assert_eq!(endless.request, None, "the route switched it off");
    }

    #[test]
    fn nothing_ends_where_nobody_says_so() {
        let (began, now) = (Instant::now(), Instant::now() + SECOND);
        assert_eq!(Times::default().ends(began, now), None);
        assert_eq!(policy().ends(began, now), Some(began + 3 * SECOND));
        let attempts = Times {
            attempt: Some(SECOND),
            ..policy()
        };
        assert_eq!(attempts.ends(began, now), Some(now + SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_connect_in_time_is_not_reached() {
        let never = std::future::pending::<Result<(), Refused>>();
        let late = connected(Some(SECOND), never).await.expect_err("late");
        assert_eq!(late.reason, RefuseReason::ConnectTimeout);
        let there = connected(None, async { Ok(5) }).await.expect("there");
        assert_eq!(there, 5);
    }
}
