//! What the admin pages show; the control loop keeps it up to date.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use sha2::{Digest as _, Sha256};

use super::ledger::{self, Ledger, Now};
use super::neighbours::Neighbours;
use super::reporting::Reporting;
use super::{left_alone, problems, source_problems};
use crate::admin::{self, PolicyRow, Problem, Status};
use crate::balance::Health;
use crate::capture;
use crate::cni;
use crate::config::Run;
use crate::discovery::{Heard, Held, Update};
use crate::enrol::{Carried, PodStatus};
use crate::explain::Explainer;
use crate::identity::Identities;
use crate::model::{Name, Part, Snapshot, SpiffeId};
use crate::observe::explanation::Explanation;
use crate::observe::{ConnectionFilter, ConnectionList, NodeState, Observe};
use crate::plan::InForce;
use crate::policy::Authorizer;
use crate::proxy;

/// Policies that are listed.
const MAX_POLICIES: usize = 1_000;
/// A start is told without the first certificates after this long.
const SETTLE: Duration = Duration::from_secs(5);

/// What it is made from.
pub(super) struct Parts {
    pub(super) node: String,
    pub(super) stats: capture::Stats,
    pub(super) observe: Observe,
    pub(super) identities: Identities,
    pub(super) explainer: Explainer,
    pub(super) published: Arc<ArcSwap<InForce>>,
    pub(super) held: Held,
    /// How the data path runs.
    pub(super) proxy: proxy::Config,
    pub(super) heard: Heard,
    pub(super) health: Arc<Health>,
    pub(super) neighbours: Neighbours,
    /// Where somebody is told.
    pub(super) reporting: Option<Reporting>,
    /// Where the agent keeps its CNI plugin in the node's chain.
    pub(super) plugin: Option<Arc<cni::Keeper>>,
    pub(super) without_plugin: problems::WithoutPlugin,
}

pub(super) struct View {
    parts: Parts,
    configuration: Arc<Configuration>,
    /// But for what is asked for anew each time.
    status: Mutex<Status>,
    /// As of that; listed for who asks, for a change of one is not to cost all.
    policy: ArcSwap<Authorizer>,
    carried: Mutex<Carried>,
    /// Pods that no runtime told of, each with a time at which it was not there yet.
    untold: Mutex<Vec<(String, Instant)>>,
    ledger: Mutex<Ledger>,
    created: Instant,
}

