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
pub(super) struct Live {
    pub(super) flow: Arc<Flow>,
    /// What became of it, as its labels say.
    pub(super) flags: ResponseFlags,
    pub(super) meter: Arc<ByteMeter>,
    /// Bytes that the series have; only the connection's own worker writes it.
    pub(super) counted: ByteMeter,
}

impl Live {
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
pub struct TlsInfo {
    pub version: String,
    pub group: String,
    pub cipher: String,
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
pub struct ConnectionInfo {
    /// As in the access log.
    pub id: String,
    /// `open`, or `refused`: one that was not carried, lately.
    pub state: String,
    /// Why it was refused.
    pub reason: Option<String>,
    pub direction: String,
    pub client: String,
    pub destination: String,
    pub upstream: Option<String>,
    pub source_workload: Option<String>,
    pub destination_workload: Option<String>,
    pub service: Option<String>,
    pub source_principal: Option<String>,
    pub destination_principal: Option<String>,
    pub security: String,
    pub tls: Option<TlsInfo>,
    /// Of the rule that decided, here or on the destination's node.
    pub policy: Option<String>,
    /// From the client to the server, up to now.
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub age_seconds: f64,
}

/// Which connections are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionFilter {
    pub limit: usize,
    /// `namespace/name` of a pod at either end.
    pub pod: Option<String>,
    /// SPIFFE id of either end, with or without `spiffe://`.
    pub principal: Option<String>,
    /// `open` or `refused`; both where there is none.
    pub state: Option<String>,
    pub id: Option<String>,
}

impl ConnectionFilter {
    fn wants(&self, state: &str) -> bool {
        self.state.as_deref().is_none_or(|asked| asked == state)
    }

    fn takes(&self, live: &Live) -> bool {
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
pub struct ConnectionList {
    /// Carried now, listed or not.
    pub total: u64,
    pub connections: Vec<ConnectionInfo>,
}

type Map = HashMap<ConnectionId, Arc<Live>, foldhash::fast::RandomState>;

/// The connections of one worker. Its locks are taken by this worker, and by
/// another thread only while somebody asks for the list.
#[derive(Debug, Default)]
pub(super) struct Shard {
    live: Mutex<Map>,
    /// The last ones that were refused.
    refused: Mutex<VecDeque<(Arc<Live>, CloseReason)>>,
}

impl Shard {
    pub(super) fn insert(&self, live: &Arc<Live>) {
        let map = &mut *self.live.lock();
        if map.len() < MAX_LISTED {
            map.insert(live.flow.id, live.clone());
        }
    }

    pub(super) fn remove(&self, id: ConnectionId) {
        self.live.lock().remove(&id);
    }

    pub(super) fn refused(&self, live: Arc<Live>, reason: CloseReason) {
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
        let mut found: Vec<(Arc<Live>, Option<CloseReason>)> = Vec::new();
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
