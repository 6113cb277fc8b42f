//! Connections carried now, for people to look at.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::labels::{TlsNames, direction, security};
use super::who::{Who, workload};
use crate::model::{
    ByteCounts, ClientAddr, Opening, OrigDst, RuleRef, TlsParameters, UpstreamAddr,
};

/// Most connections of one worker that can be listed; more are carried and counted.
const MAX_LISTED: usize = 16_384;

/// What is remembered of a connection while it lives.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: u64,
    pub(super) who: Arc<Who>,
    pub(super) client: ClientAddr,
    pub(super) orig_dst: OrigDst,
    pub(super) upstream: Option<UpstreamAddr>,
    pub(super) tls: Option<TlsParameters>,
    pub(super) rule: Option<RuleRef>,
    pub(super) generation: u64,
    started: SystemTime,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Live {
    pub(super) fn new(opening: &Opening, who: Arc<Who>) -> Self {
        Self {
            id: opening.id,
            who,
            client: opening.client,
            orig_dst: opening.orig_dst,
            upstream: opening.upstream,
            tls: opening.tls,
            rule: opening.rule.clone(),
            generation: opening.generation,
            started: opening.started,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    pub(super) fn bytes(&self) -> ByteCounts {
        ByteCounts {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// Takes the connection's totals; gives what was added since the last time.
    /// Only the connection's own worker calls it.
    pub(super) fn advance(&self, total: ByteCounts) -> ByteCounts {
        let before = self.bytes();
        self.sent.store(total.sent, Ordering::Relaxed);
        self.received.store(total.received, Ordering::Relaxed);
        ByteCounts {
            sent: total.sent.saturating_sub(before.sent),
            received: total.received.saturating_sub(before.received),
        }
    }

    fn info(&self) -> ConnectionInfo {
        let bytes = self.bytes();
        let who = &*self.who;
        // A clock that was set back shows as no age.
        let age = self.started.elapsed().unwrap_or_default();
        ConnectionInfo {
            id: self.id,
            direction: direction(who.direction).to_owned(),
            client: self.client.to_string(),
            destination: self.orig_dst.to_string(),
            upstream: self.upstream.map(|u| u.to_string()),
            source_workload: workload(&who.source).map(|w| w.key.to_string()),
            destination_workload: workload(&who.destination).map(|w| w.key.to_string()),
            service: who.service.as_ref().map(ToString::to_string),
            source_principal: who.source_principal.as_ref().map(ToString::to_string),
            destination_principal: who.destination_principal.as_ref().map(ToString::to_string),
            security: security(who.security).to_owned(),
            tls: self.tls.map(TlsInfo::from),
            policy: self.rule.as_ref().map(|r| r.policy.to_string()),
            bytes_sent: bytes.sent,
            bytes_received: bytes.received,
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

/// One line of `mesh-agent connections`. Byte counts are those of the last
/// progress report, some seconds old at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    pub id: u64,
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
    pub policy: Option<String>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub age_seconds: f64,
}

/// Some of the connections that are carried now, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionList {
    /// Of all, listed or not.
    pub total: u64,
    pub connections: Vec<ConnectionInfo>,
}

/// The connections of one worker. Its lock is taken by this worker, and by
/// another thread only while somebody asks for the list.
#[derive(Debug, Default)]
pub(super) struct Shard(Mutex<HashMap<u64, Arc<Live>, foldhash::fast::RandomState>>);

impl Shard {
    pub(super) fn insert(&self, live: &Arc<Live>) {
        let map = &mut *self.0.lock();
        if map.len() < MAX_LISTED {
            map.insert(live.id, live.clone());
        }
    }

    pub(super) fn remove(&self, id: u64) {
        self.0.lock().remove(&id);
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

    pub(super) fn list(&self, limit: usize) -> Vec<ConnectionInfo> {
        let shards = self.0.lock().clone();
        let mut live: Vec<Arc<Live>> = Vec::new();
        for shard in shards {
            live.extend(shard.0.lock().values().cloned());
        }
        live.sort_by_key(|l| (l.started, l.id));
        live.truncate(limit);
        live.iter().map(|l| l.info()).collect()
    }
}
