//! The references in `docs/`, made from the code.
//!
//! `cargo xtask gen` writes them by running these tests with the variable
//! below; otherwise the tests hold the committed files to the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{Exit, command};
use crate::discovery::{KindId, definition, fields_page, role_rules};
use crate::identity::{Config, Identities, SourceConfig};
use crate::model::TrustDomain;
use crate::observe::reference::Label;
use crate::observe::{AccessLogTarget, LIVE_TUPLES, NodeState, Observe, reference};
use crate::plan::InForce;
use crate::traffic::reference_rates;
use crate::{ca, enrol, peer, proxy};

const WRITE: &str = "MESH_WRITE_REFERENCE";
const FIELDS_BEGIN: &str = "<!-- made from the code by `cargo xtask gen` -->\n";
const FIELDS_END: &str = "<!-- end of what is made -->\n";
const RULES_BEGIN: &str = "# Made from the table of kinds by `cargo xtask gen`:\n";
const RULES_END: &str = "# End of what is made.\n";

/// Compares with the committed file of `docs/`, or writes it.
fn hold(file: &str, text: &str) {
    hold_at(&format!("docs/{file}"), text);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn hold_at(file: &str, text: &str) {
    let path = root().join(file);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, text).expect("the file is written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "{file} is stale: run `cargo xtask gen` and commit"
    );
}

/// The same of what stands between two lines; the rest is written by people.
fn hold_within(file: &str, [begin, end]: [&str; 2], text: &str) {
    let path = root().join(file);
    let page = std::fs::read_to_string(path).expect("the file");
    let (before, rest) = page.split_once(begin).expect("the begin of it");
    let (_, after) = rest.split_once(end).expect("its end");
    hold_at(file, &format!("{before}{begin}{text}{end}{after}"));
}

/// For a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn table(names: &[(&str, &str)]) -> String {
    names.iter().fold(String::new(), |mut text, (name, means)| {
        let _never = writeln!(text, "| `{name}` | {} |", cell(means));
        text
    })
}

/// All families, with a sample of each that has labels: one rate limit is in force.
fn page() -> String {
    let observe = Observe::new("n1", AccessLogTarget::Off);
    let identities = Identities::start(Config {
        trust_domain: TrustDomain::new("cluster.local").expect("a trust domain"),
        trust_domain_aliases: Vec::new(),
        source: SourceConfig::None,
        crl_file: None,
        crl_kept: None,
    });
    observe.register(|registry| identities.register(registry));
    enrol::register(&observe);
    observe.register(crate::discovery::reference);
    let _adds = crate::cni::register(&observe);
    let published = Arc::new(ArcSwap::from_pointee(InForce {
        rates: Arc::new(reference_rates()),
        ..InForce::default()
    }));
    super::view::register(&observe, &published, &Default::default());
    let _counters = (proxy::Metrics::new(&observe), peer::Metrics::new(&observe));
    reference::fill(&observe);
    let events: Vec<_> = mesh_common::counter::Counter::ALL
        .iter()
        .map(|counter| (counter.label(), 1))
        .chain([(LIVE_TUPLES, 1)])
        .collect();
    observe.page(NodeState::default(), &events)
}

#[test]
fn the_reference_of_permissions_is_what_the_code_calls_for() {
    hold("rbac.md", &crate::cluster::rbac::page());
}

#[test]
fn the_definition_of_trafficpolicies_is_what_the_code_reads() {
    hold_at("deploy/base/trafficpolicies.yaml", &definition());
}

#[test]
fn the_fields_of_a_trafficpolicy_are_all_in_the_documentation() {
    let between = [FIELDS_BEGIN, FIELDS_END];
    hold_within("docs/traffic-policy.md", between, &fields_page());
}

#[test]
fn the_agents_role_lets_them_follow_the_kinds_of_the_table() {
    let between = [RULES_BEGIN, RULES_END];
    hold_within("deploy/base/agent-rbac.yaml", between, &role_rules());
}