impl View {
    pub(super) fn new(parts: Parts) -> Self {
        let configuration = register(&parts.observe, &parts.published, &parts.held);
        if let Heard::Api(watched) = &parts.heard {
            parts
                .observe
                .register(|registry| watched.register(registry));
        }
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: parts.node.clone(),
            problems: vec![problems::starting()],
            ..Status::default()
        };
        Self {
            parts,
            configuration,
            status: Mutex::new(status),
            policy: ArcSwap::default(),
            carried: Mutex::default(),
            untold: Mutex::default(),
            ledger: Mutex::default(),
            created: Instant::now(),
        }
    }

    pub(super) fn reopen_log(&self) {
        self.parts.observe.reopen_log();
    }

    /// Every wanted pod was tried: one that cannot be enrolled for a reason of
    /// its own is shown, and does not keep the node from being used.
    pub(super) fn reconciled(&self, update: &Update, pods: &[PodStatus], unsettled: Option<&str>) {
        let mut problems: Vec<Problem> =
            update.mistakes().map(problems::of_configuration).collect();
        problems.extend(update.policy_problems().map(problems::of_policy));
        problems.extend(pods.iter().flat_map(problems::of_pod));
        problems.extend(unsettled.map(problems::of_strangers));
        if let Some(reporting) = &self.parts.reporting {
            reporting.note(update, pods, Instant::now());
        }
        *self.untold.lock() = self.untold_of(pods);
        let mut status = self.status.lock();
        self.policy.store(update.policy.clone());
        status.generation = update.snapshot.generation;
        status.problems = problems;
        status.pods = serde_json::json!(pods);
    }

    /// Those that their runtime was to call the plugin for, and did not.
    fn untold_of(&self, pods: &[PodStatus]) -> Vec<(String, Instant)> {
        let Some(plugin) = &self.parts.plugin else {
            return Vec::new();
        };
        let is_own = |pod: &str| pod.split('/').next().is_some_and(|ns| plugin.is_own(ns));
        let pods = pods.iter().filter(|status| !is_own(&status.pod));
        pods.filter_map(|status| Some((status.pod.clone(), status.untold?)))
            .collect()
    }

    /// Is a pod of this node enrolled?
    pub(super) fn has_pods(&self) -> bool {
        enrolled(&self.status.lock()) > 0
    }

    pub(super) fn carries(&self, carried: Carried) {
        *self.carried.lock() = carried;
    }

    /// Tells the authority what is new here.
    pub(super) fn report(&self) {
        if let Some(reporting) = &self.parts.reporting {
            reporting.look(Instant::now());
        }
    }

    /// Another agent of this node tells it from now on.
    pub(super) fn hand_over(&self) {
        if let Some(reporting) = &self.parts.reporting {
            reporting.hand_over();
        }
    }

    pub(super) fn is_stopping(&self) {
        self.status.lock().problems = vec![problems::stopping()];
    }

    /// Looks at what is wrong now; logs what changed.
    pub(super) fn look(&self) -> Vec<Problem> {
        let (mut problems, pods) = {
            let status = self.status.lock();
            (status.problems.clone(), enrolled(&status))
        };
        let proxy = &self.parts.proxy;
        problems.extend(problems::of_limits(proxy, pods));
        problems.extend(problems::of_open_files(&proxy.limits, pods));
        problems.extend(self.parts.neighbours.problem());
        match &self.parts.heard {
            Heard::Directory(looked) => {
                let stalled = looked.is_stalled(Instant::now());
                problems.extend(stalled.map(problems::of_stalled));
            }
            Heard::Api(watched) => problems.extend(source_problems::of_api(&watched.state())),
        }
        let log = self.parts.observe.log_trouble();
        problems.extend(log.map(problems::of_access_log));
        if let Some(plugin) = &self.parts.plugin {
            let without = self.parts.without_plugin;
            let report = plugin.report();
            problems.extend(problems::of_plugin(&report, without));
            let untold = self.untold.lock();
            let passed = report.passed_over(&untold);
            problems.extend(problems::of_passed_over(&passed, &report.standing, without));
        }
        problems.extend(problems::of_identities(&self.parts.identities.status()));
        let (problems, lines) = self.ledger.lock().note(problems, Now::read());
        ledger::write(&lines);
        problems
    }

    /// Has the start come to its end, for good or bad?
    pub(super) fn is_settled(&self) -> bool {
        let waits = self.look().iter().any(|p| p.starting);
        !waits || self.created.elapsed() > SETTLE
    }

    /// The one line of a start.
    pub(super) fn tell_start(&self, flags: &Run, took: Duration) {
        let problems = self.look();
        let status = self.status.lock();
        let pods = status.pods.as_array().map_or(0, Vec::len);
        let enrolled = enrolled(&status);
        let authority = match (&flags.identity.ca_address, &flags.identity.identity_dir) {
            (Some(address), _) => address.clone(),
            (None, Some(dir)) => dir.display().to_string(),
            (None, None) => "none".to_owned(),
        };
        tracing::info!(
            version = status.version,
            node = status.node,
            pods,
            enrolled,
            policies = self.policy.load().status().len(),
            configuration = self.configuration.hash(),
            authority,
            metrics = %flags.metrics_addr,
            admin = %admin::socket_path(&flags.place.run_dir).display(),
            problems = problems.len(),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "started: {}",
            state(&problems)
        );
    }

    fn node_state(&self) -> NodeState {
        let problems = self.look();
        let status = self.status.lock();
        let pods = status.pods.as_array().map_or(&[][..], Vec::as_slice);
        let pods_enrolled = enrolled(&status);
        NodeState {
            ready: !problems.iter().any(|p| p.blocks),
            problems: problems.len(),
            pods_enrolled,
            pods_failed: pods.len() - pods_enrolled,
            generation: status.generation,
        }
    }

    /// A connection that is carried, or was refused lately, as a question.
    fn question_of(&self, id: &str) -> Result<admin::Question, String> {
        let filter = ConnectionFilter {
            limit: 1,
            id: Some(id.to_owned()),
            ..ConnectionFilter::default()
        };
        let found = self.parts.observe.connections(&filter).connections.pop();
        let unknown =
            || format!("no connection {id} is carried or was refused lately; it may have ended");
        let found = found.ok_or_else(unknown)?;
        let address = |text: &str| text.parse::<SocketAddr>().map_err(|_| unknown());
        let destination = address(&found.destination)?;
        Ok(admin::Question {
            from: address(&found.client)?.ip().to_string(),
            to: destination.ip().to_string(),
            port: destination.port(),
            ..admin::Question::default()
        })
    }

    fn kernel(&self) -> Vec<(&'static str, u64)> {
        self.parts.stats.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the kernel's counters");
            Vec::new()
        })
    }
}

