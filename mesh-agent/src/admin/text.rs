//! The admin pages as text for people.

use std::fmt::Write as _;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use super::Status;
use crate::observe::{ConnectionInfo, ConnectionList};

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head.to_vec());
    table
}

/// A field as text; `-` where there is none.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(all) if all.is_empty() => "-".to_owned(),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn rows(table: &mut Table, items: &Value, fields: &[&str]) {
    for item in items.as_array().into_iter().flatten() {
        table.add_row(fields.iter().map(|f| cell(&item[*f])).collect::<Vec<_>>());
    }
}

/// For `mesh-agent status`.
#[must_use]
pub fn status(status: &Status) -> String {
    let state = match (status.ready, status.degraded || !status.problems.is_empty()) {
        (false, _) => "not ready",
        (true, true) => "ready, degraded",
        (true, false) => "ready",
    };
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _never = writeln!(text, "{name:<20}{value}");
    };
    line("node", &status.node);
    line("version", &status.version);
    line("state", &state);
    line("generation", &status.generation);
    line("policies", &status.policies);
    line("active connections", &status.active_connections);
    for problem in &status.problems {
        line("problem", problem);
    }
    let mut pods = table(&["POD", "ENROLLED", "ADDRESSES", "MESSAGE"]);
    let fields = ["pod", "enrolled", "addresses", "message"];
    rows(&mut pods, &status.pods, &fields);
    let mut identities = table(&["IDENTITY", "STATE", "EXPIRES", "LAST ERROR"]);
    let fields = ["identity", "state", "expires", "last_error"];
    rows(&mut identities, &status.identities["identities"], &fields);
    let mut kernel = table(&["KERNEL COUNTER", "VALUE"]);
    for (name, value) in status.kernel.as_object().into_iter().flatten() {
        if value.as_u64() != Some(0) {
            kernel.add_row([name.clone(), cell(value)]);
        }
    }
    for table in [pods, identities, kernel] {
        if !table.is_empty() {
            let _never = writeln!(text, "\n{}", table.trim_fmt());
        }
    }
    text
}

/// For `mesh-agent connections`.
#[must_use]
pub fn connections(list: &ConnectionList) -> String {
    let mut table = table(&[
        "ID",
        "DIRECTION",
        "SOURCE",
        "PRINCIPAL",
        "DESTINATION",
        "SECURITY",
        "RULE",
        "SENT",
        "RECEIVED",
        "AGE",
    ]);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for c in &list.connections {
        let destination = match &c.destination_workload {
            Some(workload) => format!("{workload} ({})", c.destination),
            None => c.destination.clone(),
        };
        table.add_row([
            c.id.to_string(),
            c.direction.clone(),
            c.source_workload
                .clone()
                .unwrap_or_else(|| c.client.clone()),
            or_dash(&c.source_principal),
            destination,
            security(c),
            or_dash(&c.policy),
            c.bytes_sent.to_string(),
            c.bytes_received.to_string(),
            format!("{:.0}s", c.age_seconds),
        ]);
    }
    let shown = list.connections.len();
    format!(
        "{}\n{shown} of {} connections\n",
        table.trim_fmt(),
        list.total
    )
}

fn security(connection: &ConnectionInfo) -> String {
    match &connection.tls {
        Some(tls) => format!("{} {}", connection.security, tls.group),
        None => connection.security.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_shows_pods_problems_and_only_counters_that_counted() {
        let text = status(&Status {
            node: "n1".to_owned(),
            ready: true,
            problems: vec!["no certificates".to_owned()],
            pods: serde_json::json!([{"pod": "a/b", "enrolled": true, "addresses": ["10.0.0.1"]}]),
            kernel: serde_json::json!({"refused": 3, "passed": 0}),
            ..Status::default()
        });
        for part in [
            "ready, degraded",
            "no certificates",
            "a/b",
            "10.0.0.1",
            "refused",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("passed"), "{text}");
    }
}
