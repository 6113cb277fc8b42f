//! Connections carried now, for people to look at.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::flow::workload;
use super::labels::{TlsNames, close_reason, direction, security};
use crate::model::{ByteMeter, CloseReason, ConnectionId, Flow, ResponseFlags, TlsParameters};

/// Most connections of one worker that can be listed; more are carried and counted.
const MAX_LISTED: usize = 16_384;
/// Most refused connections that a worker remembers.
const MAX_REFUSED: usize = 256;

/// What is remembered of a connection while it lives.
#[derive(Debug)]
pub(super) struct LiveConnection {
    pub(super) flow: Arc<Flow>,
    /// What became of it, as its labels say.
    pub(super) flags: ResponseFlags,
    pub(super) meter: Arc<ByteMeter>,
    /// Bytes that the series have; only the connection's own worker writes it.
    pub(super) counted: ByteMeter,
}

impl LiveConnection {
    pub(super) fn new(flow: Arc<Flow>, flags: ResponseFlags) -> Self {
        Self {
            flow,
            flags,
            meter: Arc::default(),
            counted: ByteMeter::default(),
        }
    }

    fn info(&self, refused: Option<CloseReason>) -> ConnectionInfo {
        let bytes = self.meter.get();
        let flow = &*self.flow;
        // A clock that was set back shows as no age.
        let age = flow.started.elapsed().unwrap_or_default();
        let denied_by = flow.denied_by.as_ref().map(|r| &r.policy);
        let policy = flow.rule.as_ref().map(|r| &r.policy).or(denied_by);
        ConnectionInfo {
            id: flow.id.to_string(),
            state: if refused.is_some() { REFUSED } else { OPEN }.to_owned(),
            reason: refused.map(|reason| close_reason(reason).to_owned()),
            direction: direction(flow.direction).to_owned(),
            client: flow.client.to_string(),
            destination: flow.orig_dst.to_string(),
            upstream: flow.upstream.map(|u| u.to_string()),
            source_workload: workload(&flow.source).map(|w| w.key.to_string()),
            destination_workload: workload(&flow.destination).map(|w| w.key.to_string()),
            service: flow.service.as_ref().map(ToString::to_string),
            source_principal: flow.source_principal.as_ref().map(ToString::to_string),
            destination_principal: flow.destination_principal.as_ref().map(ToString::to_string),
            security: security(flow.security).to_owned(),
            tls: flow.tls.map(TlsInfo::from),
            policy: policy.map(ToString::to_string),
            request_bytes: bytes.sent,
            response_bytes: bytes.received,
            age_seconds: age.as_secs_f64(),
        }
    }
}

/// What the handshake between the agents agreed on, by standard names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TlsInfo {
    pub(crate) version: String,
    pub(crate) group: String,
    pub(crate) cipher: String,
}

impl From<TlsParameters> for TlsInfo {
    fn from(parameters: TlsParameters) -> Self {
        let names = TlsNames::of(parameters);
        Self {
            version: names.version.to_owned(),
            group: names.group.to_owned(),
            cipher: names.cipher.to_owned(),
        }
    }
}

const OPEN: &str = "open";
const REFUSED: &str = "refused";

/// One line of `mesh-agent connections`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectionInfo {
    /// As in the access log.
    pub(crate) id: String,
    /// `open`, or `refused`: one that was not carried, lately.
    pub(crate) state: String,
    /// Why it was refused.
    pub(crate) reason: Option<String>,
    pub(crate) direction: String,
    pub(crate) client: String,
    pub(crate) destination: String,
    pub(crate) upstream: Option<String>,
    pub(crate) source_workload: Option<String>,
    pub(crate) destination_workload: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) source_principal: Option<String>,
    pub(crate) destination_principal: Option<String>,
    pub(crate) security: String,
    pub(crate) tls: Option<TlsInfo>,
    /// Of the rule that decided, here or on the destination's node.
    pub(crate) policy: Option<String>,
    /// From the client to the server, up to now.
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) age_seconds: f64,
}

