//! Metrics that pages, alerts and dashboards name are those of `docs/metrics.md`, which
//! is made from the code, with labels that they have.

use std::collections::{BTreeMap, BTreeSet};

/// A word that begins so is a metric.
const BEGINS: [&str; 3] = ["mesh_agent_", "mesh_ca_", "istio_"];
/// Of a histogram each has these.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_count", "_sum"];
/// Whoever scrapes adds these; `le` is a histogram's own.
const OF_SCRAPES: [&str; 6] = ["container", "instance", "job", "le", "namespace", "pod"];
/// The overlay of Prometheus adds it.
const OF_NODES: &str = "node";

/// Each metric with its labels.
#[derive(Debug, Default)]
pub(super) struct Reference(BTreeMap<String, BTreeSet<String>>);

impl Reference {
    /// Of the rows `| name | type | unit | labels | what |`.
    pub(super) fn read(page: &str) -> Self {
        let connection = listed(page, "## Labels of a connection");
        let request = listed(page, "## Labels of a request");
        let mut metrics = BTreeMap::new();
        for line in page.lines() {
            let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
            let (Some(name), Some(kind), _, Some(labels), Some(_)) = (
                cells.next().and_then(quoted),
                cells.next(),
                cells.next(),
                cells.next(),
                cells.next(),
            ) else {
                continue;
            };
            let mut of: BTreeSet<String> = labels.split(", ").filter_map(quoted).collect();
            if labels.starts_with("those of a ") {
                of.extend(connection.iter().cloned());
            }
            if labels == "those of a request" {
                of.extend(request.iter().cloned());
            }
            if kind == "histogram" {
                let all = OF_HISTOGRAMS.iter();
                metrics.extend(all.map(|end| (format!("{name}{end}"), of.clone())));
            }
            metrics.insert(name, of);
        }
        Self(metrics)
    }

    /// What is wrong with the metric, and with what stands in braces behind it.
    fn wrong(&self, name: &str, labels: Option<&str>) -> Option<String> {
        // `mesh_ca_…` is about all that begin so.
        if name.ends_with('_') && self.0.keys().any(|known| known.starts_with(name)) {
            return None;
        }
        let Some(known) = self.0.get(name) else {
            return Some(format!("metric: docs/metrics.md has no {name}"));
        };
        let labels = labels.into_iter().flat_map(|all| all.split(','));
        let mut labels = labels.map(|label| {
            let label = label.trim_start();
            let end = label.find(|c| !is_part(c)).unwrap_or(label.len());
            label.split_at(end).0
        });
        let is_known = |label: &str| {
            known.contains(label)
                || OF_SCRAPES.contains(&label)
                || label == OF_NODES
                || label.is_empty()
        };
        let label = labels.find(|label| !is_known(label))?;
        Some(format!("metric: {name} has no label {label}"))
    }
}

/// Between backticks, and nothing else.
fn quoted(cell: &str) -> Option<String> {
    let inner = cell.strip_prefix('`')?.strip_suffix('`')?;
    inner.chars().all(is_part).then(|| inner.to_owned())
}

/// What stands between backticks below the title.
fn listed(page: &str, title: &str) -> BTreeSet<String> {
    let (_, after) = page.split_once(title).unwrap_or_default();
    let section = after.split("\n## ").next().unwrap_or_default();
    let words = section.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Line and message of each metric, or label of one, that the reference has not.
pub(super) fn check(reference: &Reference, text: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let mut rest = text;
        while let Some(at) = rest.find(is_part) {
            let (_, word) = rest.split_at(at);
            let end = word.find(|c| !is_part(c)).unwrap_or(word.len());
            let (word, after) = word.split_at(end);
            rest = after;
            if !BEGINS.iter().any(|begin| word.starts_with(begin)) {
                continue;
            }
            let labels = after.strip_prefix('{').and_then(|l| l.split_once('}'));
            let wrong = reference.wrong(word, labels.map(|(labels, _)| labels));
            findings.extend(wrong.map(|message| (line, message)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
| `mesh_agent_events_total` | counter |  | `event` | Events |
| `mesh_agent_wait_seconds` | histogram | seconds |  | Waits |
| `istio_opened_total` | counter |  | those of a connection | Opened |
| `istio_requests_total` | counter |  | those of a request | Requests |

## Labels of a connection

`reporter`, `source`.

## Labels of a request

Those of a connection, and `code`.

## Values of labels
";

    fn found(text: &str) -> Vec<String> {
        let findings = check(&Reference::read(PAGE), text);
        findings.into_iter().map(|(_, message)| message).collect()
    }

    #[test]
    fn a_metric_that_the_reference_has_not_is_a_mistake() {
        let text = "`mesh_agent_events_total`\n`mesh_agent_events{event=\"x\"}` and mesh_ca_x\n";
        let expected = [
            (2, "metric: docs/metrics.md has no mesh_agent_events".into()),
            (2, "metric: docs/metrics.md has no mesh_ca_x".into()),
        ];
        assert_eq!(check(&Reference::read(PAGE), text), expected);
    }

    #[test]
    fn a_label_that_the_metric_has_not_is_a_mistake() {
        let good = [
            "mesh_agent_events_total{event}",
            "mesh_agent_events_total{event=~\\\"a|b\\\", node=\\\"$node\\\"}[5m]",
            "istio_opened_total{reporter=\"source\"}",
            "istio_requests_total{code!=\"200\",source=\"a\"}",
        ];
        assert_eq!(found(&good.join("\n")), Vec::<String>::new());
        assert_eq!(
            found("mesh_agent_events_total{event=\"a\", kind!=\"b\"} istio_opened_total{code}"),
            [
                "metric: mesh_agent_events_total has no label kind",
                "metric: istio_opened_total has no label code"
            ]
        );
    }

    #[test]
    fn a_histogram_has_its_three_metrics_and_a_counter_has_one() {
        let text = "mesh_agent_wait_seconds_bucket{le=\"1\"} mesh_agent_wait_seconds_sum";
        assert_eq!(found(text), Vec::<String>::new());
        assert_eq!(found("mesh_agent_events_total_sum").len(), 1);
    }

    #[test]
    fn a_beginning_is_about_all_that_begin_so() {
        assert_eq!(found("`mesh_agent_…`, crate `mesh_agent::x`").len(), 0);
        assert_eq!(found("`mesh_ca_…`").len(), 1);
    }
}
