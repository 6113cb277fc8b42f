//! The series of requests that a worker has at hand: found without a lock,
//! formatting or allocation once the label set is known.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Instant;

use super::flow;
use super::inner::Inner;
use super::requests::{Counters, Kind, Request};
use crate::model::{Flow, RequestRecord, ResponseFlags};

/// As for connections: past it, a worker begins anew.
const MAX_KNOWN: usize = 4_096;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
pub(super) struct KnownRequests {
    state: foldhash::fast::RandomState,
    /// Newest snapshot seen: what older ones knew is forgotten with them.
    generation: u64,
    /// By connection and route: each is kept alive here, so that its address is its own.
    exact: Map<Exact, KnownSeries>,
    /// By all that decides on the labels.
    alike: Map<u64, KnownSeries>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Exact {
    flow: *const Flow,
    route: Option<*const u8>,
    kind: Kind,
}

#[derive(Clone, Debug)]
struct KnownSeries {
    flow: Arc<Flow>,
    route: Option<Arc<str>>,
    kind: Kind,
    series: Arc<Counters>,
}

impl KnownSeries {
    fn is_of(&self, record: &RequestRecord<'_>, kind: Kind) -> bool {
        let route = record.route.map(|route| &route.route);
        self.kind == kind && self.route.as_ref() == route && flow::is_alike(&self.flow, record.flow)
    }
}

impl KnownRequests {
    pub(super) fn count(&mut self, inner: &Inner, record: &RequestRecord<'_>) {
        let kind = Kind::of(record);
        let generation = record.flow.generation;
        let is_full = self.exact.len().max(self.alike.len()) >= MAX_KNOWN;
        if generation > self.generation || is_full {
            self.generation = self.generation.max(generation);
            self.exact.clear();
            self.alike.clear();
        }
        let exact = Exact {
            flow: Arc::as_ptr(record.flow),
            route: record.route.map(|route| route.route.as_ptr()),
            kind,
        };
        if let Some(entry) = self.exact.get(&exact) {
            entry.series.count(record);
            return;
        }
        let entry = KnownSeries {
            flow: record.flow.clone(),
            ..self.alike(inner, record, kind)
        };
        entry.series.count(record);
        self.exact.insert(exact, entry);
    }

    fn alike(&mut self, inner: &Inner, record: &RequestRecord<'_>, kind: Kind) -> KnownSeries {
        let route = record.route.map(|route| route.route.clone());
        let mut hasher = self.state.build_hasher();
        flow::hash(&self.state, record.flow, ResponseFlags::None).hash(&mut hasher);
        (kind, &route).hash(&mut hasher);
        let hash = hasher.finish();
        if let Some(entry) = self.alike.get(&hash)
            && entry.is_of(record, kind)
        {
            return KnownSeries {
                // Of this record, whose address the caller keeps.
                route,
                ..entry.clone()
            };
        }
        let label = route.clone().unwrap_or_else(|| inner.no_policy.clone());
        let label = inner.route_label.then_some(label);
        let labels = Request::of(record, kind, label, &inner.cluster);
        let entry = KnownSeries {
            flow: record.flow.clone(),
            route,
            kind,
            series: inner.requests.get(labels, Instant::now()),
        };
        self.alike.insert(hash, entry.clone());
        entry
    }
}
