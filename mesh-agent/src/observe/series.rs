//! Counters and histograms by label set, one record for each, the number of sets bounded.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Most label sets of a kind; those past it are counted as `other`.
pub(super) const MAX_SETS: usize = 10_000;
/// A full set of label sets forgets those that nobody used for this long.
const UNUSED: Duration = Duration::from_secs(600);
/// Looking for unused ones walks over all: not more often than this.
const SWEEP: Duration = Duration::from_secs(10);

/// Labels, and what is counted for each set of them.
pub(super) trait Labels: EncodeLabelSet + Eq + Hash + Debug + Send + Sync + 'static {
    type Counters: Default + Debug + Send + Sync + 'static;

    /// What the page shows, in this order.
    const FAMILIES: &'static [Family<Self>];
    /// Name and HELP of the counter of sets that found no place.
    const OVERFLOWED: (&'static str, &'static str);

    /// The set that counts for all that are too many.
    #[must_use]
    fn into_other(self) -> Self;
}

/// One family of the page.
pub(super) struct Family<L: Labels + ?Sized> {
    name: &'static str,
    help: &'static str,
    /// Which sets it has a value for.
    counts: fn(&L) -> bool,
    value: Value<L>,
}

enum Value<L: Labels + ?Sized> {
    Counter(fn(&L::Counters) -> u64),
    Histogram(fn(&L::Counters) -> Histogram),
}

/// Each bucket by its upper bound, and how often it alone was hit.
pub(super) struct Histogram {
    pub(super) sum: f64,
    pub(super) count: u64,
    pub(super) buckets: Vec<(f64, u64)>,
}

impl<L: Labels> Family<L> {
    pub(super) const fn counter(
        name: &'static str,
        help: &'static str,
        counts: fn(&L) -> bool,
        value: fn(&L::Counters) -> u64,
    ) -> Self {
        Self {
            name,
            help,
            counts,
            value: Value::Counter(value),
        }
    }

    pub(super) const fn histogram(
        name: &'static str,
        help: &'static str,
        value: fn(&L::Counters) -> Histogram,
    ) -> Self {
        Self {
            name,
            help,
            counts: |_| true,
            value: Value::Histogram(value),
        }
    }

    fn kind(&self) -> MetricType {
        match self.value {
            Value::Counter(_) => MetricType::Counter,
            Value::Histogram(_) => MetricType::Histogram,
        }
    }
}

#[derive(Debug)]
struct Known<C> {
    counters: Arc<C>,
    asked: Instant,
}

#[derive(Debug)]
struct Sets<L: Labels> {
    known: HashMap<Arc<L>, Known<L::Counters>, foldhash::fast::RandomState>,
    swept: Option<Instant>,
}

/// All label sets of the agent; workers ask for one once and keep it.
#[derive(Debug)]
pub(super) struct SeriesSet<L: Labels> {
    sets: Mutex<Sets<L>>,
    max: usize,
    overflowed: AtomicU64,
}

impl<L: Labels> SeriesSet<L> {
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

    pub(super) fn get(&self, labels: L, now: Instant) -> Arc<L::Counters> {
        let sets = &mut *self.sets.lock();
        if let Some(known) = sets.known.get_mut(&labels) {
            known.asked = now;
            return known.counters.clone();
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
            counters: Arc::default(),
            asked: now,
        });
        known.asked = now;
        known.counters.clone()
    }

    /// Taken under the lock, read behind it.
    fn all(&self) -> Vec<(Arc<L>, Arc<L::Counters>)> {
        let sets = self.sets.lock();
        let known = sets.known.iter();
        known
            .map(|(labels, known)| (labels.clone(), known.counters.clone()))
            .collect()
    }
}

impl<L: Labels> Sets<L> {
    /// Forgets sets that no worker and no connection holds, and none asked for lately.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|at| now < at + SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.known
            .retain(|_, k| Arc::strong_count(&k.counters) > 1 || now < k.asked + UNUSED);
    }
}

impl<L: Labels> Collector for SeriesSet<L> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sets = self.all();
        for family in L::FAMILIES {
            let (name, help) = (family.name, family.help);
            let mut metrics = encoder.encode_descriptor(name, help, None, family.kind())?;
            for (labels, counters) in sets.iter().filter(|(l, _)| (family.counts)(l)) {
                let mut metric = metrics.encode_family(&**labels)?;
                match family.value {
                    Value::Counter(value) => {
                        metric.encode_counter::<NoLabelSet, u64, u64>(&value(counters), None)?;
                    }
                    Value::Histogram(value) => {
                        let Histogram {
                            sum,
                            count,
                            buckets,
                        } = value(counters);
                        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                    }
                }
            }
        }
        let (name, help) = L::OVERFLOWED;
        let mut overflowed = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let count = self.overflowed.load(Ordering::Relaxed);
        overflowed.encode_counter::<NoLabelSet, u64, u64>(&count, None)
    }
}
