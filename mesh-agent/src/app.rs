//! Builds the agent, in the order in which its parts need each other, and ends it.

mod doctor;
#[cfg(test)]
mod reference;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Status};
use crate::capture::{self, Capture};
use crate::config::{OnStop, Run};
use crate::discovery::{Directory, Update};
use crate::identity::{self, Identities};
use crate::model::SpiffeId;
use crate::model::policy::MeshSettings;
use crate::observe::explanation::Explanation;
use crate::observe::{AccessLogTarget, Observe};
use crate::project::Projector;
use crate::proxy::{self, Recheck, Workers};
use crate::sys::cgroup;
pub use doctor::doctor;

/// A pod that could not be enrolled is tried again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel's side is looked after: lost links, refusals.
const REFRESH: Duration = Duration::from_millis(500);

/// What the admin pages show; replaced by the control loop.
struct View {
    status: Mutex<Status>,
    stats: capture::Stats,
    observe: Observe,
    identities: Identities,
    explainer: proxy::Explainer,
}

const NO_SOURCE: &str = "no source of certificates (--ca-address or --identity-dir): connections between nodes are refused, but for ports that PeerAuthentication sets to DISABLE";

impl View {
    fn kernel(&self) -> Vec<(&'static str, u64)> {
        self.stats.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the kernel's counters");
            Vec::new()
        })
    }
}

impl admin::Source for View {
    fn status(&self) -> Status {
        let status = self.status.lock().clone();
        let source = self.identities.has_source();
        let mut status = with_identities(status, &self.identities.status(), source);
        let kernel: BTreeMap<_, _> = self.kernel().into_iter().collect();
        status.kernel = serde_json::json!(kernel);
        status
    }

    fn connections(&self, limit: usize) -> crate::observe::ConnectionList {
        self.observe.connections(limit)
    }

    fn explain(&self, question: &admin::Question) -> Result<Explanation, String> {
        let asked = (&*question.from, &*question.to, question.port);
        let certified = |id: &SpiffeId| self.identities.is_valid(id);
        let answer = self.explainer.explain(asked, &certified);
        answer.map_err(|why| why.to_string())
    }

    fn metrics(&self) -> String {
        self.observe.page(&self.kernel())
    }
}

/// The state of the certificates is asked for anew each time: only now it is
/// known whether all is well.
fn with_identities(mut status: Status, identities: &identity::Status, source: bool) -> Status {
    status.problems.extend(identities.problems.iter().cloned());
    if !source {
        status.problems.push(NO_SOURCE.to_owned());
    }
    status.identities = serde_json::json!(identities);
    status.degraded = status.ready && !status.problems.is_empty();
    status
}

/// Runs the agent until SIGTERM or SIGINT.
pub async fn run(flags: Run) -> anyhow::Result<()> {
    capture::check_privileges()?;
    let node = node_name(flags.node_name.as_deref())?;
    let capture_config = capture_config(&flags)?;
    let (directory, mut updates) = Directory::start(
        flags.config_dir.clone(),
        MeshSettings {
            root_namespace: flags.root_namespace.clone(),
        },
    )?;
    let admin = admin::bind(flags.metrics_addr, &flags.place.run_dir).await?;
    let observe = Observe::new(&node, access_log(&flags.access_log));
    let identities = Identities::start(flags.identity.config(&node));
    observe.register(|registry| identities.register(registry));
    let capture = Capture::start(&capture_config)?;
    let tuples = capture.tuples_handle()?;
    let stats = capture.stats()?;
    let workers = Workers::start(
        proxy_config(&flags),
        proxy::World {
            node: node.clone(),
            trust_domain: identities.trust_domain().clone(),
            published: directory.published.clone(),
            entered_pod: Arc::new(move |from, to| tuples.entered_pod(from, to)),
            observe: observe.clone(),
        },
    )?;
    let explainer = workers.explainer();
    let mut projector =
        Projector::new(node.clone(), capture, workers, identities.clone(), &observe)?;
    let view = Arc::new(View {
        status: Mutex::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node,
            problems: vec!["starting".to_owned()],
            ..Status::default()
        }),
        stats,
        observe,
        identities: identities.clone(),
        explainer,
    });
    let cancel = CancellationToken::new();
    let pages = tokio::spawn(admin::serve(admin, view.clone(), cancel.clone()));
    let watching = tokio::spawn(directory.run(cancel.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut refresh = tokio::time::interval(REFRESH);
    let mut trust = identities.trust_changes();
    updates.mark_changed();
    let mut retry: Option<tokio::time::Instant> = None;
    loop {
        let apply = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => { view.observe.reopen_log(); continue; }
            changed = updates.changed() => { changed?; true }
            changed = trust.changed() => {
                changed?;
                if let Some(trust) = identities.trust() {
                    projector.recheck(&Recheck::Trust(trust)).await;
                }
                false
            }
            _ = refresh.tick() => {
                retry.is_some_and(|at| at <= tokio::time::Instant::now())
                    || projector.have_pods_moved()
            }
        };
        if apply {
            let update = updates.borrow_and_update().clone();
            let whole = reconcile(&mut projector, &update, &view).await;
            retry = (!whole).then(|| tokio::time::Instant::now() + RETRY);
        }
        projector.restore();
        projector.log_refusals();
        view.status.lock().active_connections = projector.active_connections();
    }
    tracing::info!("stopping");
    view.status.lock().ready = false;
    let on_stop = match flags.on_stop {
        OnStop::Remove => capture::OnStop::Remove,
        OnStop::Keep => capture::OnStop::Keep,
    };
    projector.stop(flags.drain_timeout, on_stop).await?;
    identities.stop().await;
    cancel.cancel();
    let (pages, watching) = tokio::join!(pages, watching);
    pages.and(watching).context("end the control tasks")?;
    // Absent is fine.
    let _absent = std::fs::remove_file(admin::socket_path(&flags.place.run_dir));
    Ok(())
}

