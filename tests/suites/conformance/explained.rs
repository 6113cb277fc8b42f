//! What `mesh-agent explain` says, beside what was met.

use serde_json::Value;

use super::NAMESPACE;
use super::asks::{Answer, Asks};

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Backend, weight, of how much; of those that have any.
pub(crate) fn shares(explained: &Value) -> Vec<(String, u64, u64)> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    rows(&explained["route"]["shares"])
        .map(|share| {
            let backend = share["backend"].as_str().unwrap_or_default();
            (
                backend.to_owned(),
                number(&share["weight"]),
                number(&share["of"]),
            )
        })
        .collect()
}

/// How the answer and the explanation differ.
pub(crate) fn differs(asks: &Asks, answer: &Answer, explained: &Value) -> Option<&'static str> {
    match answer.name() {
        Some(name) => served(asks, answer, name, explained),
        None if answer.status == 403 => denied(explained),
        None => answered(answer, explained),
    }
}

/// Some endpoint of those named answered, and each is allowed to.
fn served(asks: &Asks, answer: &Answer, name: &str, explained: &Value) -> Option<&'static str> {
    let pod = format!("{NAMESPACE}/{name}");
    if explained["verdict"] != "allowed" {
        return Some("it is not allowed");
    }
    if !rows(&explained["ways"]).any(|way| way["workload"] == pod.as_str()) {
        return Some("its server is not among the ways");
    }
    // Through a route to one backend, there is no other.
    let backends = shares(explained);
    if let [(backend, ..)] = &backends[..]
        && !backend.starts_with(&format!("{NAMESPACE}/echo:"))
        && !backend.starts_with(&format!("{pod}:"))
    {
        return Some("another backend");
    }
    let changes = rows(&explained["route"]["shares"]).flat_map(|share| rows(&share["changes"]));
    let path = answer.path().unwrap_or_default();
    let rewritten = format!("request: path {path}");
    let is_told = changes
        .filter_map(Value::as_str)
        .any(|change| change == rewritten);
    (is_told != (path != asks.path)).then_some("the path")
}

fn denied(explained: &Value) -> Option<&'static str> {
    if explained["verdict"] != "refused" {
        return Some("it is not refused");
    }
    let by_policy = |way: &Value| way["refused"] == "denied";
    (!rows(&explained["ways"]).all(by_policy)).then_some("not by a policy")
}

/// The agent itself did.
fn answered(answer: &Answer, explained: &Value) -> Option<&'static str> {
    let mut shares = rows(&explained["route"]["shares"]);
    let (Some(share), None) = (shares.next(), shares.next()) else {
        return Some("not one answer");
    };
    // Of a backend that is not there its ways tell, by the word of the answer.
    if !share["backend"].is_null() {
        let reason = answer.reason().unwrap_or("none");
        let all = rows(&explained["ways"]).all(|way| way["refused"] == reason);
        return (!all).then_some("the reason");
    }
    if share["status"] != answer.status {
        return Some("the status");
    }
    let location = answer.location().map(|to| format!("location: {to}"));
    let is_told = |line: &String| rows(&share["changes"]).any(|change| change == line.as_str());
    let is_other = location.is_some_and(|line| !is_told(&line));
    is_other.then_some("the location")
}
