//! What `mesh-agent status endpoints` shows.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::admin::MAX_ROWS;
use crate::admin::endpoints::{EndpointList, EndpointRow, TransitionRow};
use crate::balance::{
    Candidates, Change, Client, Health, Phase, Portion, Reach, Standing, Transition,
};
use crate::model::{Endpoint, Name, Service, ServicePort, Snapshot};

/// As the pods of this node, in this zone, see them.
pub(super) fn list(
    snapshot: &Snapshot,
    place: (&str, Option<&str>),
    (health, now): (&Health, Instant),
    clock: SystemTime,
) -> EndpointList {
    let mut rows = Vec::new();
    for service in snapshot.services.values() {
        for port in &service.ports {
            let of = service.traffic(port);
            let mut portions = portions((service, port), place, (health, now));
            let known = port
                .endpoints
                .iter()
                .enumerate()
                .filter_map(|(at, endpoint)| {
                    let standing = health.standing(endpoint, of, now)?;
                    let mut row = row((service, port), endpoint, &standing);
                    if let Some(portion) = portions.remove(&at) {
                        row.place = Some(portion.place.to_owned());
                        row.place_percent = Some(portion.percent);
                        row.place_why = Some(portion.why);
                    }
                    Some(row)
                });
            rows.extend(known);
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

/// By the number of the endpoint, where one is nearer than another.
fn portions(
    (service, port): (&Arc<Service>, &ServicePort),
    (node, zone): (&str, Option<&str>),
    (health, now): (&Health, Instant),
) -> HashMap<usize, Portion> {
    let nobody = Name::default();
    let client = Client {
        pod: &nobody,
        node,
        zone,
    };
    let reach = match service.is_local {
        true => Reach::Node,
        false => Reach::Cluster,
    };
    let families = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let of = |family| {
        let candidates = Candidates::new((service, port), (client, family), reach);
        health.portions(&candidates, now)
    };
    families.into_iter().flat_map(of).collect()
}

fn row(
    (service, port): (&Service, &ServicePort),
    endpoint: &Endpoint,
    standing: &Standing,
) -> EndpointRow {
    let pod = endpoint.workload.as_ref();
    let why = standing
        .cause
        .map(|(cause, last)| format!("{}, the last by {}", cause.label(), last.label()));
    EndpointRow {
        service: format!("{}:{}", service.key, port.port),
        endpoint: endpoint.addr.to_string(),
        pod: pod.map(|pod| pod.key.to_string()),
        state: state(standing.phase).to_owned(),
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
