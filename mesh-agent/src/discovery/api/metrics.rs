//! The API as the source, on the metrics page.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::status::{Watched, WatchedKind};
use crate::kube::{Phase, Seen};

impl Watched {
    /// Adds its metrics.
    pub(crate) fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Page(self.clone())));
    }
}

/// Made when the page is read.
struct Page(Arc<Watched>);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

type Row<'p> = (&'p WatchedKind, Seen);
type Count = fn(&Row<'_>) -> u64;
type Gauge = fn(&Row<'_>) -> f64;

const GAUGES: [(&str, &str, Gauge); 3] = [
    (
        "mesh_agent_api_objects",
        "Objects of the Kubernetes API that are known, by kind",
        |(kind, _)| kind.row().objects as f64,
    ),
    (
        "mesh_agent_api_watching",
        "Whether changes of the kind are told by the API server: 1, or 0 where it is being listed, or cannot be; 1 as well where it is not installed",
        |(_, seen)| {
            f64::from(u8::from(matches!(
                seen.phase,
                Phase::Watching | Phase::Absent
            )))
        },
    ),
    (
        "mesh_agent_api_heard_timestamp_seconds",
        "When the API server was last heard of the kind, also that nothing has changed, in seconds since 1970",
        |(_, seen)| {
            let heard = seen
                .heard
                .and_then(|heard| heard.duration_since(UNIX_EPOCH).ok());
            heard.unwrap_or_default().as_secs_f64()
        },
    ),
];

const COUNTERS: [(&str, &str, Count); 2] = [
    (
        "mesh_agent_api_events",
        "Changes that the API server told, by kind",
        |(_, seen)| seen.events,
    ),
    (
        "mesh_agent_api_lists",
        "Whole lists that were taken from the API server, by kind: one at the start, more where changes were lost",
        |(_, seen)| seen.lists,
    ),
];

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let kinds = self.0.kinds.iter();
        let rows: Vec<Row<'_>> = kinds.map(|kind| (kind, kind.progress.seen())).collect();
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for row in &rows {
                let labels = [("kind", row.0.resource.kind)];
                ConstGauge::new(value(row)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for row in &rows {
                let labels = [("kind", row.0.resource.kind)];
                ConstCounter::new(value(row)).encode(family.encode_family(&labels)?)?;
            }
        }
        self.faults(&rows, &mut encoder)?;
        self.copy(&mut encoder)
    }
}

impl Page {
    fn faults(
        &self,
        rows: &[Row<'_>],
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "mesh_agent_api_faults",
            "Calls to the API server that came to nothing, by kind and what went wrong",
            None,
            MetricType::Counter,
        )?;
        for (kind, seen) in rows {
            for (reason, count) in WatchedKind::faults(seen) {
                let labels = [("kind", kind.resource.kind), ("fault", reason)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn copy(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.state();
        let age = encoder.encode_descriptor(
            "mesh_agent_configuration_from_disk_age_seconds",
            "Age of the configuration in force, in seconds, as long as it is from disk because the API server did not answer at the start; else 0",
            None,
            MetricType::Gauge,
        )?;
        let seconds = state.from_disk_age_seconds.unwrap_or_default();
        ConstGauge::new(seconds as f64).encode(age)?;
        let works = encoder.encode_descriptor(
            "mesh_agent_configuration_copy_works",
            "Whether what is known of the API is kept on disk for a start without it: 1, or 0",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::from(state.copy.is_none())).encode(works)
    }
}

/// All of its metrics, for the reference.
#[cfg(test)]
pub(crate) fn reference(registry: &mut Registry) {
    let resources = super::resources::served();
    let cluster = crate::kube::Cluster {
        server: "https://10.96.0.1/".to_owned(),
        roots: Vec::new(),
    };
    Arc::new(Watched::new(cluster.into(), &resources)).register(registry);
}
