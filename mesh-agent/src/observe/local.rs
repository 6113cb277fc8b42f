//! One worker's view: counts a connection without a lock, formatting or
//! allocation of text, once it knows the connection's label set.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;

use super::access_log::{CloseRecord, Event};
use super::connections::{LiveConnection, Shard};
use super::flow;
use super::inner::{Inner, MAX_POLICIES};
use super::known_requests::KnownRequests;
use super::labels::{
    Handshake, Policy, ReasonLabels, close_reason, flags_of_refused, refuse_reason,
};
use super::tcp::{Connection, Counters};
use super::timing::Timings;
use crate::model::{
    ByteCounts, ByteMeter, CloseReason, Direction, Flow, Outcome, RefuseReason, RequestEnd,
    RequestRecord, ResponseFlags, RuleRef, TlsParameters, TlsRole,
};

/// Label sets that a worker keeps at hand; past it, it begins anew.
const MAX_KNOWN: usize = 4_096;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// One per worker thread, made there; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Rc<Worker>);

#[derive(Debug)]
struct Worker {
    inner: Arc<Inner>,
    timings: Arc<Timings>,
    shard: Arc<Shard>,
    known: RefCell<Known>,
    ended: RefCell<Map<(Direction, CloseReason), Counter>>,
    refused: RefCell<Map<(Direction, RefuseReason), Counter>>,
    handshakes: RefCell<Map<(TlsRole, TlsParameters), Counter>>,
    denied: RefCell<Map<Arc<str>, Counter>>,
    requests: RefCell<KnownRequests>,
}

#[derive(Debug, Default)]
struct Known {
    state: foldhash::fast::RandomState,
    /// Newest snapshot seen: what older ones knew is forgotten with them.
    generation: u64,
    sets: Map<u64, Set>,
}

/// A set of labels: the first flow that had it stands for all.
#[derive(Debug)]
struct Set {
    flow: Arc<Flow>,
    flags: ResponseFlags,
    series: Arc<Counters>,
}

impl Recorder {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self(Rc::new(Worker {
            timings: inner.timings.worker(),
            shard: inner.connections.worker(),
            known: RefCell::default(),
            ended: RefCell::default(),
            refused: RefCell::default(),
            handshakes: RefCell::default(),
            denied: RefCell::default(),
            requests: RefCell::default(),
            inner,
        }))
    }

    /// A connection reached its upstream. It is counted and listed as active
    /// until the guard is gone.
    #[must_use = "the connection ends when this is dropped"]
    pub(crate) fn opened(&self, flow: Arc<Flow>) -> OpenConnection {
        let worker = &*self.0;
        let series = worker.known(&flow, ResponseFlags::None);
        let live = Arc::new(LiveConnection::new(flow, ResponseFlags::None));
        series.opened();
        worker.inner.active.inc();
        worker.shard.insert(&live);
        worker.inner.log.send(&live, Event::Open);
        OpenConnection {
            worker: self.0.clone(),
            live,
            series,
            started: Instant::now(),
            ended: false,
        }
    }

    /// A handshake with another agent was finished.
    pub(crate) fn handshake(&self, role: TlsRole, parameters: TlsParameters) {
        let mut handshakes = self.0.handshakes.borrow_mut();
        let counter = handshakes.entry((role, parameters)).or_insert_with(|| {
            let labels = Handshake::of(role, parameters);
            self.0.inner.handshakes.get_or_create_owned(&labels)
        });
        counter.inc();
    }

    /// A request and its answer have ended. Cheap: a look-up, once its series is known.
    pub(crate) fn request(&self, record: &RequestRecord<'_>) {
        let worker = &*self.0;
        worker.requests.borrow_mut().count(&worker.inner, record);
        if let RequestEnd::Refused(reason, _) = record.ended {
            worker.count_refused(record.flow.direction, reason);
            if reason == RefuseReason::Denied {
                worker.count_denied(record.rule.or(record.flow.rule.as_ref()));
            }
        }
        worker.inner.log.send_request(record);
    }

    /// Is there a line for a request? Only then its text is of use.
    #[must_use]
    pub(crate) fn logs_requests(&self) -> bool {
        self.0.inner.log.is_on()
    }

    /// A connection that never reached its upstream.
    pub(crate) fn refused(&self, outcome: &Outcome) {
        let worker = &*self.0;
        worker.ended(outcome);
        let flags = flags_of_refused(outcome.reason);
        worker.known(&outcome.flow, flags).failed();
        let live = Arc::new(LiveConnection::new(outcome.flow.clone(), flags));
        live.meter.set(outcome.bytes);
        worker
            .inner
            .log
            .send(&live, Event::Close(CloseRecord::of(outcome)));
        worker.shard.refused(live, outcome.reason);
    }
}