#[test]
fn the_metrics_reference_is_what_the_page_shows() {
    let page = page();
    let mut text = String::from(
        "# Metrics\n\n<!-- made from the code by `cargo xtask gen`: do not edit -->\n\n\
         On `http://127.0.0.1:15020/metrics` of each node (`--metrics-addr`). The number of\n\
         label sets is bounded: those past 10,000 (2,000 of requests) are counted with the\n\
         value `other`.\n\n\
         | name | type | unit | labels | what |\n| --- | --- | --- | --- | --- |\n",
    );
    for metric in metrics(&page) {
        text.push_str(&metric);
    }
    text.push_str(
        "\n## Of the certificate authority\n\nOn `http://127.0.0.1:15021/metrics` of `mesh-agent ca run` (`--metrics-addr`).\n\n\
         | name | type | unit | labels | what |\n| --- | --- | --- | --- | --- |\n",
    );
    let authority = ca::reference_page();
    for metric in metrics(&authority) {
        text.push_str(&metric);
    }
    text.push('\n');
    let refused = ca::refusals().map(|label| format!("`{label}`"));
    let refused = refused.collect::<Vec<_>>().join(", ");
    let refused = format!("as in `refused.jsonl` of the authority: {refused}");
    text.push_str(&labels_table(AUTHORITY_LABELS));
    let _never = writeln!(
        text,
        "| `reason` | `mesh_ca_requests_refused_total` | {refused} |"
    );
    let of = labels_of(&page, "istio_tcp_connections_opened_total{");
    let _never = writeln!(text, "\n## Labels of a connection\n\n{}.", of.join(", "));
    let more = labels_of(&page, "istio_requests_total{");
    let more: Vec<_> = more
        .into_iter()
        .filter(|label| !of.contains(label))
        .collect();
    let _never = writeln!(
        text,
        "\n## Labels of a request\n\nThose of a connection, and {}.",
        more.join(", ")
    );
    text.push_str(
        "\n## Values of labels\n\nWhere no metric is named, of all that have the label.\n\n",
    );
    text.push_str(&labels_table(reference::LABELS));
    for (title, names) in reference::names() {
        let _never = write!(
            text,
            "\n## {title}\n\n| value | what it means, what to do |\n| --- | --- |\n{}",
            table(&names)
        );
    }
    let counters = mesh_common::counter::Counter::ALL.iter();
    let events: Vec<_> = counters.map(|c| (c.label(), c.means().trim())).collect();
    let _never = write!(
        text,
        "\n## `event`: what the kernel programs count\n\n| value | what it means |\n| --- | --- |\n{}",
        table(&events)
    );
    hold("metrics.md", &text);
}

/// One style: what is counted, without a full stop, with the unit where the
/// name has one.
#[test]
fn every_metric_says_what_it_counts_and_in_which_unit() {
    let page = page() + &ca::reference_page();
    for line in page.lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' '))
        else {
            continue;
        };
        let help = help.trim_end_matches('.');
        assert!(
            help.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit()),
            "{line}"
        );
        assert!(help.len() >= 8 && !help.contains(". "), "{line}");
        let unit = [
            ("_timestamp_seconds", "in seconds since 1970"),
            ("_time_seconds", "in seconds since 1970"),
            ("_seconds", "in seconds"),
            ("_bytes", "in bytes"),
        ];
        let unit = unit.iter().find(|(suffix, _)| name.ends_with(suffix));
        assert!(unit.is_none_or(|(_, words)| help.contains(words)), "{line}");
    }
}

