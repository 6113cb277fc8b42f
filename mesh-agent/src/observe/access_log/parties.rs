//! What every line begins with: when, where, and who talks to whom.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::super::flow::workload;
use super::super::labels::{direction, security};
use crate::model::{ConnectionId, Flow, ServiceKey, SpiffeId, UpstreamAddr, Workload, WorkloadKey};

#[derive(Serialize)]
pub(super) struct Parties<'a> {
    #[serde(serialize_with = "shown")]
    timestamp: humantime::Rfc3339Timestamp,
    event: &'static str,
    node: &'a str,
    #[serde(serialize_with = "shown")]
    id: ConnectionId,
    direction: &'static str,
    #[serde(serialize_with = "shown")]
    client: SocketAddr,
    #[serde(serialize_with = "shown")]
    destination: SocketAddr,
    #[serde(serialize_with = "shown_if_some")]
    upstream: Option<UpstreamAddr>,
    #[serde(serialize_with = "shown_if_some")]
    source_workload: Option<&'a WorkloadKey>,
    source_service_account: Option<&'a str>,
    #[serde(serialize_with = "shown_if_some")]
    source_principal: Option<&'a SpiffeId>,
    #[serde(serialize_with = "shown_if_some")]
    destination_workload: Option<&'a WorkloadKey>,
    destination_service_account: Option<&'a str>,
    #[serde(serialize_with = "shown_if_some")]
    destination_principal: Option<&'a SpiffeId>,
    #[serde(serialize_with = "shown_if_some")]
    service: Option<&'a ServiceKey>,
    security: &'static str,
}

impl<'a> Parties<'a> {
    pub(super) fn of(
        node: &'a str,
        (at, event): (SystemTime, &'static str),
        flow: &'a Flow,
    ) -> Self {
        let (source, destination) = (workload(&flow.source), workload(&flow.destination));
        let account = |w: &'a Workload| w.service_account.as_str();
        Self {
            timestamp: humantime::format_rfc3339_millis(at),
            event,
            node,
            id: flow.id,
            direction: direction(flow.direction),
            client: flow.client.get(),
            destination: flow.orig_dst.get(),
            upstream: flow.upstream,
            source_workload: source.map(|w| &w.key),
            source_service_account: source.map(account),
            source_principal: flow.source_principal.as_ref(),
            destination_workload: destination.map(|w| &w.key),
            destination_service_account: destination.map(account),
            destination_principal: flow.destination_principal.as_ref(),
            service: flow.service.as_ref(),
            security: security(flow.security),
        }
    }
}

/// As `ca show` and `status` write a serial number.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(super) fn shown<T: Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(super) fn shown_if_some<T: Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}