/// Applies an update; false when a pod could not be enrolled.
async fn reconcile(projector: &mut Projector, update: &Update, view: &View) -> bool {
    for problem in update.problems.iter() {
        tracing::warn!("{problem}");
    }
    // Before pods come and go: what is forbidden now ends first.
    projector.recheck(&Recheck::Policy).await;
    let pods = projector.apply(&update.snapshot).await;
    let whole = pods.iter().all(|p| p.enrolled);
    let mut status = view.status.lock();
    // Every wanted pod was tried: one that cannot be enrolled for a reason of
    // its own is shown, and does not keep the node from being used.
    status.ready = true;
    status.generation = update.snapshot.generation;
    status.problems = update.problems.iter().map(ToString::to_string).collect();
    status.problems.extend(update.policy.problems());
    for pod in &pods {
        if let Some(message) = &pod.message {
            status
                .problems
                .push(format!("Pod {} is not enrolled: {message}", pod.pod));
        }
        if let Some(warning) = &pod.warning {
            status.problems.push(format!("Pod {}: {warning}", pod.pod));
        }
    }
    status.policies = update.policy.status().len();
    status.pods = serde_json::json!(pods);
    whole
}

/// Removes what agents left; gives the number of pods whose rules were removed.
pub fn cleanup(bpffs_dir: &std::path::Path) -> anyhow::Result<usize> {
    use crate::sys::{netns, route};
    let cookies = capture::cleanup(bpffs_dir)?;
    let namespaces = netns::find(&cookies);
    for namespace in &namespaces {
        route::remove(namespace)?;
    }
    Ok(namespaces.len())
}

fn node_name(flag: Option<&str>) -> anyhow::Result<String> {
    match flag {
        Some(name) => Ok(name.to_owned()),
        None => {
            let name =
                nix::unistd::gethostname().context("read the host name; give --node-name")?;
            Ok(name.to_string_lossy().into_owned())
        }
    }
}

fn capture_config(flags: &Run) -> anyhow::Result<capture::Config> {
    let cgroup_root = match &flags.cgroup_root {
        Some(dir) => dir.clone(),
        None => cgroup::cgroup2_mount()?,
    };
    if !cgroup::is_cgroup2(&cgroup_root) {
        anyhow::bail!(
            "{} is not a directory of a cgroup2 mount; `mesh-agent doctor` shows where one is, give it as --cgroup-root",
            cgroup_root.display()
        );
    }
    let agent_cgroup = match &flags.agent_cgroup {
        Some(dir) => dir.clone(),
        None => {
            let own = cgroup::own_cgroup().context("find the agent's own cgroup")?;
            // Exempting the root would exempt everything that is in it.
            if own.components().eq(cgroup_root.components()) {
                cgroup_root.join("mesh-agent")
            } else {
                own
            }
        }
    };
    cgroup::enter(&agent_cgroup)
        .with_context(|| format!("enter the cgroup {}", agent_cgroup.display()))?;
    Ok(capture::Config {
        bpffs_dir: flags.place.bpffs_dir.clone(),
        cgroup_root,
        agent_cgroup,
        probe_cgroups: flags.probe_cgroup.clone(),
        guard_cgroups: flags.guard_cgroup.clone(),
    })
}

fn access_log(flag: &str) -> AccessLogTarget {
    match flag {
        "off" => AccessLogTarget::Off,
        "-" => AccessLogTarget::Stdout,
        path => AccessLogTarget::File(PathBuf::from(path)),
    }
}

fn proxy_config(flags: &Run) -> proxy::Config {
    let defaults = proxy::Config::default();
    proxy::Config {
        workers: flags.workers.unwrap_or(defaults.workers),
        connect_timeout: flags.connect_timeout,
        idle_timeout: flags.idle_timeout,
        max_connections: flags.max_connections,
        max_connections_per_pod: flags.max_connections_per_pod,
        handshake_timeout: flags.handshake_timeout,
        same_node_tls: flags.same_node_tls,
        delivery_ports: flags.delivery_ports.clone(),
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_the_certificates_alone_makes_the_agent_degraded() {
        let identities = |problems| identity::Status {
            trust_domain: "cluster.local".to_owned(),
            source: "ca",
            trust_generation: 1,
            problems,
            identities: vec![],
        };
        let of = |ready, problems, source| {
            let status = Status {
                ready,
                ..Status::default()
            };
            with_identities(status, &identities(problems), source).degraded
        };
        assert!(!of(true, vec![], true));
        assert!(of(true, vec!["no valid certificate".to_owned()], true));
        assert!(of(true, vec![], false), "no source is a problem");
        assert!(
            !of(false, vec!["starting".to_owned()], true),
            "not ready says more"
        );
    }
}
