//! Waiting for conditions, reading reports.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// For what comes in a moment, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a condition; false when the deadline passes first.
pub fn eventually(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// JSON on a program's standard output.
pub fn parse(out: &Output) -> Result<serde_json::Value> {
    serde_json::from_slice(&out.stdout).with_context(|| {
        format!(
            "{}: {}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    })
}

/// Of a storm's report: all connections were whole, and went where they should.
#[track_caller]
pub fn all_fine(report: &serde_json::Value, count: u64) {
    assert_eq!(report["ok"], count, "{report}");
    assert_eq!(report["wrong"], 0, "{report}");
    assert_eq!(report["lost"], 0, "{report}");
}

/// As much as the documentation's figures need (`MESH_STREAMS=long`), or as a run of all
/// suites has time for.
#[must_use]
pub fn figure(long: &'static str, short: &'static str) -> &'static str {
    match std::env::var("MESH_STREAMS").as_deref() {
        Ok("long") => long,
        _ => short,
    }
}
