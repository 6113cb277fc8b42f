//! The certificates on the metrics page. What ends is told by its time and not
//! by what is left: only so a rule can look ahead, and a scrape that is late
//! does not change the answer.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::manager::Shared;

/// Most identities that have lines of their own.
const MAX_LABELS: usize = 1000;

/// Adds the metrics of the certificates.
pub(super) fn register(shared: &Arc<Shared>, registry: &mut Registry) {
    registry.register(
        "mesh_agent_certificate_request_duration_seconds",
        "Time that attempts to get a certificate took, in seconds: how fast the authority answers",
        shared.durations.clone(),
    );
    registry.register_collector(Box::new(Page(shared.clone())));
}

/// Made when the page is read, so that no line outlives its identity.
struct Page(Arc<Shared>);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

/// Of one identity: when its certificate ends, and when it came.
type Times = (String, f64, f64);
type Pick = fn(&Times) -> f64;

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let times = self.times();
        let families: [(&str, &str, Pick); 2] = [
            (
                "mesh_agent_certificate_expiry_timestamp_seconds",
                "End of the certificate, in seconds since 1970",
                |times| times.1,
            ),
            (
                "mesh_agent_certificate_obtained_timestamp_seconds",
                "When the certificate came, in seconds since 1970",
                |times| times.2,
            ),
        ];
        for (name, help, pick) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for times in &times {
                let labels = [("identity", &*times.0)];
                ConstGauge::new(pick(times)).encode(family.encode_family(&labels)?)?;
            }
        }
        let (good, bad) = *self.0.renewals.lock();
        let mut renewals = encoder.encode_descriptor(
            "mesh_agent_certificate_renewals",
            "Attempts to get a certificate, first ones included",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [("success", good), ("failure", bad)] {
            let labels = [("result", result)];
            ConstCounter::new(count).encode(renewals.encode_family(&labels)?)?;
        }
        self.trust(&mut encoder)
    }
}

impl Page {
    fn times(&self) -> Vec<Times> {
        let entries = self.0.entries.lock();
        let times = entries.values().filter_map(|entry| {
            let ends = entry.handle.held()?.not_after();
            let id = entry.handle.id().to_string();
            Some((id, since_1970(ends), since_1970(entry.obtained?)))
        });
        times.take(MAX_LABELS).collect()
    }

    /// Absent where there is no such thing.
    fn trust(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let trust = self.0.trust.load();
        let trust = trust.as_ref();
        let token = self.0.token.lock().map(|life| life.end());
        let ends = [
            (
                "mesh_agent_token_expiry_timestamp_seconds",
                "End of the node's join token, without which no certificate is renewed, in seconds since 1970",
                token,
            ),
            (
                "mesh_agent_root_expiry_timestamp_seconds",
                "End of the mesh's root certificate that ends first, in seconds since 1970",
                trust.and_then(|t| t.roots_end()),
            ),
            (
                "mesh_agent_crl_next_update_timestamp_seconds",
                "When the first of the revocation lists is to be replaced, in seconds since 1970",
                trust.and_then(|t| t.crl_next_update()),
            ),
        ];
        for (name, help, at) in ends {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            if let Some(at) = at {
                ConstGauge::new(since_1970(at)).encode(family)?;
            }
        }
        Ok(())
    }
}

fn since_1970(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}
