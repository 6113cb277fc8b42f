//! What every line begins with: when, where, and who talks to whom.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::super::flow::workload;
use super::super::labels::{direction, security};
use super::json::append_value;
use crate::model::{ConnectionId, Flow, ServiceKey, SpiffeId, UpstreamAddr, Workload, WorkloadKey};

#[derive(Serialize)]
pub(super) struct Parties<'a> {
    #[serde(serialize_with = "shown")]
    timestamp: humantime::Rfc3339Timestamp,
    event: &'static str,
    #[serde(flatten)]
    who: Who<'a>,
}

/// The same in all lines of one flow.
#[derive(Serialize)]
struct Who<'a> {
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
        Self {
            timestamp: humantime::format_rfc3339_millis(at),
            event,
            who: Who::of(node, flow),
        }
    }
}

impl<'a> Who<'a> {
    fn of(node: &'a str, flow: &'a Flow) -> Self {
        let (source, destination) = (workload(&flow.source), workload(&flow.destination));
        let account = |w: &'a Workload| w.service_account.as_str();
        Self {
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

/// What is the same in all lines of a flow, as text: of the last ones whose requests
/// were told, for a connection carries many.
pub(super) struct Known {
    node: Arc<str>,
    flows: Box<[Option<OfFlow>]>,
    /// The last time, in milliseconds, and as text: many lines have the same.
    stamp: (Option<u128>, String),
}

/// A flow, and its fields as text.
type OfFlow = (Arc<Flow>, Vec<u8>);

impl Known {
    /// Flows that are kept.
    const MOST: usize = 256;

    pub(super) fn new(node: Arc<str>) -> Self {
        let flows = std::iter::repeat_with(|| None).take(Self::MOST).collect();
        let stamp = (None, String::new());
        Self { node, flows, stamp }
    }

    /// Begins a line, with an object that is not closed.
    pub(super) fn begin(
        &mut self,
        out: &mut Vec<u8>,
        (at, event): (SystemTime, &'static str),
        flow: &Arc<Flow>,
    ) {
        out.extend_from_slice(br#"{"timestamp":""#);
        out.extend_from_slice(self.stamp(at).as_bytes());
        out.extend_from_slice(br#"","event":""#);
        out.extend_from_slice(event.as_bytes());
        out.extend_from_slice(br#"","#);
        out.extend_from_slice(self.who(flow));
    }

    fn stamp(&mut self, at: SystemTime) -> &str {
        let (known, text) = &mut self.stamp;
        let millis = at.duration_since(SystemTime::UNIX_EPOCH);
        let millis = millis.map_or(0, |since| since.as_millis());
        if *known != Some(millis) {
            *known = Some(millis);
            text.clear();
            // Writing to memory does not fail.
            let _written = write!(text, "{}", humantime::format_rfc3339_millis(at));
        }
        text
    }

    /// Fields without the object around them.
    fn who(&mut self, flow: &Arc<Flow>) -> &[u8] {
        // What is kept is not changed or freed: its address is its name.
        let address = Arc::as_ptr(flow) as usize as u64;
        let at = (address >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        let slot = &mut self.flows[at as usize % Self::MOST];
        let is_known = matches!(slot, Some((known, _)) if Arc::ptr_eq(known, flow));
        if !is_known {
            let mut text = Vec::new();
            append_value(&mut text, &Who::of(&self.node, flow));
            let fields = text.strip_prefix(b"{").and_then(|t| t.strip_suffix(b"}"));
            *slot = Some((flow.clone(), fields.unwrap_or_default().to_vec()));
        }
        slot.as_ref().map_or(&[], |(_, text)| text)
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
