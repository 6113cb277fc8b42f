//! `mesh-agent status endpoints`: how the endpoints of Services stand with this node.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::listed;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointList {
    /// Those that are ejected or failing come first.
    pub(crate) endpoints: Vec<EndpointRow>,
    /// Of how many these are.
    pub(crate) total: usize,
    /// Ejections, failed probes and returns of late, the newest first: at most 256, also of
    /// endpoints that are gone.
    #[serde(default)]
    pub(crate) transitions: Vec<TransitionRow>,
}

/// A change of an endpoint's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TransitionRow {
    /// RFC 3339, UTC.
    pub(crate) at: String,
    /// `namespace/name`.
    pub(crate) service: String,
    pub(crate) endpoint: String,
    /// `namespace/name`.
    pub(crate) pod: Option<String>,
    /// As the states of endpoints.
    pub(crate) from: String,
    pub(crate) to: String,
    /// `consecutive_failures`, `success_rate`, `probe_failed`, `probe_succeeded`.
    pub(crate) cause: String,
    /// The failure behind it.
    pub(crate) last_failure: Option<String>,
    /// For how long it is left out.
    pub(crate) lasts_seconds: Option<f64>,
}

/// One endpoint of a Service's port that pods of this node have used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointRow {
    /// `namespace/name:port`.
    pub(crate) service: String,
    pub(crate) endpoint: String,
    /// `namespace/name`.
    pub(crate) pod: Option<String>,
    /// `used`; `ejected`; `probed`: ejected, and a request is under way that shows whether it
    /// works again; or `failing`: as one that is ejected, and used all the same, for of this
    /// Service no more may be.
    pub(crate) state: String,
    /// Why it is not `used`: the rule, the last failure, and of one that is `failing` why it is
    /// not ejected.
    pub(crate) why: Option<String>,
    pub(crate) since_seconds: f64,
    /// Until a request is sent there to see.
    pub(crate) next_probe_seconds: Option<f64>,
    /// How long it is left alone between two of these, at least; up to half as much is added.
    #[serde(default)]
    pub(crate) probe_interval_seconds: Option<f64>,
    /// Peak EWMA of the time to the first byte of an answer, or to the connection.
    pub(crate) latency_milliseconds: f64,
    pub(crate) in_flight: u32,
    /// Requests of the last ten seconds.
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// `node`, `zone` or `farther`, where some are nearer than others.
    #[serde(default)]
    pub(crate) place: Option<String>,
    /// Of the requests of this node's pods, by its place; how they are balanced among those
    /// that are as near comes on top.
    #[serde(default)]
    pub(crate) place_percent: Option<f64>,
    #[serde(default)]
    pub(crate) place_why: Option<String>,
}

/// A line for each. `wide` also for what changed of late.
#[must_use]
pub(crate) fn text(list: &EndpointList, wide: bool) -> String {
    let none = "no endpoint of a Service was used by pods of this node\n";
    let mut text = listed::text(&list.endpoints, list.total, none, line);
    for row in list.transitions.iter().filter(|_| wide) {
        transition(&mut text, row);
    }
    text
}

fn transition(text: &mut String, row: &TransitionRow) {
    let pod = row.pod.as_deref().unwrap_or("-");
    let _never = write!(
        text,
        "{}  {}  {} ({pod})  {} -> {}: {}",
        row.at, row.service, row.endpoint, row.from, row.to, row.cause
    );
    if let Some(last) = &row.last_failure {
        let _never = write!(text, ", the last by {last}");
    }
    if let Some(lasts) = row.lasts_seconds {
        let _never = write!(text, ", for {lasts:.1} s");
    }
    text.push('\n');
}

fn line(text: &mut String, row: &EndpointRow) {
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
    if let Some(interval) = row.probe_interval_seconds {
        let _never = write!(text, " (interval {interval:.0} s)");
    }
    let _never = write!(
        text,
        "  {:.1} ms, {} in flight, {} of {} requests failed",
        row.latency_milliseconds,
        row.in_flight,
        row.failed,
        row.failed + row.succeeded
    );
    if let (Some(place), Some(percent)) = (&row.place, row.place_percent) {
        let why = row.place_why.as_deref().unwrap_or_default();
        let _never = write!(text, "  {place}: {percent:.0} % ({why})");
    }
    text.push('\n');
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
            place: Some("zone".to_owned()),
            place_percent: Some(35.2),
            place_why: Some("preferred, and 2 of 4 work".to_owned()),
            ..EndpointRow::default()
        };
        let ejected = EndpointRow {
            pod: None,
            state: "ejected".to_owned(),
            why: Some("consecutive_failures, the last by status".to_owned()),
            since_seconds: 1.0,
            next_probe_seconds: Some(0.5),
            probe_interval_seconds: Some(1.0),
            failed: 7,
            place: None,
            ..used.clone()
        };
        let list = EndpointList {
            endpoints: vec![ejected, used],
            total: 3,
            transitions: vec![TransitionRow::default()],
        };
        assert_eq!(
            text(&list, false),
            "shop/web:80  10.0.0.1:8080 (-)  ejected for 1.0 s: consecutive_failures, the last by status, next probe in 0.5 s (interval 1 s)  1.2 ms, 3 in flight, 7 of 17 requests failed\n\
             shop/web:80  10.0.0.1:8080 (shop/web-1)  used for 60.0 s  1.2 ms, 3 in flight, 0 of 10 requests failed  zone: 35 % (preferred, and 2 of 4 work)\n\
             1 more are not shown\n"
        );
        let none = text(&EndpointList::default(), true);
        assert_eq!(
            none,
            "no endpoint of a Service was used by pods of this node\n"
        );
    }

    #[test]
    fn what_changed_of_late_is_told_with_its_cause_where_it_is_asked_for() {
        let failed = TransitionRow {
            at: "2026-01-02T03:04:05Z".to_owned(),
            service: "shop/web".to_owned(),
            endpoint: "10.0.0.1:8080".to_owned(),
            pod: Some("shop/web-1".to_owned()),
            from: "used".to_owned(),
            to: "ejected".to_owned(),
            cause: "consecutive_failures".to_owned(),
            last_failure: Some("status".to_owned()),
            lasts_seconds: Some(1.25),
        };
        let back = TransitionRow {
            from: "probed".to_owned(),
            to: "used".to_owned(),
            cause: "probe_succeeded".to_owned(),
            pod: None,
            last_failure: None,
            lasts_seconds: None,
            ..failed.clone()
        };
        let list = EndpointList {
            transitions: vec![back, failed],
            ..EndpointList::default()
        };
        let told = text(&list, true);
        let lines: Vec<_> = told.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "2026-01-02T03:04:05Z  shop/web  10.0.0.1:8080 (-)  probed -> used: probe_succeeded",
                "2026-01-02T03:04:05Z  shop/web  10.0.0.1:8080 (shop/web-1)  used -> ejected: consecutive_failures, the last by status, for 1.2 s",
            ]
        );
    }
}
