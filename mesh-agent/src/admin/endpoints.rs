//! `mesh-agent status endpoints`: how the endpoints of Services stand with this node.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Rows that are shown.
pub const MAX_ROWS: usize = 5_000;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointList {
    /// Those that are left out come first.
    pub endpoints: Vec<EndpointRow>,
    /// Of how many these are.
    pub total: usize,
}

/// One endpoint of a Service's port that pods of this node have used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// `namespace/name:port`.
    pub service: String,
    pub endpoint: String,
    /// `namespace/name`.
    pub pod: Option<String>,
    /// `used`, `ejected`, or `probed`: a request is under way that shows whether it
    /// works again.
    pub state: String,
    /// Why it is left out: the rule, and the last failure.
    pub why: Option<String>,
    pub since_seconds: f64,
    /// Until a request is sent there to see.
    pub next_probe_seconds: Option<f64>,
    /// Peak EWMA of the time to the first byte of an answer, or to the connection.
    pub latency_milliseconds: f64,
    pub in_flight: u32,
    /// Requests of the last ten seconds.
    pub succeeded: u64,
    pub failed: u64,
}

/// A line for each.
#[must_use]
pub fn text(list: &EndpointList) -> String {
    let mut text = String::new();
    if list.endpoints.is_empty() {
        text.push_str("no endpoint of a Service was used by pods of this node\n");
    }
    for row in &list.endpoints {
        let pod = row.pod.as_deref().unwrap_or("-");
        let _never = write!(
            text,
            "{}  {} ({pod})  {} for {:.1} s",
            row.service, row.endpoint, row.state, row.since_seconds
        );
        if let Some(why) = &row.why {
            let _never = write!(text, ": {why}");
        }
        if let Some(next) = row.next_probe_seconds {
            let _never = write!(text, ", next probe in {next:.1} s");
        }
        let _never = writeln!(
            text,
            "  {:.1} ms, {} in flight, {} of {} requests failed",
            row.latency_milliseconds,
            row.in_flight,
            row.failed,
            row.failed + row.succeeded
        );
    }
    let left = list.total.saturating_sub(list.endpoints.len());
    if left > 0 {
        let _never = writeln!(text, "{left} more are not shown");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_left_out_is_told_with_why_since_when_and_until_when() {
        let used = EndpointRow {
            service: "shop/web:80".to_owned(),
            endpoint: "10.0.0.1:8080".to_owned(),
            pod: Some("shop/web-1".to_owned()),
            state: "used".to_owned(),
            since_seconds: 60.0,
            latency_milliseconds: 1.25,
            in_flight: 3,
            succeeded: 10,
            ..EndpointRow::default()
        };
        let ejected = EndpointRow {
            pod: None,
            state: "ejected".to_owned(),
            why: Some("consecutive_failures, the last by status".to_owned()),
            since_seconds: 1.0,
            next_probe_seconds: Some(0.5),
            failed: 7,
            ..used.clone()
        };
        let list = EndpointList {
            endpoints: vec![ejected, used],
            total: 3,
        };
        assert_eq!(
            text(&list),
            "shop/web:80  10.0.0.1:8080 (-)  ejected for 1.0 s: consecutive_failures, the last by status, next probe in 0.5 s  1.2 ms, 3 in flight, 7 of 17 requests failed\n\
             shop/web:80  10.0.0.1:8080 (shop/web-1)  used for 60.0 s  1.2 ms, 3 in flight, 0 of 10 requests failed\n\
             1 more are not shown\n"
        );
        let none = text(&EndpointList::default());
        assert_eq!(
            none,
            "no endpoint of a Service was used by pods of this node\n"
        );
    }
}
