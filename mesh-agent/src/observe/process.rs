//! What the agent's own process uses, under the names that every exporter has.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::sys::process;

/// Read at each scrape; what cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = match process::usage() {
            Ok(usage) => usage,
            Err(error) => {
                tracing::warn!(%error, "cannot read the process's own usage");
                return Ok(());
            }
        };
        encoder
            .encode_descriptor(
                "process_cpu_seconds",
                "User and system CPU time, in seconds",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, f64, f64>(&usage.cpu.as_secs_f64(), None)?;
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Resident memory, in bytes",
                usage.resident_bytes as f64,
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                usage.open_fds as f64,
            ),
            (
                "process_max_fds",
                "Limit of open file descriptors",
                usage.max_fds as f64,
            ),
            (
                "process_threads",
                "Threads of the process",
                usage.threads as f64,
            ),
            (
                "process_start_time_seconds",
                "Start of the process, in seconds since 1970",
                usage.started.as_secs_f64(),
            ),
        ];
        for (name, help, value) in gauges {
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
        Ok(())
    }
}
