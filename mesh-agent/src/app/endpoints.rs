//! What `mesh-agent status endpoints` shows.

use std::time::{Duration, Instant};

use crate::admin::endpoints::{EndpointList, EndpointRow, MAX_ROWS};
use crate::balance::{Health, Phase, Standing};
use crate::model::{Endpoint, Service, ServicePort, Snapshot};

pub(super) fn list(snapshot: &Snapshot, health: &Health, now: Instant) -> EndpointList {
    let mut rows = Vec::new();
    for service in snapshot.services.values() {
        for port in &service.ports {
            let of = service.traffic(port);
            let known = port.endpoints.iter().filter_map(|endpoint| {
                let standing = health.standing(endpoint, of, now)?;
                Some(row((service, port), endpoint, &standing))
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
    }
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
        state: match standing.phase {
            Phase::Closed => "used",
            Phase::Open => "ejected",
            Phase::HalfOpen => "probed",
        }
        .to_owned(),
        why,
        since_seconds: standing.since.as_secs_f64(),
        next_probe_seconds: standing.next_probe.as_ref().map(Duration::as_secs_f64),
        latency_milliseconds: standing.latency.as_secs_f64() * 1000.0,
        in_flight: standing.in_flight,
        succeeded: standing.succeeded,
        failed: standing.failed,
    }
}
