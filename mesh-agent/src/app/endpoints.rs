//! What `mesh-agent status endpoints` shows.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::admin::MAX_ROWS;
use crate::admin::endpoints::{EndpointList, EndpointRow, TransitionRow};
use crate::balance::{
    Candidates, Change, Client, Health, Kept, Phase, Portion, Reach, Standing, Transition,
};
use crate::model::traffic::OutlierDetection;
use crate::model::{Endpoint, Name, Service, ServicePort, Snapshot};

/// As the pods of this node, in this zone, see them.
pub(super) fn list(
    snapshot: &Snapshot,
    place: (&str, Option<&str>),
    (health, now): (&Health, Instant),
    clock: SystemTime,
) -> EndpointList {
    let mut rows = Vec::new();
    let (nobody, (node, zone)) = (Name::default(), place);
    let client = Client {
        pod: &nobody,
        node,
        zone,
    };
    for service in snapshot.services.values() {
        for port in &service.ports {
            let families = families((service, port), client);
            let portions = families.iter().map(|of| health.portions(of, now));
            let mut portions: HashMap<usize, Portion> = portions.flatten().collect();
            let known = health.standings(&families, now).into_iter();
            rows.extend(known.map(|(at, standing)| {
                let mut row = row((service, port), &port.endpoints[at], &standing);
                if let Some(portion) = portions.remove(&at) {
                    row.place = Some(portion.place.to_owned());
                    row.place_percent = Some(portion.percent);
                    row.place_why = Some(portion.why);
                }
                row
            }));
        }
    }
    let is_used = |row: &EndpointRow| row.next_probe_seconds.is_none();
    rows.sort_by_cached_key(|row| (is_used(row), row.service.clone(), row.endpoint.clone()));
    let total = rows.len();
    rows.truncate(MAX_ROWS);
    EndpointList {
        endpoints: rows,
        total,
        transitions: health
            .transitions()
            .iter()
            .map(|one| transition(one, now, clock))
            .collect(),
    }
}

/// `now` is `clock`.
fn transition(of: &Transition, now: Instant, clock: SystemTime) -> TransitionRow {
    let ago = now.saturating_duration_since(of.at);
    let at = clock.checked_sub(ago).unwrap_or(clock);
    let ([from, to], cause, last, lasts) = match of.change {
        Change::Ejected {
            cause,
            failure,
            lasts,
        } => (
            [Phase::Closed, Phase::Open],
            cause.label(),
            Some(failure),
            Some(lasts),
        ),
        Change::StillFailing { failure, lasts } => (
            [Phase::HalfOpen, Phase::Open],
            "probe_failed",
            Some(failure),
            Some(lasts),
        ),
        // More have to, before it is used.
        Change::Works { .. } => (
            [Phase::HalfOpen, Phase::Open],
            "probe_succeeded",
            None,
            None,
        ),
        Change::Returned => (
            [Phase::HalfOpen, Phase::Closed],
            "probe_succeeded",
            None,
            None,
        ),
    };
    TransitionRow {
        at: humantime::format_rfc3339_millis(at).to_string(),
        service: of.service.clone(),
        endpoint: of.endpoint.clone(),
        pod: of.pod.clone(),
        from: state(from).to_owned(),
        to: state(to).to_owned(),
        cause: cause.to_owned(),
        last_failure: last.map(|last| last.label().to_owned()),
        lasts_seconds: lasts.as_ref().map(Duration::as_secs_f64),
    }
}

fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Closed => "used",
        Phase::Open => "ejected",
        Phase::HalfOpen => "probed",
    }
}

/// Of a breaker that is open, and whose endpoint is used, also while a request is under way
/// that shows whether it works again.
fn state_of(standing: &Standing) -> &'static str {
    match standing.kept {
        Some(_) => "failing",
        None => state(standing.phase),
    }
}

fn used_all_the_same(kept: Kept, of: &OutlierDetection) -> String {
    let Kept { ejected, of: all } = kept;
    let percent = of.max_ejection_percent;
    format!(
        "; used all the same: {ejected} of {all} ejected, more may not be (maxEjectionPercent {percent})"
    )
}

/// Those that a client of the Service may have, of each family.
fn families<'s>(
    of: (&'s Arc<Service>, &'s ServicePort),
    client: Client<'s>,
) -> [Candidates<'s>; 2] {
    let reach = match of.0.is_local {
        true => Reach::Node,
        false => Reach::Cluster,
    };
    let families = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    families.map(|family| Candidates::new(of, (client, family), reach))
}

fn row(
    (service, port): (&Service, &ServicePort),
    endpoint: &Endpoint,
    standing: &Standing,
) -> EndpointRow {
    let pod = endpoint.workload.as_ref();
    let of = &service.traffic(port).outlier_detection;
    let why = standing.cause.map(|(cause, last)| {
        let kept = standing.kept.map(|kept| used_all_the_same(kept, of));
        let kept = kept.unwrap_or_default();
        format!("{}, the last by {}{kept}", cause.label(), last.label())
    });
    EndpointRow {
        service: format!("{}:{}", service.key, port.port),
        endpoint: endpoint.addr.to_string(),
        pod: pod.map(|pod| pod.key.to_string()),
        state: state_of(standing).to_owned(),
        why,
        since_seconds: standing.since.as_secs_f64(),
        next_probe_seconds: standing.next_probe.as_ref().map(Duration::as_secs_f64),
        probe_interval_seconds: standing.probe_interval.as_ref().map(Duration::as_secs_f64),
        latency_milliseconds: standing.latency.as_secs_f64() * 1000.0,
        in_flight: standing.in_flight,
        succeeded: standing.succeeded,
        failed: standing.failed,
        place: None,
        place_percent: None,
        place_why: None,
    }
}
