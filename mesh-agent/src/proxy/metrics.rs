//! What the workers count beside connections.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::places::Full;
use super::turns::Waited;
use crate::balance::{Cause, Change};
use crate::io;

use crate::observe::Observe;

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(super) replays: Counter,
    pub(super) untaken: Counter,
    pub(super) places: Gauge,
    over_share: Family<[(&'static str, &'static str); 1], Counter>,
    pub(super) request_places: Gauge,
    requests: Gauge,
    requests_over_share: Family<[(&'static str, &'static str); 1], Counter>,
    copies: Family<[(&'static str, &'static str); 1], Counter>,
    /// The series of it.
    copied: [Counter; CopyEnd::ALL.len()],
    pub(super) copies_active: Gauge,
    held_bytes: Gauge,
    pub(super) held_limit: Gauge,
    ejections: Family<[(&'static str, &'static str); 1], Counter>,
    probes: Family<[(&'static str, &'static str); 1], Counter>,
    ejected: Gauge,
    pub(super) retries: Counter,
    pub(super) over_budget: Counter,
    hedges: Family<[(&'static str, &'static str); 1], Counter>,
    /// The series of it.
    hedged: [Counter; HedgeEnd::ALL.len()],
    faults: Family<[(&'static str, &'static str); 1], Counter>,
    /// The series of it.
    injected: [Counter; Injected::ALL.len()],
    pub(super) turns: Waited,
    pending: Pending,
    waiting: Gauge,
}

type Histograms = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// How long requests and connections waited for a place, by how that ended.
#[derive(Clone, Debug)]
struct Pending {
    family: Histograms,
    /// The series of it.
    ended: [Histogram; PendingEnd::ALL.len()],
}

impl Default for Pending {
    fn default() -> Self {
        // In seconds.
        let times: fn() -> Histogram =
            || Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 3.0, 10.0, 60.0]);
        let family = Histograms::new_with_constructor(times);
        let ended = PendingEnd::ALL.map(|end| family.get_or_create_owned(&end.label()));
        Self { family, ended }
    }
}

/// How the wait for a place at a destination ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PendingEnd {
    Placed,
    Late,
    /// Another pod's has its room.
    Displaced,
    /// The client, or the connection, was gone before.
    Left,
}

impl PendingEnd {
    const ALL: [Self; 4] = [Self::Placed, Self::Late, Self::Displaced, Self::Left];

    fn label(self) -> [(&'static str, &'static str); 1] {
        let end = match self {
            Self::Placed => "placed",
            Self::Late => "late",
            Self::Displaced => "displaced",
            Self::Left => "left",
        };
        [("end", end)]
    }
}

/// A fault that a TrafficPolicy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Injected {
    Delay,
    Abort,
}

impl Injected {
    const ALL: [Self; 2] = [Self::Delay, Self::Abort];
}

impl Metrics {
    pub(crate) fn new(observe: &Observe) -> Self {
        let mut metrics = Self::default();
        // Each series is there from the start.
        for full in [Full::Node, Full::Pod, Full::Source] {
            let _zero = metrics.over_share.get_or_create(&share(full));
            let _zero = metrics.requests_over_share.get_or_create(&share(full));
        }
        for cause in [Cause::InARow, Cause::SuccessRate] {
            let _zero = metrics.ejections.get_or_create(&[("cause", cause.label())]);
        }
        for result in ["success", "failure"] {
            let _zero = metrics.probes.get_or_create(&[("result", result)]);
        }
        metrics.injected =
            Injected::ALL.map(|kind| metrics.faults.get_or_create_owned(&kind_of(kind)));
        metrics.hedged = HedgeEnd::ALL.map(|end| {
            let of = [("end", end.name())];
            metrics.hedges.get_or_create_owned(&of)
        });
        metrics.copied = CopyEnd::ALL.map(|end| {
            let of = [("copy", end.name())];
            metrics.copies.get_or_create_owned(&of)
        });
        observe.register(|registry| metrics.register(registry));
        metrics
    }