#[test]
fn the_reference_of_the_access_log_is_what_its_lines_have() {
    let mut text = String::from(
        "# Access log\n\n<!-- made from the code by `cargo xtask gen`: do not edit -->\n\n\
         `--access-log FILE` (`-`: standard output): JSON, one object a line, every field in\n\
         every line (but for those of counts), null where it is not known. Control characters\n\
         of names are escaped. `--access-log-events` chooses the lines: `refused` (`verdict` is\n\
         not `allowed`), `close`, `all`. Rename the file and send SIGHUP to rotate it. A full\n\
         queue never holds traffic up: `mesh_agent_log_lines_dropped_total` counts what was lost.\n\n\
         | field | what |\n| --- | --- |\n",
    );
    text.push_str(&table(reference::FIELDS));
    text.push_str(
        "\n## Requests\n\nOne more line for each request of HTTP, at its end, with `event` `request`. It has the\n\
         fields above that say who talks to whom, `rule` (of the request, else of its connection),\n\
         bytes with heads, times from the request's first byte, and\n\n\
         | field | what |\n| --- | --- |\n",
    );
    text.push_str(&table(reference::REQUEST_FIELDS));
    hold("access-log.md", &text);
}

/// `docs/labels.md` is written by people; the names that the code takes are all there.
#[test]
fn the_reference_of_labels_has_every_name_that_the_code_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("../docs/labels.md")).expect("the reference");
    let read = |directory: &str, ending: &str| {
        let mut sources = String::new();
        let mut directories = vec![root.join(directory)];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                let is_test = path.to_string_lossy().contains("tests");
                if path.is_dir() && !is_test {
                    directories.push(path);
                } else if !is_test && path.extension().is_some_and(|e| e == ending) {
                    sources.push_str(&std::fs::read_to_string(&path).expect("a source"));
                }
            }
        }
        sources
    };
    let is_name = |word: &str, known: &[&str]| {
        let (domain, name) = word.split_once('/').unwrap_or_default();
        let allowed = |c: char| c.is_ascii_lowercase() || c == '-';
        known.contains(&domain) && !name.is_empty() && name.chars().all(allowed)
    };
    let known = [
        "mesh-agent.io",
        "istio.io",
        "service.istio.io",
        "app.kubernetes.io",
        "topology.kubernetes.io",
    ];
    let sources = read("src/discovery", "rs") + &read("src/observe", "rs");
    let quoted = sources.split('"').filter(|word| is_name(word, &known));
    // What objects of deploy/ select by: others' labels there are only its own.
    let deployed = read("../deploy/base", "yaml");
    let words = deployed.split(|c: char| !c.is_ascii_alphanumeric() && !"-./".contains(c));
    let selected = words.filter(|word| is_name(word, &["mesh-agent.io"]));
    // The agent's own mark of a pod that it cannot read; nobody writes it.
    let names: BTreeSet<_> = quoted
        .chain(selected)
        .filter(|n| *n != "mesh-agent.io/unreadable")
        .collect();
    for name in ["mesh-agent.io/enrolled", "mesh-agent.io/probe-hosts"] {
        assert!(names.contains(name), "{names:?}");
    }
    for name in names {
        assert!(
            text.contains(&format!("`{name}`")),
            "docs/labels.md lacks {name}"
        );
    }
}

/// Of the first sample that begins so.
fn labels_of(page: &str, begin: &str) -> Vec<String> {
    let sample = page.lines().find_map(|l| l.strip_prefix(begin));
    let pairs = sample.unwrap_or_default().split("\",");
    pairs
        .filter_map(|pair| pair.split('=').next())
        .map(|name| format!("`{name}`"))
        .collect()
}

/// Of the authority; its reasons to refuse are made from the code.
const AUTHORITY_LABELS: &[Label] = &[
    Label::of(&["mesh_ca_build_info"], "version", "of the authority"),
    Label::of(
        &["mesh_ca_connections"],
        "state",
        "`unproven` (no good token yet), `proven`",
    ),
    Label::of(
        &["mesh_ca_tokens"],
        "state",
        "`valid`, `expired`, `revoked`",
    ),
    Label::anywhere("node", "that the token is bound to, 1,000 at most"),
];

fn labels_table(labels: &[Label]) -> String {
    let mut text = String::from("| label | of | values |\n| --- | --- | --- |\n");
    for Label { of, names, values } in labels {
        let of: Vec<_> = of.iter().map(|metric| format!("`{metric}`")).collect();
        let _never = writeln!(text, "| `{names}` | {} | {} |", of.join(", "), cell(values));
    }
    text
}