impl Worker {
    fn known(&self, flow: &Arc<Flow>, flags: ResponseFlags) -> Arc<Counters> {
        let known = &mut *self.known.borrow_mut();
        if flow.generation > known.generation || known.sets.len() >= MAX_KNOWN {
            known.generation = known.generation.max(flow.generation);
            known.sets.clear();
        }
        let hash = flow::hash(&known.state, flow, flags);
        if let Some(set) = known.sets.get(&hash)
            && set.flags == flags
            && flow::is_alike(&set.flow, flow)
        {
            return set.series.clone();
        }
        let labels = Connection::of_tcp(flow, flags, &self.inner.cluster);
        let series = self.inner.series.get(labels, Instant::now());
        let set = Set {
            flow: flow.clone(),
            flags,
            series: series.clone(),
        };
        known.sets.insert(hash, set);
        series
    }

    fn ended(&self, outcome: &Outcome) {
        let way = outcome.flow.direction;
        self.count_end(way, outcome.reason);
        self.timings
            .ended(way, outcome.duration, outcome.connect_time);
        if outcome.reason == CloseReason::Refused(RefuseReason::Denied) {
            self.count_denied(outcome.flow.rule.as_ref());
        }
    }

    fn count_end(&self, way: Direction, reason: CloseReason) {
        let mut ended = self.ended.borrow_mut();
        let counter = ended.entry((way, reason)).or_insert_with(|| {
            let labels = ReasonLabels::new(way, close_reason(reason));
            self.inner.ended.get_or_create_owned(&labels)
        });
        counter.inc();
    }

    fn count_refused(&self, way: Direction, reason: RefuseReason) {
        let mut refused = self.refused.borrow_mut();
        let counter = refused.entry((way, reason)).or_insert_with(|| {
            let labels = ReasonLabels::new(way, refuse_reason(reason));
            self.inner.refused.get_or_create_owned(&labels)
        });
        counter.inc();
    }

    fn count_denied(&self, rule: Option<&RuleRef>) {
        let policy = match rule {
            Some(rule) => &rule.policy,
            None => &self.inner.no_policy,
        };
        let denied = &mut *self.denied.borrow_mut();
        if let Some(counter) = denied.get(policy) {
            counter.inc();
            return;
        }
        // Policies come and go with the configuration: keep what is at hand bounded too.
        if denied.len() >= MAX_POLICIES {
            denied.clear();
        }
        let labels = Policy {
            policy: self.inner.policy_label(policy),
        };
        let counter = self.inner.denied.get_or_create_owned(&labels);
        counter.inc();
        denied.insert(policy.clone(), counter);
    }
}

/// A connection that is carried now. Dropped without an outcome (its task was
/// cancelled or panicked) it ends as `internal`.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    worker: Rc<Worker>,
    live: Arc<LiveConnection>,
    series: Arc<Counters>,
    started: Instant,
    ended: bool,
}

impl OpenConnection {
    /// Where the connection's bytes are to be seen while it lives.
    #[must_use]
    pub(crate) fn meter(&self) -> Arc<ByteMeter> {
        self.live.meter.clone()
    }

    /// Bytes carried so far, from time to time: counts them, and writes a log line.
    pub(crate) fn progress(&self, total: ByteCounts) {
        self.count(total);
        let event = Event::Progress {
            bytes: total,
            duration: self.started.elapsed(),
        };
        self.worker.inner.log.send(&self.live, event);
    }

    /// The connection's end.
    pub(crate) fn closed(mut self, outcome: &Outcome) {
        self.ended = true;
        self.count(outcome.bytes);
        self.worker.ended(outcome);
        let event = Event::Close(CloseRecord::of(outcome));
        self.worker.inner.log.send(&self.live, event);
    }

    fn count(&self, total: ByteCounts) {
        self.live.meter.set(total);
        let before = self.live.counted.get();
        self.live.counted.set(total);
        let added = ByteCounts {
            sent: total.sent.saturating_sub(before.sent),
            received: total.received.saturating_sub(before.received),
        };
        if added != ByteCounts::default() {
            self.series.moved(added);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let worker = &*self.worker;
        if !self.ended {
            let reason = CloseReason::Refused(RefuseReason::Internal);
            let duration = self.started.elapsed();
            let bytes = self.live.meter.get();
            self.count(bytes);
            worker.count_end(self.live.flow.direction, reason);
            let event = Event::Close(CloseRecord {
                bytes,
                connect_time: None,
                duration,
                reason,
            });
            worker.inner.log.send(&self.live, event);
        }
        self.series.closed();
        worker.shard.remove(self.live.flow.id);
        worker.inner.active.dec();
    }
}