/// How many pods of this node are enrolled.
fn enrolled(status: &Status) -> usize {
    let pods = status.pods.as_array().into_iter().flatten();
    pods.filter(|pod| pod["enrolled"] == true).count()
}

/// Beside what is said of each pod.
fn show(carried: &Carried, status: &mut Status) {
    status.active_connections = carried.active.connections;
    status.active_requests = carried.active.requests;
    for row in status.pods.as_array_mut().into_iter().flatten() {
        let of = row["pod"].as_str().and_then(|pod| carried.pods.get(pod));
        let of = serde_json::json!(of.copied().unwrap_or_default());
        if let (Some(row), serde_json::Value::Object(of)) = (row.as_object_mut(), of) {
            row.extend(of);
        }
    }
}

fn state(problems: &[Problem]) -> &'static str {
    match (problems.iter().any(|p| p.blocks), problems.is_empty()) {
        (true, _) => "not ready",
        (false, false) => "ready, degraded",
        (false, true) => "ready",
    }
}

fn policy(status: &crate::policy::PolicyStatus) -> PolicyRow {
    PolicyRow {
        policy: status.policy.to_string(),
        action: format!("{:?}", status.action).to_uppercase(),
        dry_run: status.dry_run,
        workloads: status.workloads,
        problem: status.broken.clone(),
    }
}

impl admin::Pages for View {
    fn metrics(&self) -> String {
        self.parts.observe.page(self.node_state(), &self.kernel())
    }

    fn problems(&self) -> Vec<Problem> {
        self.look()
    }
}

impl admin::AdminSource for View {
    fn status(&self) -> Status {
        let problems = self.look();
        let (mut status, policies) = {
            let status = self.status.lock();
            (status.clone(), self.policy.load_full())
        };
        show(&self.carried.lock(), &mut status);
        let policies = policies.status();
        status.policies_total = policies.len();
        status.policies = policies.iter().take(MAX_POLICIES).map(policy).collect();
        status.ready = !problems.iter().any(|p| p.blocks);
        status.degraded = status.ready && !problems.is_empty();
        status.problems = problems;
        status.configuration = self.configuration.hash();
        status.source = match &self.parts.heard {
            Heard::Directory(_) => serde_json::json!({"source": "directory"}),
            Heard::Api(watched) => serde_json::json!(watched.state()),
        };
        let snapshot = self.parts.published.load().snapshot.clone();
        (status.left_alone, status.left_alone_total) =
            left_alone::list(&snapshot, &self.parts.node);
        status.identities = serde_json::json!(self.parts.identities.status());
        let plugin = self.parts.plugin.as_ref();
        status.cni_plugin = plugin.map(|plugin| plugin.report().standing.to_string());
        let kernel: BTreeMap<_, _> = self.kernel().into_iter().collect();
        status.kernel = serde_json::json!(kernel);
        status
    }