/// Whether one of the names of a row is this.
fn names_label(row: &Label, label: &str) -> bool {
    let mut parts = row.names.split(", ");
    let first = parts.next().unwrap_or_default();
    first == label
        || parts.any(|part| match part.starts_with('_') {
            true => label.strip_suffix(part) == Some(first),
            false => part == label,
        })
}

/// Whether a row is about the metric.
fn is_about(row: &Label, metric: &str) -> bool {
    let is_named = |of: &&str| match of.strip_suffix('*') {
        Some(begin) => metric.starts_with(begin),
        None => metric == *of,
    };
    row.of.is_empty() || row.of.iter().any(is_named)
}

#[test]
fn each_label_of_each_metric_says_once_what_it_can_be() {
    let authority: Vec<_> = AUTHORITY_LABELS.iter().collect();
    let reason = Label::of(&["mesh_ca_requests_refused_total"], "reason", "");
    let authority = authority.into_iter().chain([&reason]).collect();
    let agent: Vec<_> = reference::LABELS.iter().collect();
    for (page, rows) in [(page(), agent), (ca::reference_page(), authority)] {
        let families = families(&page);
        let pairs: Vec<(String, &str)> = families
            .iter()
            .flat_map(|(name, family)| {
                let exposed = family.exposed(name);
                family.labels.iter().map(move |l| (exposed.clone(), *l))
            })
            .collect();
        for (metric, label) in &pairs {
            let about = rows.iter().filter(|row| names_label(row, label));
            let here: Vec<_> = about.filter(|row| is_about(row, metric)).collect();
            assert!(here.len() == 1, "{metric}{{{label}}}: {here:?}");
        }
        for row in rows {
            let is_used =
                |(metric, label): &(String, &str)| names_label(row, label) && is_about(row, metric);
            let certificate = row.names == "identity";
            assert!(
                certificate || pairs.iter().any(is_used),
                "of nothing: {row:?}"
            );
        }
    }
}

#[test]
fn what_has_labels_shows_them_in_the_reference() {
    fn labels<'p>(page: &'p str, name: &str) -> Vec<&'p str> {
        let families = families(page);
        families[name].labels.iter().copied().collect()
    }
    let (page, authority) = (page(), ca::reference_page());
    let limited = labels(&page, "mesh_agent_rate_limited");
    assert_eq!(limited, ["dry_run", "limit", "policy"]);
    let token = labels(&authority, "mesh_ca_token_expiry_timestamp_seconds");
    assert_eq!(token, ["node"]);
}

/// What a page says of the samples of one name.
#[derive(Debug, Default)]
struct Family<'p> {
    kind: &'p str,
    help: &'p str,
    labels: BTreeSet<&'p str>,
}

impl Family<'_> {
    /// The name of its samples.
    fn exposed(&self, name: &str) -> String {
        let suffix = match self.kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        format!("{name}{suffix}")
    }
}

fn families(page: &str) -> BTreeMap<&str, Family<'_>> {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    let mut family = "";
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            family = name;
            families.entry(name).or_default().help = help;
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.entry(name).or_default().kind = kind;
        } else if let Some((_, rest)) = line.split_once('{') {
            let names = rest.split("\",").filter_map(|pair| pair.split('=').next());
            let names = names.filter(|name| *name != "le" && !name.contains('}'));
            families.entry(family).or_default().labels.extend(names);
        }
    }
    families
}

/// Rows of the table, in the order of the names.
fn metrics(page: &str) -> Vec<String> {
    let row = |(name, family): (&&str, &Family<'_>)| {
        let units = ["milliseconds", "seconds", "bytes"];
        let unit = units.into_iter().find(|unit| name.ends_with(unit));
        let mut labels: Vec<_> = family.labels.iter().copied().collect();
        // No certificate is at hand here.
        if name.starts_with("mesh_agent_certificate_")
            && name.ends_with("_timestamp_seconds")
            && labels.is_empty()
        {
            labels.push("identity");
        }
        let labels: Vec<_> = if name.starts_with("istio_tcp_") {
            vec!["those of a connection".to_owned()]
        } else if name.starts_with("istio_") {
            vec!["those of a request".to_owned()]
        } else {
            labels.iter().map(|l| format!("`{l}`")).collect()
        };
        format!(
            "| `{}` | {} | {} | {} | {} |\n",
            family.exposed(name),
            family.kind,
            unit.unwrap_or(""),
            labels.join(", "),
            cell(family.help.trim_end_matches('.'))
        )
    };
    families(page).iter().map(row).collect()
}