    /// All of them: the compiler tells of one that is left out.
    fn register(&self, registry: &mut Registry) {
        let Self {
            replays,
            untaken,
            places,
            over_share,
            request_places,
            requests,
            requests_over_share,
            copies,
            copied: _,
            copies_active,
            held_bytes,
            held_limit,
            ejections,
            probes,
            ejected,
            retries,
            over_budget,
            hedges,
            hedged: _,
            faults,
            injected: _,
            turns,
            pending,
            waiting,
        } = self;
        let Waited { times, seconds } = turns;
        let Pending { family, ended: _ } = pending;
        registry.register(
            "mesh_agent_outlier_ejections",
            "Times that an endpoint was ejected because it failed, by the rule that said so; also where it is used all the same, for no more may be",
            ejections.clone(),
        );
        registry.register(
            "mesh_agent_outlier_probes",
            "Requests and connections that showed whether an ejected endpoint works again",
            probes.clone(),
        );
        registry.register(
            "mesh_agent_endpoints_ejected",
            "Endpoints whose breaker is open now: ejected, or failing and used all the same, for no more may be ejected",
            ejected.clone(),
        );
        registry.register(
            "mesh_agent_retries",
            "Requests and connections that were tried at another endpoint",
            retries.clone(),
        );
        registry.register(
            "mesh_agent_retry_budget_exhausted",
            "Retries that were not made because there had been too many for the requests",
            over_budget.clone(),
        );
        registry.register(
            "mesh_agent_hedges",
            "Second tries beside a first one that took long, by what became of them; those over_budget and nowhere were not sent",
            hedges.clone(),
        );
        registry.register(
            "mesh_agent_turns_waited",
            "Times that a pod had used its time on a worker and a task of it waited for the next turn",
            times.clone(),
        );
        registry.register(
            "mesh_agent_turn_wait_seconds",
            "Time that tasks of pods that had used theirs on a worker waited for the next turn, in seconds",
            seconds.clone(),
        );
        registry.register(
            "mesh_agent_faults_injected",
            "Faults injected into requests of pods of this node because a TrafficPolicy asks for them, by kind",
            faults.clone(),
        );
        registry.register(
            "mesh_agent_pending_seconds",
            "How long requests and connections waited for a place at a Service (maxRequests, maxConnections), in seconds, by how that ended",
            family.clone(),
        );
        registry.register(
            "mesh_agent_pending",
            "Requests and connections that wait for a place at a Service now",
            waiting.clone(),
        );
        registry.register(
            "mesh_agent_connections_limit",
            "Most connections that are carried at once; a pod or a source may have as many as are free",
            places.clone(),
        );
        registry.register(
            "mesh_agent_connections_over_share",
            "Connections refused because the node, their pod or their source had its share",
            over_share.clone(),
        );
        registry.register(
            "mesh_agent_requests_limit",
            "Most requests that are in flight at once; a pod or a source may have as many as are free",
            request_places.clone(),
        );
        registry.register(
            "mesh_agent_requests_active",
            "Requests that are in flight now, of all pods",
            requests.clone(),
        );
        registry.register(
            "mesh_agent_requests_over_share",
            "Requests answered with max_requests_per_pod because the node, their pod or their source had its share",
            requests_over_share.clone(),
        );
        registry.register(
            "mesh_agent_buffer_bytes",
            "What one side sent and the other did not take, in bytes",
            held_bytes.clone(),
        );
        registry.register(
            "mesh_agent_buffer_limit_bytes",
            "Limit of that, in bytes; towards it, connections read less at a time",
            held_limit.clone(),
        );
        registry.register(
            "mesh_agent_mirrored_requests",
            "Copies of requests that routes sent elsewhere too, by what became of them",
            copies.clone(),
        );
        registry.register(
            "mesh_agent_mirrored_requests_active",
            "Copies of requests that are under way, or wait for the end of their request",
            copies_active.clone(),
        );
        registry.register(
            "mesh_agent_tunnel_replays",
            "Streams that the other agent did not take, begun again",
            replays.clone(),
        );
        registry.register(
            "mesh_agent_http2_replays",
            "Requests that a server provably did not take (GOAWAY), sent to a fresh connection",
            untaken.clone(),
        );
    }