/// Which connections are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionFilter {
    pub(crate) limit: usize,
    /// `namespace/name` of a pod at either end.
    pub(crate) pod: Option<String>,
    /// SPIFFE id of either end, with or without `spiffe://`.
    pub(crate) principal: Option<String>,
    /// `open` or `refused`; both where there is none.
    pub(crate) state: Option<String>,
    pub(crate) id: Option<String>,
}

impl ConnectionFilter {
    fn wants(&self, state: &str) -> bool {
        self.state.as_deref().is_none_or(|asked| asked == state)
    }

    fn takes(&self, live: &LiveConnection) -> bool {
        let flow = &*live.flow;
        let pod = |asked: &String| {
            let mut ends = [&flow.source, &flow.destination].into_iter();
            ends.any(|end| workload(end).is_some_and(|w| w.key.to_string() == *asked))
        };
        let principal = |asked: &String| {
            let mut ends = [&flow.source_principal, &flow.destination_principal].into_iter();
            ends.any(|end| {
                end.as_ref()
                    .is_some_and(|id| id.as_str() == asked || id.principal() == asked)
            })
        };
        self.pod.as_ref().is_none_or(pod)
            && self.principal.as_ref().is_none_or(principal)
            && self
                .id
                .as_ref()
                .is_none_or(|id| live.flow.id.to_string() == *id)
    }
}

/// Some of the connections that are carried now, or were refused lately, the
/// oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConnectionList {
    /// Carried now, listed or not.
    pub(crate) total: u64,
    pub(crate) connections: Vec<ConnectionInfo>,
}

type Map = HashMap<ConnectionId, Arc<LiveConnection>, foldhash::fast::RandomState>;

/// The connections of one worker. Its locks are taken by this worker, and by
/// another thread only while somebody asks for the list.
#[derive(Debug, Default)]
pub(super) struct Shard {
    live: Mutex<Map>,
    /// The last ones that were refused.
    refused: Mutex<VecDeque<(Arc<LiveConnection>, CloseReason)>>,
}

impl Shard {
    pub(super) fn insert(&self, live: &Arc<LiveConnection>) {
        let map = &mut *self.live.lock();
        if map.len() < MAX_LISTED {
            map.insert(live.flow.id, live.clone());
        }
    }

    pub(super) fn remove(&self, id: ConnectionId) {
        self.live.lock().remove(&id);
    }

    pub(super) fn refused(&self, live: Arc<LiveConnection>, reason: CloseReason) {
        let refused = &mut *self.refused.lock();
        if refused.len() >= MAX_REFUSED {
            refused.pop_front();
        }
        refused.push_back((live, reason));
    }
}

/// The connections of all workers.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Vec<Arc<Shard>>>);

impl Connections {
    pub(super) fn worker(&self) -> Arc<Shard> {
        let shard = Arc::<Shard>::default();
        self.0.lock().push(shard.clone());
        shard
    }

    pub(super) fn list(&self, filter: &ConnectionFilter) -> Vec<ConnectionInfo> {
        let shards = self.0.lock().clone();
        let mut found: Vec<(Arc<LiveConnection>, Option<CloseReason>)> = Vec::new();
        // Cloned under the lock, looked at behind it.
        for shard in shards {
            if filter.wants(OPEN) {
                found.extend(shard.live.lock().values().map(|live| (live.clone(), None)));
            }
            if filter.wants(REFUSED) {
                let refused = shard.refused.lock();
                found.extend(refused.iter().map(|(live, why)| (live.clone(), Some(*why))));
            }
        }
        found.retain(|(live, _)| filter.takes(live));
        found.sort_by_key(|(live, _)| (live.flow.started, live.flow.id));
        found.truncate(filter.limit);
        found.iter().map(|(live, why)| live.info(*why)).collect()
    }
}