    fn connections(&self, filter: &ConnectionFilter) -> Result<ConnectionList, String> {
        let found = self.parts.observe.connections(filter);
        super::connections::list(found, filter, &self.parts.published.load().snapshot)
    }

    fn endpoints(&self) -> admin::endpoints::EndpointList {
        let published = self.parts.published.load();
        let of = &self.parts.explainer;
        let zone = published
            .snapshot
            .zone_of(&of.node, of.node_zone.as_deref());
        let seen = (&*self.parts.health, Instant::now());
        let place = (&*of.node, zone);
        super::endpoints::list(&published.snapshot, place, seen, SystemTime::now())
    }

    fn routes(&self) -> admin::routes::RouteList {
        super::routes::list(&self.parts.published.load().snapshot)
    }

    fn traffic(&self) -> admin::traffic::TrafficList {
        super::traffic::list(&self.parts.published.load().snapshot)
    }

    fn explain(&self, question: &admin::Question) -> Result<Explanation, String> {
        let of_connection;
        let question = match &question.id {
            Some(id) => {
                of_connection = self.question_of(id)?;
                &of_connection
            }
            None => question,
        };
        let asked = super::question::words(question);
        let certified = |id: &SpiffeId| self.parts.identities.is_valid(id);
        let answer = self.parts.explainer.explain(asked, &certified);
        answer.map_err(|why| why.to_string())
    }
}

/// The configuration in force, as a short name of it.
pub(super) struct Configuration {
    published: Arc<ArcSwap<InForce>>,
    held: Held,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of which generation.
    generation: u64,
    hash: String,
    /// What is the same in the next one has the same hash.
    parts: BTreeMap<Name, (Part, [u8; 32])>,
}

impl Configuration {
    /// Made once for each generation, when it is first asked for, of what is
    /// not as it was the last time.
    fn hash(&self) -> String {
        let snapshot = self.published.load().snapshot.clone();
        let mut known = self.known.lock();
        if known.hash.is_empty() || known.generation != snapshot.generation {
            known.look(&snapshot);
        }
        known.hash.clone()
    }
}

impl Known {
    fn look(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.parts);
        for namespace in snapshot.namespaces() {
            let part = snapshot.part(&namespace);
            let same = before.remove(&namespace);
            let same = same.filter(|(before, _)| before.is_shared_with(&part));
            let hash = same.map_or_else(|| digest(&(&namespace, &part)), |(_, hash)| hash);
            self.parts.insert(namespace, (part, hash));
        }
        let hashes: Vec<_> = self.parts.values().map(|(_, hash)| hash).collect();
        let digest = digest(&(snapshot.common(), hashes));
        self.hash = digest.iter().take(6).fold(String::new(), |mut text, byte| {
            let _never = write!(text, "{byte:02x}");
            text
        });
        self.generation = snapshot.generation;
    }
}

/// Adds the metrics of what is here.
pub(super) fn register(
    observe: &Observe,
    published: &Arc<ArcSwap<InForce>>,
    held: &Held,
) -> Arc<Configuration> {
    let configuration = Arc::new(Configuration {
        published: published.clone(),
        held: held.clone(),
        known: Mutex::default(),
    });
    let collector = Box::new(Page(configuration.clone()));
    observe.register(|registry| registry.register_collector(collector));
    let limits = Box::new(RateLimits(published.clone()));
    observe.register(|registry| registry.register_collector(limits));
    configuration
}