    /// A wait for a place at a destination begins.
    pub(super) fn waits(&self) {
        self.waiting.inc();
    }

    /// It is over.
    pub(super) fn pending(&self, end: PendingEnd, waited: Duration) {
        self.waiting.dec();
        self.pending.ended[end as usize].observe(waited.as_secs_f64());
    }

    pub(super) fn injected(&self, kind: Injected) {
        self.injected[kind as usize].inc();
    }

    pub(super) fn hedge(&self, end: HedgeEnd) {
        self.hedged[end as usize].inc();
    }

    /// A breaker has changed.
    pub(super) fn breaker(&self, change: Change) {
        match change {
            Change::Ejected { cause, .. } => {
                let by = [("cause", cause.label())];
                self.ejections.get_or_create(&by).inc();
            }
            Change::StillFailing { .. } => self.probe("failure"),
            Change::Works { .. } | Change::Returned => self.probe("success"),
        }
    }

    fn probe(&self, result: &'static str) {
        self.probes.get_or_create(&[("result", result)]).inc();
    }

    pub(super) fn over_share(&self, full: Full) {
        self.over_share.get_or_create(&share(full)).inc();
    }

    pub(super) fn requests_over_share(&self, full: Full) {
        self.requests_over_share.get_or_create(&share(full)).inc();
    }

    pub(super) fn copied(&self, end: CopyEnd) {
        self.copied[end as usize].inc();
    }

    /// Brings what is held up to date.
    pub(super) fn refresh(&self, ejected: usize, requests: usize) {
        self.ejected.set(i64::try_from(ejected).unwrap_or(i64::MAX));
        self.requests
            .set(i64::try_from(requests).unwrap_or(i64::MAX));
        let held = i64::try_from(io::held()).unwrap_or(i64::MAX);
        self.held_bytes.set(held);
    }
}

fn kind_of(injected: Injected) -> [(&'static str, &'static str); 1] {
    let kind = match injected {
        Injected::Delay => "delay",
        Injected::Abort => "abort",
    };
    [("kind", kind)]
}

fn share(full: Full) -> [(&'static str, &'static str); 1] {
    [("share", full.label())]
}

/// What became of a second try beside the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HedgeEnd {
    /// Its answer was the client's.
    Won,
    /// The first was answered before it, or the client left: it was cancelled.
    Lost,
    /// It had no answer that would do.
    Failed,
    /// There had been too many retries for the requests: it was not sent.
    OverBudget,
    /// There is no other endpoint that may be asked, or no place: it was not sent.
    Nowhere,
}

impl HedgeEnd {
    const ALL: [Self; 5] = [
        Self::Won,
        Self::Lost,
        Self::Failed,
        Self::OverBudget,
        Self::Nowhere,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Failed => "failed",
            Self::OverBudget => "over_budget",
            Self::Nowhere => "nowhere",
        }
    }
}

/// What became of the copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyEnd {
    Answered,
    /// There is no leave, or no endpoint.
    Refused,
    /// Too many were under way.
    Full,
    TooLong,
    Failed,
    TimedOut,
    /// The request itself did not go to its end, or its pod went.
    Abandoned,
}

impl CopyEnd {
    const ALL: [Self; 7] = [
        Self::Answered,
        Self::Refused,
        Self::Full,
        Self::TooLong,
        Self::Failed,
        Self::TimedOut,
        Self::Abandoned,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::TooLong => "too_long",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
        }
    }
}