#[test]
fn the_configuration_reference_is_what_the_command_line_takes() {
    let mut text = String::from(
        "# Configuration\n\n<!-- made from the code by `cargo xtask gen`: do not edit -->\n\n\
         Flags of `mesh-agent`, and the objects that it reads. `MESH_LOG` sets what is logged\n\
         (`info`, `debug`, `mesh_agent::proxy=trace`, …).\n\n\
         ## Objects\n\nOf these kinds; others are passed over and counted. `mesh-agent check-config DIR`\n\
         holds a directory to what is served of each, and tells what is not.\n\n\
         | kind | `apiVersion` | of it |\n| --- | --- | --- |\n",
    );
    for about in KindId::ALL.iter().map(|id| id.about()) {
        let versions: Vec<_> = about.api_versions().map(|v| format!("`{v}`")).collect();
        let (name, versions) = (about.name, versions.join(", "));
        let _never = writeln!(text, "| {name} | {versions} | {} |", cell(about.meaning));
    }
    text.push_str(
        "\n\
         ## Exit codes\n\nThe same for every command.\n\n| code | what |\n| --- | --- |\n",
    );
    for exit in Exit::ALL {
        let _never = writeln!(text, "| `{}` | {} |", exit.code(), cell(exit.means()));
    }
    let mut command = command();
    command.build();
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        flags(&mut text, "mesh-agent", sub);
    }
    hold("configuration.md", &text);
}

fn flags(text: &mut String, parent: &str, command: &clap::Command) {
    let name = format!("{parent} {}", command.get_name());
    let mut subs = command
        .get_subcommands()
        .filter(|c| c.get_name() != "help")
        .peekable();
    if subs.peek().is_some() {
        return subs.for_each(|sub| flags(text, &name, sub));
    }
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let _never = writeln!(text, "\n## {name}\n\n{about}.\n");
    let shown: Vec<_> = command
        .get_arguments()
        .filter(|a| !matches!(a.get_id().as_str(), "help" | "version"))
        .collect();
    if !shown.is_empty() {
        text.push_str("| flag | default | what |\n| --- | --- | --- |\n");
    }
    for arg in shown {
        let _never = writeln!(text, "{}", flag(arg));
    }
}

fn flag(arg: &clap::Arg) -> String {
    let value = arg.get_id().as_str().to_uppercase();
    let name = match arg.get_long() {
        Some(long) if arg.get_action().takes_values() => format!("`--{long} {value}`"),
        Some(long) => format!("`--{long}`"),
        None => format!("`{value}`"),
    };
    let takes = arg.get_action().takes_values();
    let default: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|v| v.to_string_lossy())
        .collect();
    let default = match (takes, default.is_empty()) {
        (true, false) => format!("`{}`", default.join(" ")),
        _ if arg.is_required_set() => "required".to_owned(),
        _ => String::new(),
    };
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let mut help = help.map(ToString::to_string).unwrap_or_default();
    if let Some(env) = arg.get_env() {
        let _never = write!(help, " (environment: {})", env.to_string_lossy());
    }
    let possible: Vec<_> = arg
        .get_possible_values()
        .iter()
        .filter(|_| takes)
        .map(|v| {
            let means = v.get_help().map(|h| format!(": {h}")).unwrap_or_default();
            format!("`{}`{means}", v.get_name())
        })
        .collect();
    if !possible.is_empty() {
        let _never = write!(help, " {}", possible.join("; "));
    }
    format!("| {name} | {default} | {} |", cell(&help))
}