/// Of how it is written down: the order is that of names, not of files.
fn digest(content: &impl std::fmt::Debug) -> [u8; 32] {
    struct Hashing(Sha256);
    impl std::fmt::Write for Hashing {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.update(text.as_bytes());
            Ok(())
        }
    }
    let mut hashing = Hashing(Sha256::new());
    // Hashing cannot fail.
    let _never = write!(hashing, "{content:?}");
    hashing.0.finalize().into()
}

/// Made when the page is read, so that no former hash stays on it.
struct Page(Arc<Configuration>);

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Page")
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "mesh_agent_configuration_info",
            "Hash of the configuration in force; the same on all nodes that have the same",
            None,
            MetricType::Gauge,
        )?;
        let hash = self.0.hash();
        let labels = [("hash", hash.as_str())];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        let held = self.0.held.count();
        encoder
            .encode_descriptor(
                "mesh_agent_configurations_held",
                "Configurations in memory: the one in force, and former ones that something is still decided by",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&(held as u64))
    }
}

/// Made when the page is read: no limit stays on it that is not in force.
struct RateLimits(Arc<ArcSwap<InForce>>);

impl std::fmt::Debug for RateLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RateLimits")
    }
}

/// Limits that are told apart.
const MAX_LIMITS: usize = 1_000;

impl Collector for RateLimits {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let rates = self.0.load().rates.clone();
        let mut counts: BTreeMap<(&str, &str, bool), u64> = BTreeMap::new();
        for (limit, over) in rates.counted() {
            let one = (&*limit.policy, &*limit.name, limit.dry_run);
            let other = ("other", "other", limit.dry_run);
            let is_told = counts.len() < MAX_LIMITS || counts.contains_key(&one);
            *counts.entry(if is_told { one } else { other }).or_default() += over;
        }
        let mut family = encoder.encode_descriptor(
            "mesh_agent_rate_limited",
            "Requests and connections that were over a rate limit, by TrafficPolicy and limit; in a dry run they passed",
            None,
            MetricType::Counter,
        )?;
        for ((policy, limit, dry_run), over) in counts {
            let labels = [
                ("policy", policy),
                ("limit", limit),
                ("dry_run", if dry_run { "true" } else { "false" }),
            ];
            ConstCounter::new(over).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::{Action, AuthorizationPolicy, Scope};

    #[test]
    fn the_hash_is_of_what_is_in_force_and_not_of_how_it_came() {
        let snapshot = |settings: &str, generation| {
            let mut snapshot = Snapshot::default();
            settings.clone_into(&mut snapshot.settings.root_namespace);
            snapshot.generation = generation;
            snapshot
        };
        let of = |snapshots: &[Snapshot]| {
            let mut known = Known::default();
            snapshots.iter().for_each(|snapshot| known.look(snapshot));
            known.hash
        };
        assert_eq!(of(&[snapshot("a", 1)]), of(&[snapshot("a", 9)]));
        assert_ne!(of(&[snapshot("a", 1)]), of(&[snapshot("b", 1)]));
        assert_eq!(of(&[snapshot("a", 1)]).len(), 12);
        let mut more = snapshot("a", 2);
        more.policies = vec![policy("shop"), policy("web")].into();
        let mut other = more.clone();
        other
            .policies
            .set("web".into(), vec![Arc::new(policy("db"))]);
        let all = [&more, &other].map(|s| of(std::slice::from_ref(s)));
        assert_ne!(all[0], all[1]);
        // By the way that they came there, it is the same.
        assert_eq!(of(&[snapshot("a", 1), more.clone(), other.clone()]), all[1]);
        assert_eq!(of(&[other, more]), all[0]);
    }

    fn policy(namespace: &str) -> AuthorizationPolicy {
        AuthorizationPolicy {
            namespace: namespace.to_owned(),
            name: "p".to_owned(),
            action: Action::Deny,
            dry_run: false,
            scope: Scope::Namespace,
            rules: Vec::new(),
            broken: None,
        }
    }
}
