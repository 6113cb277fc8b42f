//! Counters of connections, one record per label set, the number of sets bounded.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::connection_labels::Connection;
use crate::model::ByteCounts;

/// Most label sets; those past it are counted as `other`.
pub(super) const MAX_SETS: usize = 10_000;
/// A full set of label sets forgets those that nobody used for this long.
const UNUSED: Duration = Duration::from_secs(600);
/// Looking for unused ones walks over all: not more often than this.
const SWEEP: Duration = Duration::from_secs(10);

/// The counters of one label set.
#[derive(Debug, Default)]
pub(super) struct Series {
    failed: AtomicU64,
    opened: AtomicU64,
    closed: AtomicU64,
    /// Bytes from servers to clients.
    sent: AtomicU64,
    /// Bytes from clients to servers.
    received: AtomicU64,
}

impl Series {
    pub(super) fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// It was not carried.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: ByteCounts) {
        self.sent.fetch_add(bytes.received, Ordering::Relaxed);
        self.received.fetch_add(bytes.sent, Ordering::Relaxed);
    }

    /// In the order of [`FAMILIES`].
    fn values(&self) -> [u64; 5] {
        let all = [
            &self.opened,
            &self.closed,
            &self.sent,
            &self.received,
            &self.failed,
        ];
        all.map(|n| n.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Known {
    series: Arc<Series>,
    asked: Instant,
}

#[derive(Debug)]
struct Sets {
    known: HashMap<Arc<Connection>, Known, foldhash::fast::RandomState>,
    swept: Option<Instant>,
}

/// All label sets of the agent; workers ask for one once and keep it.
#[derive(Debug)]
pub(super) struct SeriesSet {
    sets: Mutex<Sets>,
    max: usize,
    overflowed: AtomicU64,
}

impl SeriesSet {
    pub(super) fn new(max: usize) -> Self {
        Self {
            sets: Mutex::new(Sets {
                known: HashMap::default(),
                swept: None,
            }),
            max,
            overflowed: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self, labels: Connection, now: Instant) -> Arc<Series> {
        let sets = &mut *self.sets.lock();
        if let Some(known) = sets.known.get_mut(&labels) {
            known.asked = now;
            return known.series.clone();
        }
        if sets.known.len() >= self.max {
            sets.sweep(now);
        }
        let labels = if sets.known.len() < self.max {
            labels
        } else {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            labels.into_other()
        };
        let known = sets.known.entry(Arc::new(labels)).or_insert_with(|| Known {
            series: Arc::default(),
            asked: now,
        });
        known.asked = now;
        known.series.clone()
    }

    fn values(&self) -> Vec<(Arc<Connection>, [u64; 5])> {
        let sets = self.sets.lock();
        let values = sets.known.iter();
        values
            .map(|(labels, known)| (labels.clone(), known.series.values()))
            .collect()
    }
}

impl Sets {
    /// Forgets sets that no worker and no connection holds, and none asked for lately.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now < at + SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.known
            .retain(|_, k| Arc::strong_count(&k.series) > 1 || now < k.asked + UNUSED);
    }
}

const FAMILIES: [(&str, &str); 5] = [
    (
        "istio_tcp_connections_opened",
        "Connections that reached their upstream",
    ),
    (
        "istio_tcp_connections_closed",
        "Connections that reached their upstream and ended",
    ),
    (
        "istio_tcp_sent_bytes",
        "Application data from servers to clients, in bytes",
    ),
    (
        "istio_tcp_received_bytes",
        "Application data from clients to servers, in bytes",
    ),
    (
        "istio_tcp_connections_failed",
        "Connections that were refused or never reached their upstream, by response_flags",
    ),
];
/// Of those that are not carried; the others count only those that are.
const FAILED: usize = 4;

impl Collector for SeriesSet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let values = self.values();
        for (index, (name, help)) in FAMILIES.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            let counts = |labels: &Connection| labels.is_of_carried() == (index != FAILED);
            for (labels, values) in values.iter().filter(|(l, _)| counts(l)) {
                let mut metric = family.encode_family(&**labels)?;
                metric.encode_counter::<NoLabelSet, u64, u64>(&values[index], None)?;
            }
        }
        let mut overflowed = encoder.encode_descriptor(
            "mesh_agent_label_sets_overflowed",
            "Label sets of connections that are counted as `other`, for there are too many",
            None,
            MetricType::Counter,
        )?;
        let count = self.overflowed.load(Ordering::Relaxed);
        overflowed.encode_counter::<NoLabelSet, u64, u64>(&count, None)
    }
}
