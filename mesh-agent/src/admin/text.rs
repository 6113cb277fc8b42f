//! The admin pages as text for people.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use mesh_common::counter::Counter;
use serde_json::Value;

use super::{LeftAlone, Problem, Status};
use crate::observe::explanation::{
    DryRun, EndpointPath, Explanation, Policy, Routed, Side, Verdict,
};
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

/// For `mesh-agent status`: the state, what is wrong, then what there is; with
/// `wide` also what the kernel counted.
#[must_use]
pub(crate) fn status(status: &Status, wide: bool, now: SystemTime) -> String {
    let state = match (status.ready, status.degraded || !status.problems.is_empty()) {
        (false, _) => "not ready",
        (true, true) => "ready, degraded",
        (true, false) => "ready",
    };
    let mut text = String::new();
    line(&mut text, "node", &status.node);
    line(&mut text, "version", &status.version);
    line(&mut text, "state", &state);
    for problem in &status.problems {
        one_problem(&mut text, problem, now);
    }
    text.push('\n');
    let configuration = format!(
        "{} (change {} since the start)",
        status.configuration, status.generation
    );
    line(&mut text, "configuration", &configuration);
    if let Some(source) = source(status) {
        line(&mut text, "source", &source);
    }
    line(&mut text, "connections", &status.active_connections);
    line(&mut text, "requests", &status.active_requests);
    if let Some(plugin) = &status.cni_plugin {
        line(&mut text, "CNI plugin", plugin);
    }
    if let Some(left) = status.identities["token"]["expires_in_seconds"].as_i64() {
        line(&mut text, "join token", &format!("ends {}", ends(left)));
    }
    let mut tables = vec![
        kinds(status, now),
        pods(status),
        left_alone(status),
        identities(status),
        policies(status),
    ];
    if wide {
        tables.push(kernel(status));
    }
    for table in tables {
        if !table.is_empty() {
            let _never = writeln!(text, "\n{}", table.trim_fmt());
        }
    }
    let told = status.left_alone.iter().filter(|pod| is_asked_about(pod));
    let untold = status.left_alone_total.saturating_sub(told.count());
    if untold > 0 {
        let _never = writeln!(
            text,
            "{untold} pods of this node without the label mesh-agent.io/enrolled are left alone"
        );
    }
    let left = status.policies_total.saturating_sub(status.policies.len());
    if left > 0 {
        let _never = writeln!(text, "{left} more policies are not shown");
    }
    text
}

fn one_problem(text: &mut String, problem: &Problem, now: SystemTime) {
    text.push('\n');
    line(text, "problem", &problem.what);
    for (name, words) in [("  effect", &problem.effect), ("  to do", &problem.remedy)] {
        if !words.is_empty() {
            line(text, name, words);
        }
    }
    line(text, "  since", &ago(problem.since, now));
}

/// Of a time in seconds since 1970.
fn ago(since: u64, now: SystemTime) -> String {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
    let passed = now.duration_since(since).unwrap_or_default();
    match passed.as_secs() {
        0 => "now".to_owned(),
        seconds => rough(seconds),
    }
}

/// A time span with its two largest units: `23m 10s`, `2h 5m`.
fn rough(seconds: u64) -> String {
    let unit = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    let whole = Duration::from_secs(seconds / unit * unit);
    humantime::format_duration(whole).to_string()
}

fn pods(status: &Status) -> Table {
    let columns = [
        ("POD", "pod"),
        ("ENROLLED", "enrolled"),
        ("ADDRESSES", "addresses"),
        ("CONNECTIONS", "connections"),
        ("REQUESTS", "requests"),
        ("IDENTITY", "identity"),
    ];
    let mut pods = table(&columns.map(|(head, _)| head));
    rows(&mut pods, &status.pods, &columns.map(|(_, field)| field));
    pods
}

/// Of those that nobody asked for their number, which is told below.
fn left_alone(status: &Status) -> Table {
    let mut pods = table(&["LEFT ALONE", "REASON", "WHY"]);
    for pod in status.left_alone.iter().filter(|pod| is_asked_about(pod)) {
        pods.add_row([&pod.pod, &pod.reason, &pod.message]);
    }
    pods
}

fn is_asked_about(pod: &LeftAlone) -> bool {
    pod.reason != "NotAsked"
}

/// Where the configuration is from, where that is not a directory.
fn source(status: &Status) -> Option<String> {
    let source = &status.source;
    let server = source["server"].as_str()?;
    let age = source["from_disk_age_seconds"].as_u64();
    let away = source["away"]["seconds"].as_u64();
    let mut text = format!("the Kubernetes API at {server}");
    if let Some(seconds) = away {
        let _never = write!(text, ", which has not answered for {}", rough(seconds));
    }
    if let Some(seconds) = age {
        let _never = write!(text, "; from disk, {} old", rough(seconds));
    }
    Some(text)
}

