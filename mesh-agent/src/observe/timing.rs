//! Histograms that workers fill without a lock; the page adds the workers up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::labels::{ALL_DIRECTIONS, DirectionLabel, direction};
use crate::model::Direction;

const BUCKETS: usize = 11;
/// Upper bounds in microseconds; what is longer goes to `+Inf`.
const DURATION_US: [u64; BUCKETS] = [
    1_000,
    4_000,
    16_000,
    64_000,
    256_000,
    1_000_000,
    4_000_000,
    16_000_000,
    64_000_000,
    256_000_000,
    1_024_000_000,
];
const CONNECT_US: [u64; BUCKETS] = [
    50, 150, 400, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000,
];

#[derive(Debug, Default)]
struct Histogram {
    counts: [AtomicU64; BUCKETS + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, bounds: &[u64; BUCKETS], value: Duration) {
        let us = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let bucket = bounds.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// What one worker measured, by direction.
#[derive(Debug, Default)]
pub(super) struct Timings {
    duration: [Histogram; 3],
    connect: [Histogram; 3],
}

impl Timings {
    pub(super) fn ended(
        &self,
        direction: Direction,
        duration: Duration,
        connect: Option<Duration>,
    ) {
        let index = match direction {
            Direction::Outbound => 0,
            Direction::Inbound => 1,
            Direction::SameNode => 2,
        };
        self.duration[index].observe(&DURATION_US, duration);
        if let Some(connect) = connect {
            self.connect[index].observe(&CONNECT_US, connect);
        }
    }
}

/// The timings of all workers.
#[derive(Debug, Default)]
pub(super) struct AllTimings(Mutex<Vec<Arc<Timings>>>);

impl AllTimings {
    pub(super) fn worker(&self) -> Arc<Timings> {
        let timings = Arc::<Timings>::default();
        self.0.lock().push(timings.clone());
        timings
    }
}

type Pick = fn(&Timings) -> &[Histogram; 3];

impl Collector for AllTimings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let workers = self.0.lock().clone();
        let families: [(&str, &str, _, Pick); 2] = [
            (
                "mesh_agent_connection_duration_seconds",
                "Time from accept to the end, in seconds",
                &DURATION_US,
                |t| &t.duration,
            ),
            (
                "mesh_agent_upstream_connect_seconds",
                "Time from accept until the upstream took the connection, in seconds",
                &CONNECT_US,
                |t| &t.connect,
            ),
        ];
        for (name, help, bounds, pick) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (index, way) in ALL_DIRECTIONS.into_iter().enumerate() {
                let parts = workers.iter().map(|w| &pick(w)[index]);
                let (sum, count, buckets) = total(bounds, parts);
                let labels = DirectionLabel {
                    direction: direction(way),
                };
                let mut metric = family.encode_family(&labels)?;
                metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

fn total<'a>(
    bounds: &[u64; BUCKETS],
    parts: impl Iterator<Item = &'a Histogram>,
) -> (f64, u64, Vec<(f64, u64)>) {
    let bounds = bounds.iter().map(|us| *us as f64 / 1e6);
    let mut buckets: Vec<(f64, u64)> = bounds
        .chain([f64::INFINITY])
        .map(|bound| (bound, 0))
        .collect();
    let mut sum_us = 0_u64;
    for part in parts {
        sum_us = sum_us.wrapping_add(part.sum_us.load(Ordering::Relaxed));
        for (bucket, count) in buckets.iter_mut().zip(&part.counts) {
            bucket.1 += count.load(Ordering::Relaxed);
        }
    }
    let count = buckets.iter().map(|(_, n)| n).sum();
    (sum_us as f64 / 1e6, count, buckets)
}