/// What is known of the API, by kind.
fn kinds(status: &Status, now: SystemTime) -> Table {
    let mut kinds = table(&["KIND", "STATE", "OBJECTS", "SINCE", "LAST CHANGE"]);
    let all = status.source["kinds"].as_array();
    for kind in all.into_iter().flatten() {
        let time = |field: &str| {
            let at = humantime::parse_rfc3339(kind[field].as_str()?).ok()?;
            let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(ago(since.as_secs(), now))
        };
        kinds.add_row([
            cell(&kind["kind"]),
            cell(&kind["state"]),
            cell(&kind["objects"]),
            time("since").unwrap_or_else(|| "-".to_owned()),
            time("last_event").unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    kinds
}

fn identities(status: &Status) -> Table {
    let mut identities = table(&["IDENTITY", "STATE", "EXPIRES", "SERIAL"]);
    let all = status.identities["identities"].as_array();
    for identity in all.into_iter().flatten() {
        let left = identity["expires_in_seconds"].as_i64();
        identities.add_row([
            cell(&identity["identity"]),
            cell(&identity["state"]),
            left.map_or_else(|| "-".to_owned(), ends),
            cell(&identity["serial"]),
        ]);
    }
    identities
}

/// Of what ends in so many seconds, or ended.
fn ends(left: i64) -> String {
    match left {
        0.. => format!("in {}", rough(left.unsigned_abs())),
        past => format!("{} ago", rough(past.unsigned_abs())),
    }
}

fn policies(status: &Status) -> Table {
    let mut policies = table(&["POLICY", "ACTION", "PODS", "STATE"]);
    for policy in &status.policies {
        let state = match (&policy.problem, policy.dry_run) {
            (Some(_), _) => "not understood, see above",
            (None, true) => "dry run",
            (None, false) => "in force",
        };
        policies.add_row([
            policy.policy.clone(),
            policy.action.clone(),
            policy.workloads.to_string(),
            state.to_owned(),
        ]);
    }
    policies
}

/// What the kernel counted, and what each counter means.
fn kernel(status: &Status) -> Table {
    let mut kernel = table(&["KERNEL COUNTER", "VALUE", "WHAT"]);
    for (name, value) in status.kernel.as_object().into_iter().flatten() {
        let counter = Counter::ALL.iter().find(|c| c.label() == name);
        let means = counter.map_or("Tuples of live connections.", |c| c.means());
        kernel.add_row([name.clone(), cell(value), means.trim().to_owned()]);
    }
    kernel
}

/// For `mesh-agent connections`.
#[must_use]
pub(crate) fn connections(list: &ConnectionList) -> String {
    let mut table = table(&[
        "ID",
        "STATE",
        "DIRECTION",
        "SOURCE",
        "PRINCIPAL",
        "DESTINATION",
        "SECURITY",
        "POLICY",
        "REQUEST",
        "RESPONSE",
        "AGE",
    ]);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let end = |workload: &Option<String>, address: &String| match workload {
        Some(workload) => format!("{workload} ({address})"),
        None => address.clone(),
    };
    for c in &list.connections {
        let state = match &c.reason {
            Some(reason) => format!("{}: {reason}", c.state),
            None => c.state.clone(),
        };
        table.add_row([
            c.id.clone(),
            state,
            c.direction.clone(),
            end(&c.source_workload, &c.client),
            or_dash(&c.source_principal),
            end(&c.destination_workload, &c.destination),
            security(c),
            or_dash(&c.policy),
            c.request_bytes.to_string(),
            c.response_bytes.to_string(),
            format!("{:.0}s", c.age_seconds),
        ]);
    }
    let shown = list.connections.len();
    format!(
        "{}\n{shown} shown; {} carried now\n",
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

/// For `mesh-agent explain`.
#[must_use]
pub(crate) fn explanation(answer: &Explanation) -> String {
    let verdict = match answer.verdict {
        Verdict::Allowed => "ALLOWED",
        Verdict::Refused => "REFUSED",
        Verdict::Mixed => "REFUSED by some endpoints",
        Verdict::NeedsRequest => "DEPENDS on the request: add METHOD URL",
    };
    let mut text = String::new();
    line(&mut text, "verdict", &verdict);
    line(&mut text, "from", &side(&answer.from));
    let to = format!("{}, port {}", side(&answer.to), answer.port);
    line(&mut text, "to", &to);
    let by = format!("generation {}, read by {}", answer.generation, answer.node);
    line(&mut text, "configuration", &by);
    for note in &answer.notes {
        line(&mut text, "note", note);
    }
    if let Some(routed) = &answer.route {
        route(&mut text, routed);
    }
    for way in &answer.ways {
        text.push('\n');
        one_way(&mut text, way);
    }
    let left = answer.ways_total.saturating_sub(answer.ways.len());
    if left > 0 {
        text.push('\n');
        line(&mut text, "not shown", &format!("{left} more endpoints"));
    }
    text
}

fn route(text: &mut String, routed: &Routed) {
    let by = match (&routed.route, &routed.rule) {
        (Some(route), Some(rule)) => format!("{route}, rule {rule}"),
        _ => "there are some, and no rule matches".to_owned(),
    };
    line(text, "route", &by);
    for share in &routed.shares {
        let part = match share.of {
            1 => String::new(),
            of => format!("{} of {of}: ", share.weight),
        };
        let to = match (&share.backend, share.status) {
            (Some(backend), _) => format!("Service {backend}"),
            (None, Some(0) | None) => "reset".to_owned(),
            (None, Some(status)) => format!("answered here with {status}"),
        };
        let why = share.why.iter().map(|why| format!(", {why}"));
        line(
            text,
            "  share",
            &format!("{part}{to}{}", why.collect::<String>()),
        );
        for change in &share.changes {
            line(text, "    changes", change);
        }
        for copy in &share.copies {
            line(text, "    copy to", &format!("Service {copy}"));
        }
    }
}

fn line(text: &mut String, name: &str, value: &dyn std::fmt::Display) {
    // Writing to a string cannot fail.
    let _never = writeln!(text, "{name:<20}{value}");
}

fn side(side: &Side) -> String {
    let mut words = Vec::new();
    match &side.name {
        Some(name) => {
            words.push(format!("{} {name}", side.kind));
            words.extend(side.address.iter().map(|a| format!("({a})")));
        }
        None => words.extend(side.address.clone()),
    }
    words.extend(side.node.iter().map(|n| format!("on {n}")));
    words.extend(side.identity.iter().map(|id| format!("as {id}")));
    if side.kind == "pod" && !side.in_mesh {
        words.push("outside of the mesh".to_owned());
    }
    words.join(" ")
}

fn one_way(text: &mut String, way: &EndpointPath) {
    let workload = way.workload.as_ref().map(|w| format!("pod {w} "));
    let node = way.node.as_ref().map(|n| format!(" on {n}"));
    let part = |part: Option<String>| part.unwrap_or_default();
    if let Some(destination) = &way.destination {
        let place = format!("{}({destination}){}", part(workload), part(node));
        line(text, "endpoint", &place);
    }
    if let Some(backend) = &way.backend {
        line(text, "  of", &format!("Service {backend}"));
    }
    if let Some(identity) = &way.identity {
        line(text, "  identity", identity);
    }
    if let Some(mode) = &way.mode {
        let by = match &way.mode_by {
            Some(by) => format!("{mode}, by PeerAuthentication {by}"),
            None => format!("{mode}, for no PeerAuthentication says otherwise"),
        };
        line(text, "  takes", &by);
    }
    if let Some(transport) = &way.transport {
        let transport = match &**transport {
            "mutual_tls" => "mutual TLS",
            "same_node" => "within the node, no TLS, identity from the kernel",
            _ => "plaintext, no identity",
        };
        line(text, "  transport", &transport);
    }
    line(text, "  verdict", &decision(way));
    if let Some(details) = &way.details {
        line(text, "  details", details);
    }
    for policy in &way.policies {
        line(text, "  policy", &considered(policy));
    }
    let left = way.policies_total.saturating_sub(way.policies.len());
    if left > 0 {
        line(text, "  not shown", &format!("{left} more policies"));
    }
}

fn decision(way: &EndpointPath) -> String {
    let rule = way.rule.as_ref().map(|r| match r.rule {
        Some(index) => format!(", by rule {index} of AuthorizationPolicy {}", r.policy),
        None => {
            let of = |p: &&Policy| p.policy == r.policy && p.action == "ALLOW";
            let allow = way.policies.iter().find(of).is_some();
            let why = if allow { ", as no rule allows it" } else { "" };
            format!(", by AuthorizationPolicy {}{why}", r.policy)
        }
    });
    match &way.refused {
        Some(reason) => format!("refused: {reason}{}", rule.unwrap_or_default()),
        None if way.needs_request => {
            "each request by itself; what is no HTTP is refused".to_owned()
        }
        None => {
            let none = ", for no ALLOW policy selects it";
            let rule = rule.unwrap_or_else(|| match way.mode {
                Some(_) => none.to_owned(),
                None => String::new(),
            });
            format!("allowed{rule}")
        }
    }
}

fn considered(policy: &Policy) -> String {
    let matched = match (policy.matches, policy.rule) {
        (true, Some(rule)) => format!("rule {rule} matches"),
        (true, None) => "matches everything".to_owned(),
        (false, _) if policy.needs_request => "depends on the request".to_owned(),
        (false, _) => "no rule matches".to_owned(),
    };
    let dry_run = match policy.dry_run {
        None => "",
        Some(DryRun::WouldAllow) => " (dry run: would allow)",
        Some(DryRun::WouldDeny) => " (dry run: would deny)",
        Some(DryRun::NoEffect) => " (dry run: no effect)",
    };
    let problem = policy.problem.as_ref().map(|p| format!("; {p}"));
    let Policy { action, policy, .. } = policy;
    format!(
        "{action:<6}{policy}: {matched}{dry_run}{}",
        problem.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests;
